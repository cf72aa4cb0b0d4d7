// Random calls of several clients while the daemon is killed again and again: no running
// container is harmed, no exit code and no line of a log is lost, no call fails but those
// that a kill has cut off, each of these succeeds when it is made again, and at the end
// nothing is left.
//
//   npm run test:churn                        200 kills, about 15 minutes
//   CHURN_KILLS=1000 CHURN_SEED=7 npm run test:churn
import { status as Code, type ServiceError } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { randomInt } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { WebSocket } from 'ws';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { makeLayout } from '../helpers/image.js';
import { patience } from '../helpers/patience.js';
import { startRegistry, type Registry } from '../helpers/registry.js';
import {
  containerConfig,
  podConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';

const kills = Number(process.env['CHURN_KILLS'] ?? 4);
const seed = Number(process.env['CHURN_SEED'] ?? randomInt(2 ** 31));
const workers = 4;
const witnesses = 3;

/** Mulberry32: the same calls again for the same seed, as far as the kills come at the same moments. */
let state = seed;
function random(below: number): number {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
}

let daemon: Daemon;
let registry: Registry;
let folder: string;
let pulled: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-churn-'));
  registry = await startRegistry(join(folder, 'registry'));
  pulled = await registry.push(await makeLayout(folder, { layers: [{ file: 'content' }] }), 'churn:1');
  daemon = await startDaemon({ config: { log_level: 'info', runtime: { unclaimed_seconds: 2 } } });
  await daemon.addImage(testImage);
});
afterAll(async () => {
  await daemon?.destroy();
  await registry?.close();
  await rm(folder, { recursive: true, force: true });
});

const figures = { kills: 0, calls: 0, cutOff: 0, exitCodes: 0, attaches: 0 };
const started = performance.now();
const tell = (): void =>
  void process.stderr.write(
    `churn: ${JSON.stringify({ seed, ...figures, seconds: Math.round((performance.now() - started) / 1000) })}\n`,
  );
let over = false;

const cutOffCodes = [Code.UNAVAILABLE, Code.CANCELLED];
function isCutOff(error: ServiceError): boolean {
  return cutOffCodes.includes(error.code) && !/^[A-Z]\w+: /.test(error.details); // the daemon's own errors begin with their id
}

/** Makes a call until it is answered; the daemon may be killed meanwhile. */
async function made<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    figures.calls++;
    try {
      return await call();
    } catch (error) {
      if (!isCutOff(error as ServiceError)) throw error;
      figures.cutOff++;
      await sleep(20);
    }
  }
}

const stateOf = async (id: string) =>
  (await made(() => daemon.client.runtime.ContainerStatus({ container_id: id }))).status;

/** A start whose answer was cut off cannot be made twice. */
const start = (id: string) =>
  made(() =>
    daemon.client.runtime.StartContainer({ container_id: id }).catch((error: ServiceError) => {
      if (!/it is CONTAINER_(RUNNING|EXITED)/.test(error.message)) throw error;
    }),
  );

/** Follows the terminal of a container for a moment, and changes its size. */
async function attach(id: string): Promise<void> {
  const { url } = await made(() =>
    daemon.client.runtime.Attach({ container_id: id, stdin: true, stdout: true, tty: true }),
  );
  const socket = new WebSocket(url.replace('http', 'ws'), 'v4.channel.k8s.io');
  socket.on('error', () => undefined); // the daemon was killed
  socket.once('open', () => {
    figures.attaches++;
    for (let count = random(5); count >= 0; count--)
      socket.send(Buffer.from(`\x04${JSON.stringify({ Width: 20 + random(100), Height: 10 + random(50) })}`));
    socket.send(Buffer.from('\x00\r'));
  });
  await sleep(random(200));
  socket.terminate();
}

/** A container from its creation to its removal, in a pod that is there. */
async function liveContainer(pod: Awaited<ReturnType<typeof runPod>>, name: string): Promise<void> {
  const { runtime } = daemon.client;
  const code = random(200);
  const endsItself = random(2) === 0;
  const tty = random(3) === 0;
  const config = containerConfig(endsItself ? `sleep 0.${random(9)}; exit ${code}` : untilStopped(code), {
    metadata: { name },
    log_path: `${name}.log`,
    ...(tty ? { tty, stdin: true } : {}),
  });
  const { container_id: id } = await made(() =>
    runtime.CreateContainer({ pod_sandbox_id: pod.id, config, sandbox_config: pod.config }),
  );
  if (random(10) > 0) {
    await start(id);
    if (!endsItself) {
      for (let count = random(4); count > 0; count--) {
        if (tty) await attach(id);
        const { stdout, exit_code } = await made(() =>
          runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', 'echo well; exit 3'] }),
        );
        expect([stdout.toString(), exit_code]).toEqual(['well\n', 3]);
        await made(() =>
          runtime.UpdateContainerResources({
            container_id: id,
            linux: { cpu_shares: String(2 + random(1000)) },
          }),
        );
      }
      await made(() => runtime.StopContainer({ container_id: id, timeout: '30' }));
    }
    for (let status = await stateOf(id); ; status = await stateOf(id)) {
      if (status?.state !== 'CONTAINER_EXITED') {
        await sleep(50);
        continue;
      }
      expect([name, status.exit_code, status.reason]).toEqual([
        name,
        code,
        code === 0 ? 'Completed' : 'Error',
      ]);
      figures.exitCodes++;
      break;
    }
  }
  if (random(3) > 0) await made(() => runtime.RemoveContainer({ container_id: id }));
}

/** One client: pods with containers, and now and then an image. */
async function work(): Promise<void> {
  const { runtime, image } = daemon.client;
  for (let round = 0; !over; round++) {
    if (random(4) === 0) {
      await made(() => image.PullImage({ image: { image: pulled } }));
      await made(() => image.RemoveImage({ image: { image: pulled } }));
    }
    const config = podConfig(daemon, {
      ...(random(3) === 0
        ? {
            port_mappings: [
              { protocol: 'TCP' as const, container_port: 80, host_port: 20_000 + randomInt(10_000) },
            ],
          }
        : {}),
      linux: { security_context: { namespace_options: { pid: random(3) === 0 ? 'POD' : 'CONTAINER' } } },
    });
    const { pod_sandbox_id: id } = await made(() => runtime.RunPodSandbox({ config }));
    for (let count = random(3); count >= 0; count--)
      await liveContainer({ id, config }, `c${round}-${count}`);
    if (random(2) === 0) await made(() => runtime.StopPodSandbox({ pod_sandbox_id: id }));
    await made(() => runtime.StopPodSandbox({ pod_sandbox_id: id }));
    await made(() => runtime.RemovePodSandbox({ pod_sandbox_id: id }));
  }
}

async function killAgainAndAgain(): Promise<void> {
  try {
    while (!over && figures.kills < kills) {
      await sleep(100 + random(1200));
      await daemon.kill9();
      figures.kills++;
      await daemon.start();
      await daemon.untilAnswers();
      if (figures.kills % 20 === 0) tell();
    }
  } finally {
    over = true;
  }
}

test(
  `${kills} kills of the daemon, with the seed ${seed}`,
  async () => {
    const clean = await daemon.traces();
    const pod = await runPod(daemon);
    const running = await Promise.all(
      Array.from({ length: witnesses }, async (_, index) => {
        const id = await startContainer(
          daemon,
          pod,
          containerConfig('n=0; while :; do echo $((n += 1)); sleep 0.05; done', {
            metadata: { name: `witness-${index}` },
            log_path: `witness-${index}.log`,
          }),
        );
        return { id, startedAt: (await stateOf(id))?.started_at };
      }),
    );

    // A client that fails ends them all.
    const clients = Array.from({ length: workers }, () =>
      work().catch((error: unknown) => {
        over = true;
        throw new Error(`with the seed ${seed}: ${(error as Error).message}`, { cause: error });
      }),
    );
    const outcomes = await Promise.allSettled([killAgainAndAgain(), ...clients]);
    expect(outcomes.flatMap((one) => (one.status === 'rejected' ? [one.reason as Error] : []))).toEqual([]);
    expect(figures.kills).toBe(kills);

    for (const [index, { id, startedAt }] of running.entries()) {
      expect(await stateOf(id)).toMatchObject({ state: 'CONTAINER_RUNNING', started_at: startedAt });
      const log = await readFile(join(pod.config.log_directory ?? '', `witness-${index}.log`), 'utf8');
      const lines = log.trim().split('\n').slice(0, -1); // the last may be half written
      expect(lines.map((line) => Number(line.split(' ')[3]))).toEqual(lines.map((_, at) => at + 1));
      expect(lines.length).toBeGreaterThan(kills);
    }
    await removePod(daemon, pod.id);
    // What nobody came back for is removed after a while.
    for (const until = Date.now() + 20_000 * patience; Date.now() < until; await sleep(200))
      if (isDeepStrictEqual(await daemon.traces(), clean)) break;
    expect(await daemon.traces()).toEqual(clean);
    tell();
    expect(figures.exitCodes).toBeGreaterThan(0);
  },
  (60_000 + kills * 20_000) * patience,
);

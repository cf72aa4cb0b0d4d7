// Random calls of several clients while the daemon is killed again and again: no running
// container is harmed, no exit code and no line of a log is lost, no call fails but those
// that a kill has cut off, each of these succeeds when it is made again, and at the end
// nothing is left.
//
//   npm run test:churn                        200 kills, about 15 minutes
//   CHURN_KILLS=1000 CHURN_SEED=7 npm run test:churn
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { randomInt } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { Churn } from '../helpers/churn.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { makeLayout } from '../helpers/image.js';
import { patience } from '../helpers/patience.js';
import { startRegistry, type Registry } from '../helpers/registry.js';
import { containerConfig, removePod, runPod, startContainer, testImage } from '../helpers/requests.js';

const kills = Number(process.env['CHURN_KILLS'] ?? 4);
const seed = Number(process.env['CHURN_SEED'] ?? randomInt(2 ** 31));
const workers = 4;
const witnesses = 3;

let daemon: Daemon;
let registry: Registry;
let folder: string;
let churn: Churn;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-churn-'));
  registry = await startRegistry(join(folder, 'registry'));
  const pulled = await registry.push(await makeLayout(folder, { layers: [{ file: 'content' }] }), 'churn:1');
  daemon = await startDaemon({ config: { log_level: 'info', runtime: { unclaimed_seconds: 2 } } });
  await daemon.addImage(testImage);
  churn = new Churn(daemon, pulled, seed);
});
afterAll(async () => {
  await daemon?.destroy();
  await registry?.close();
  await rm(folder, { recursive: true, force: true });
});

let killed = 0;
const started = performance.now();
const tell = (): void =>
  void process.stderr.write(
    `churn: ${JSON.stringify({ seed, kills: killed, ...churn.figures, seconds: Math.round((performance.now() - started) / 1000) })}\n`,
  );

async function killAgainAndAgain(): Promise<void> {
  try {
    while (!churn.over && killed < kills) {
      await sleep(100 + churn.random(1200));
      await daemon.kill9();
      killed++;
      await daemon.start();
      await daemon.untilAnswers();
      if (killed % 20 === 0) tell();
    }
  } finally {
    churn.over = true;
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
        return { id, startedAt: (await churn.stateOf(id))?.started_at };
      }),
    );

    const outcomes = await Promise.allSettled([killAgainAndAgain(), ...churn.clients(workers)]);
    expect(outcomes.flatMap((one) => (one.status === 'rejected' ? [one.reason as Error] : []))).toEqual([]);
    expect(killed).toBe(kills);

    for (const [index, { id, startedAt }] of running.entries()) {
      expect(await churn.stateOf(id)).toMatchObject({ state: 'CONTAINER_RUNNING', started_at: startedAt });
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
    expect(churn.figures.exitCodes).toBeGreaterThan(0);
  },
  (60_000 + kills * 20_000) * patience,
);

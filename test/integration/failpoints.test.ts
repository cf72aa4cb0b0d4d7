// kill -9 at every step of every call that makes, changes or removes something,
// and of the recovery: after a restart the same call succeeds, and a removal
// leaves nothing.  The steps are those that the daemon goes through and those
// that its source names, so that a new one is walked without being listed here.
//
//   FAILPOINT_HANDLERS=crun,runc npm run integration -- --testPathPatterns failpoints
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { makeLayout } from '../helpers/image.js';
import { patience } from '../helpers/patience.js';
import { startRegistry, type Registry } from '../helpers/registry.js';
import { containerConfig, podConfig, removePod, testImage, untilStopped } from '../helpers/requests.js';
import { writePlugin } from '../helpers/stand-ins.js';
import { stepsOfSource } from '../helpers/steps.js';

/** Steps that no scenario here goes through, with the reason. */
const elsewhere = new Map([
  ['write bundle', 'a command, not the daemon'],
  ['create standalone container', 'a command, not the daemon'],
  ['make guest', 'a command, not the daemon'],
  ['create CT', 'a CT, not a container of an OCI runtime'],
  ['start CT', 'a CT, not a container of an OCI runtime'],
  ['update CT', 'a CT, not a container of an OCI runtime'],
  ['remove CT', 'a CT, not a container of an OCI runtime'],
  ['write checkpoint', 'needs CRIU, which most hosts lack'],
  ['pull image: sweep', 'needs a registry that breaks in a layer: images-failures.test.ts'],
]);

const handlers = (process.env['FAILPOINT_HANDLERS'] ?? 'crun').split(',');
const walked = new Set<string>();

let daemon: Daemon;
let registry: Registry;
let folder: string;
let failpoint: string;
let pluginFault: string;
let pulled: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-failpoints-'));
  failpoint = join(folder, 'failpoint');
  pluginFault = join(folder, 'plugin-fault');
  await writeFile(failpoint, '');
  await writeFile(pluginFault, '');
  const bin = join(folder, 'bin');
  await mkdir(bin);
  await writePlugin(join(bin, 'faulty'), {
    add: `[ "$(cat ${pluginFault})" != ADD ] || { echo '{"code":7,"msg":"cannot ADD"}'; exit 1; }`,
  });
  registry = await startRegistry(join(folder, 'registry'));
  pulled = await registry.push(await makeLayout(folder, { layers: [{ file: 'content' }] }), 'pulled:1');
  daemon = await startDaemon({
    env: { CRISP_FAILPOINT: failpoint },
    config: { network: { bin_dirs: [bin, '/opt/cni/bin', '/usr/lib/cni'] } },
  });
  const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
  await daemon.writeConflist({ ...rest, plugins: [...plugins, { type: 'faulty' }] });
  await daemon.addImage(testImage);
  await daemon.restart();
});
afterAll(async () => {
  await daemon?.destroy();
  await registry?.close();
  await rm(folder, { recursive: true, force: true });
});

/** What a scenario has got so far. */
interface World {
  readonly handler: string;
  readonly config: ReturnType<typeof podConfig>;
  pod: string;
  container: string;
}
/** The same call, whenever it is made. */
type Call = (world: World) => Promise<unknown>;

const runPod: Call = async (world) => {
  world.pod = (
    await daemon.client.runtime.RunPodSandbox({ config: world.config, runtime_handler: world.handler })
  ).pod_sandbox_id;
};
const container = (name: string, more: Partial<ReturnType<typeof containerConfig>> = {}) =>
  containerConfig(untilStopped(), {
    metadata: { name },
    mounts: [{ image: { image: testImage }, container_path: '/image', readonly: true }],
    ...more,
  });
const create =
  (name: string, more: Partial<ReturnType<typeof containerConfig>> = {}): Call =>
  async (world) => {
    world.container = (
      await daemon.client.runtime.CreateContainer({
        pod_sandbox_id: world.pod,
        config: container(name, more),
        sandbox_config: world.config,
      })
    ).container_id;
  };
const stateOf = async (id: string) =>
  (await daemon.client.runtime.ContainerStatus({ container_id: id })).status?.state;
/** A start that came to its end before its answer is one that cannot be made twice. */
const start: Call = ({ container: id }) =>
  daemon.client.runtime.StartContainer({ container_id: id }).catch(async (error: Error) => {
    if (!/it is CONTAINER_RUNNING/.test(error.message) || (await stateOf(id)) !== 'CONTAINER_RUNNING')
      throw error;
  });
const update: Call = ({ container: id }) =>
  daemon.client.runtime.UpdateContainerResources({ container_id: id, linux: { cpu_shares: '512' } });
const stop: Call = ({ container: id }) =>
  daemon.client.runtime.StopContainer({ container_id: id, timeout: '1' });
const stopByForce: Call = ({ container: id }) =>
  daemon.client.runtime.StopContainer({ container_id: id, timeout: '0' });
const removeContainer: Call = ({ container: id }) =>
  daemon.client.runtime.RemoveContainer({ container_id: id });
const stopPod: Call = ({ pod }) => daemon.client.runtime.StopPodSandbox({ pod_sandbox_id: pod });
const removePodOf: Call = ({ pod }) => daemon.client.runtime.RemovePodSandbox({ pod_sandbox_id: pod });
const pull: Call = () => daemon.client.image.PullImage({ image: { image: pulled } });
const removeImage: Call = () => daemon.client.image.RemoveImage({ image: { image: pulled } });
/** A call that is refused all the same: what it has made is taken back. */
const refused =
  (call: Call, message: RegExp): Call =>
  async (world) => {
    const error = (await call(world).then(
      () => new Error('it was not refused'),
      (failure: unknown) => failure,
    )) as Error;
    if (!message.test(error.message)) throw error;
  };
const withPluginFault =
  (call: Call): Call =>
  async (world) => {
    await writeFile(pluginFault, 'ADD');
    try {
      await call(world);
    } finally {
      await writeFile(pluginFault, '');
    }
  };

const inUserNamespace = 'a pod in a user namespace';
const scenarios: Record<string, readonly Call[]> = {
  'the life of a pod': [
    runPod,
    create('main'),
    start,
    update,
    stop,
    removeContainer,
    create('other'),
    start,
    stopByForce,
    stopPod,
    removePodOf,
  ],
  [inUserNamespace]: [runPod, create('main'), start, stopPod, removePodOf],
  'creations that are taken back': [
    withPluginFault(refused(runPod, /cannot ADD/)),
    runPod,
    refused(create('main', { command: ['no-such-program'] }), /no-such-program/),
    stopPod,
    removePodOf,
  ],
  'an image': [
    pull,
    removeImage,
    refused(() => daemon.client.image.PullImage({ image: { image: `${pulled}-no` } }), /NotFoundInRegistry/),
  ],
};

const newWorld = (handler: string, scenario = ''): World => ({
  handler,
  config: podConfig(daemon, {
    port_mappings: [
      { protocol: 'TCP', container_port: 80, host_port: 20_000 + Math.floor(Math.random() * 10_000) },
    ],
    linux: {
      security_context: {
        namespace_options: {
          pid: 'POD',
          ...(scenario === inUserNamespace ? { userns_options: { mode: 'POD', uids: ids, gids: ids } } : {}),
        },
      },
    },
  }),
  pod: '',
  container: '',
});
const ids = [{ container_id: 0, host_id: 100_000, length: 65_536 }];

/** The steps that the daemon goes through meanwhile, in order, each once. */
async function stepsIn(work: () => Promise<unknown>): Promise<string[]> {
  const before = daemon.entries().length;
  await work();
  const steps = daemon
    .entries()
    .slice(before)
    .flatMap(({ msg, step }) => (msg === 'step' ? [String(step)] : []));
  return [...new Set(steps)];
}

/** Has ended by the failpoint; the tests hold nothing that was not killed. */
async function untilKilled(): Promise<void> {
  const until = Date.now() + 20_000 * patience;
  while (daemon.isAlive()) {
    if (Date.now() > until) throw new Error('the daemon was not killed');
    await sleep(5);
  }
  await daemon.kill9();
}

async function restart(): Promise<void> {
  await writeFile(failpoint, '');
  await daemon.start();
  await daemon.untilAnswers();
}

async function removeEverything(): Promise<void> {
  for (const { id } of (await daemon.client.runtime.ListPodSandbox({})).items) await removePod(daemon, id);
  await daemon.client.image.RemoveImage({ image: { image: pulled } });
}

describe.each(handlers)('on %s', (handler) => {
  const walkedHere = new Set<string>();
  test.each(Object.entries(scenarios))(
    '%s',
    async (name, calls) => {
      const clean = await daemon.traces();
      const world = newWorld(handler, name);
      const steps = await stepsIn(async () => {
        for (const call of calls) await call(world);
      });
      expect(steps.length).toBeGreaterThan(3);
      expect(await daemon.traces()).toEqual(clean);
      for (const step of steps) {
        if (walkedHere.has(step)) continue; // by the scenarios before
        walkedHere.add(step);
        walked.add(step);
        await writeFile(failpoint, step);
        const again = newWorld(handler, name);
        for (const call of calls) {
          const failure = await call(again).then(
            () => undefined,
            (error: unknown) => error as Error,
          );
          if (failure === undefined) continue;
          await untilKilled();
          await restart();
          await call(again).catch((error: unknown) => {
            throw new Error(`after ${step}, the same call again`, { cause: error });
          });
          break;
        }
        expect([step, readFileSync(failpoint, 'utf8')]).toEqual([step, '']); // it was killed
        await removeEverything();
        expect([step, ...(await daemon.traces())]).toEqual([step, ...clean]);
      }
    },
    600_000 * patience,
  );

  test(
    'the recovery',
    async () => {
      const clean = await daemon.traces();
      const world = newWorld(handler);
      await runPod(world);
      await create('main')(world);
      await start(world);
      const main = world.container;
      const cutOff = async (): Promise<void> => {
        await writeFile(failpoint, 'create OCI container: done');
        await expect(create('half')(world)).rejects.toThrow();
        await untilKilled();
      };
      await cutOff();
      const steps = (await stepsIn(restart)).filter((step) => step.startsWith('recover: '));
      expect(steps.length).toBeGreaterThan(5);
      for (const step of steps) {
        walked.add(step);
        await cutOff();
        await writeFile(failpoint, step);
        await expect(daemon.start()).rejects.toThrow('crisp is not ready');
        await untilKilled();
        await restart();
        expect([step, await stateOf(main)]).toEqual([step, 'CONTAINER_RUNNING']);
        await create('half')(world);
        await removeContainer(world);
      }
      await removePod(daemon, world.pod);
      expect(await daemon.traces()).toEqual(clean);
    },
    600_000 * patience,
  );
});

test('no step of the source is forgotten', async () => {
  const known = await stepsOfSource();
  expect(known.length).toBeGreaterThan(30);
  const isElsewhere = (step: string): boolean =>
    elsewhere.has(step) || elsewhere.has(step.split(':')[0] ?? '');
  expect(known.filter((step) => !walked.has(step) && !isElsewhere(step))).toEqual([]);
});

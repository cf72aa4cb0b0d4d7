// kill -9 at any time: answered calls are kept, and others leave nothing behind.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  testImage,
  untilStopped,
} from '../helpers/requests.js';
import { Gate, writeRuntime, writeWrapper } from '../helpers/stand-ins.js';
import { eventually } from '../helpers/wait.js';

const crisp = fileURLToPath(new URL('../../bin/crisp', import.meta.url));

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

interface Answered {
  pods: string[];
  containers: string[];
  started: string[];
}

/** Makes a pod with a container, and notes each step once it is answered; the crash ends it somewhere. */
async function makePod(answered: Answered): Promise<void> {
  const pod = await runPod(daemon, {
    port_mappings: [
      { protocol: 'TCP', container_port: 80, host_port: 20_000 + Math.floor(Math.random() * 10_000) },
    ],
  });
  answered.pods.push(pod.id);
  const container = await createContainer(daemon, pod, containerConfig(untilStopped()));
  answered.containers.push(container);
  await daemon.client.runtime.StartContainer({ container_id: container });
  answered.started.push(container);
}

async function restart(): Promise<void> {
  await daemon.start();
  await daemon.untilAnswers();
}

/** The probes are kept for the boot; without them the next start probes again. */
async function forgetProbes(): Promise<void> {
  await rm(join(`/proc/${daemon.machine.pid}/root`, daemon.state, 'probed'), { recursive: true });
}

/** The calls that were answered when the daemon was killed; the other pods are incomplete then. */
test.each<[string, number, (answered: Answered) => boolean]>([
  ['its first pod', 6, ({ pods }) => pods.length > 0],
  ['its first container', 6, ({ containers }) => containers.length > 0],
  ['its first start', 8, ({ started }) => started.length > 0],
  ['two pods', 6, ({ pods }) => pods.length > 1],
  ['two containers', 8, ({ containers }) => containers.length > 1],
  ['two starts', 8, ({ started }) => started.length > 1],
  ['four pods and a start', 8, ({ pods, started }) => pods.length > 3 && started.length > 0],
])('after the answer to %s', async (_, count, isTime) => {
  const before = await daemon.traces();
  const answered: Answered = { pods: [], containers: [], started: [] };
  let isOver = false;
  const making = Promise.allSettled(Array.from({ length: count }, () => makePod(answered))).then((all) => {
    isOver = true;
    return all;
  });
  while (!isTime(answered) && !isOver) await sleep(1);
  await daemon.kill9();
  const outcomes = await making;
  expect({ answered, isTime: isTime(answered) }).toMatchObject({ isTime: true });
  expect(outcomes.map(({ status }) => status)).toContain('rejected'); // some were not done
  await restart();

  const { runtime } = daemon.client;
  const { items } = await runtime.ListPodSandbox({});
  const { containers } = await runtime.ListContainers({});
  expect(items.filter(({ state }) => state === 'SANDBOX_READY').map(({ id }) => id)).toEqual(
    expect.arrayContaining(answered.pods),
  );
  expect(containers.map(({ id }) => id)).toEqual(expect.arrayContaining(answered.containers));
  expect(containers.filter(({ state }) => state === 'CONTAINER_RUNNING').map(({ id }) => id)).toEqual(
    expect.arrayContaining(answered.started),
  );
  for (const { id } of items) await removePod(daemon, id);
  await expect(daemon.traces()).resolves.toEqual(before);
});

/** Both ways of removing files without a record: while the daemon runs, and at its start. */
test.each<[string, () => Promise<unknown>]>([
  ['crisp gc', () => daemon.machine.must([process.execPath, crisp, 'gc', '--config', daemon.configFile])],
  ['the next start', () => daemon.restart()],
])('an image volume without its container is removed by %s', async (_, collect) => {
  const before = await daemon.traces();
  const used = await runPod(daemon);
  const id = await createContainer(daemon, used, {
    ...containerConfig(untilStopped()),
    mounts: [{ container_path: '/image', readonly: true, image: { image: testImage } }],
  });
  const view = (name: string): string => join(daemon.state, 'views', name, 'fs');
  const lost = `${'0'.repeat(64)}-0`;
  await daemon.machine.must(['mkdir', '-p', view(lost)]);
  await daemon.machine.must(['mount', '-t', 'tmpfs', 'tmpfs', view(lost)]);
  const views = async (): Promise<string[]> =>
    (await daemon.machine.mounts()).filter((path) => path.startsWith(join(daemon.state, 'views')));
  expect((await views()).sort()).toEqual([view(lost), view(`${id}-0`)].sort());
  await collect();
  expect(await views()).toEqual([view(`${id}-0`)]);
  expect(readdirSync(daemon.machine.path(join(daemon.state, 'views')))).toEqual([`${id}-0`]);
  await removePod(daemon, used.id);
  expect(await daemon.traces()).toEqual(before);
});

/** The files of the probes at the time of the kill. */
test.each(['', 'config.json', 'pid'])('while its probes are at work, after "%s" of one', async (file) => {
  const folder = join(`/proc/${daemon.machine.pid}/root`, daemon.state, 'probe');
  const probes = (): string[] =>
    ['crun', 'runc'].flatMap((name) => readdirSync(join(folder, name)).map((id) => join(folder, name, id)));
  const before = await daemon.traces();
  await daemon.stop();
  await forgetProbes();
  let isReady = false;
  const starting = daemon.start().then(
    () => (isReady = true),
    () => undefined,
  );
  while (!probes().some((probe) => existsSync(join(probe, file)))) {
    if (isReady) throw new Error('the probes were over before they were seen');
    await sleep(1);
  }
  await daemon.kill9();
  await starting;
  expect(probes().length).toBeGreaterThan(0);
  await restart();
  expect(await daemon.traces()).toEqual(before);
});

/** Programs that are still at work when the daemon is back. */
test.each<[string, object]>([
  ['a CNI plugin', { network: { bin_dirs: ['BIN', '/usr/lib/cni'] } }],
  ['the runtime', { handlers: { slow: { type: 'oci', path: 'BIN/crun' } }, default_container_type: 'slow' }],
])('while %s is at work', async (_, config) => {
  const bin = join(daemon.folder, 'bin');
  const gate = new Gate(join(bin, 'gate'));
  await mkdir(bin, { recursive: true });
  await writeWrapper(
    join(bin, 'bridge'),
    '/usr/lib/cni/bridge',
    `case $CNI_COMMAND in ADD) ${gate.script} ;; esac`,
  );
  await writeRuntime(join(bin, 'crun'), `case " $* " in *" create "*) ${gate.script} ;; esac`);
  await daemon.writeConfig(
    JSON.parse(JSON.stringify(config).replaceAll('BIN', bin)) as Record<string, unknown>,
  );
  await daemon.restart();
  const before = await daemon.traces();

  const making = makePod({ pods: [], containers: [], started: [] });
  await Promise.race([gate.reached(), making]);
  await daemon.kill9();
  await expect(making).rejects.toThrow();
  const back = daemon.logged((line) => line.includes('the pod network is ready'));
  const restarted = restart();
  await back;
  await gate.open();
  await restarted;
  for (const { id } of (await daemon.client.runtime.ListPodSandbox({})).items) await removePod(daemon, id);
  await gate.close();
  await eventually(async () => expect(await daemon.traces()).toEqual(before));
});

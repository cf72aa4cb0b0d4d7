// Only a pod with one pid namespace for all its containers has a process of its own,
// the holder. Its arguments do not name the pod, so its end is checked by pid.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { crisp, startDaemon, type Daemon } from '../helpers/daemon.js';
import { identify, parentOf } from '../../src/host/proc.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  testImage,
  waitForExit,
} from '../helpers/requests.js';

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

const options = { network: 'POD', ipc: 'POD', pid: 'POD' } as const;

async function holderOf(sandboxId: string): Promise<number> {
  const { info } = await daemon.client.runtime.PodSandboxStatus({ pod_sandbox_id: sandboxId, verbose: true });
  const { namespaces } = JSON.parse(String(info?.['info'])) as { namespaces: { pid: string } };
  return Number(/^\/proc\/(\d+)\/ns\/pid$/.exec(namespaces.pid)?.[1]);
}

test.each([
  ['stays up', async () => undefined],
  [
    'is killed and started again',
    async () => {
      await daemon.kill9();
      await daemon.start();
    },
  ],
])('the holder ends with its pod when crisp %s', async (_, meanwhile) => {
  const pod = await runPod(daemon, { linux: { security_context: { namespace_options: options } } });
  const one = await startContainer(
    daemon,
    pod,
    containerConfig('sleep 1000', {
      metadata: { name: 'one' },
      linux: { security_context: { namespace_options: options } },
    }),
  );
  const holder = await holderOf(pod.id);
  expect(await identify(holder)).toBeDefined();
  const seen = await daemon.client.runtime.ExecSync({
    container_id: one,
    cmd: ['cat', '/proc/1/comm'],
    timeout: '10',
  });
  expect(String(seen.stdout)).toBe('catatonit\n');
  await meanwhile();
  await removePod(daemon, pod.id);
  expect(await identify(holder)).toBeUndefined();
});

test('the holder of an incomplete pod is removed at the next start', async () => {
  const clean = await daemon.traces();
  const pod = await runPod(daemon, { linux: { security_context: { namespace_options: options } } });
  const holder = await holderOf(pod.id);
  await daemon.kill9();
  // The record as it stood between the intent and the end of the story.
  const path = daemon.machine.path(join(daemon.state, 'sandboxes', `${pod.id}.json`));
  const {
    holder: _,
    attachment: __,
    ...intent
  } = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  await writeFile(path, JSON.stringify({ ...intent, complete: false }));
  await daemon.start();
  expect(await identify(holder)).toBeUndefined();
  expect((await daemon.client.runtime.ListPodSandbox({})).items).toEqual([]);
  expect(await daemon.traces()).toEqual(clean);
});

test('a pod whose holder has ended is not ready, and can be replaced', async () => {
  const { runtime } = daemon.client;
  const clean = await daemon.traces();
  const linux = { security_context: { namespace_options: options } };
  const named = (name: string) => containerConfig('sleep 1000', { metadata: { name }, linux });
  const pods = [await runPod(daemon, { linux }), await runPod(daemon, { linux })] as const;
  for (const pod of pods) {
    const one = await startContainer(daemon, pod, named('one'));
    const created = await createContainer(daemon, pod, named('created'));
    await runtime.ExecSync({ container_id: one, cmd: ['kill', '1'], timeout: '10' });
    for (const id of [one, created]) expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 137 });
  }
  // The first call detects it: the next attempt of a container, or a status of the pod.
  await expect(createContainer(daemon, pods[0], named('two'))).rejects.toThrow(/SandboxNotReady/);
  expect((await runtime.ListPodSandbox({})).items).toMatchObject([
    { state: 'SANDBOX_NOTREADY' },
    { state: 'SANDBOX_NOTREADY' },
  ]);
  const { status } = await runtime.PodSandboxStatus({ pod_sandbox_id: pods[0].id });
  expect(status).toMatchObject({ state: 'SANDBOX_NOTREADY', network: { ip: '' } });

  const next = await runPod(daemon, { linux, metadata: { ...pods[0].config.metadata, attempt: 1 } });
  await startContainer(daemon, next, named('two'));
  for (const { id } of [...pods, next]) await removePod(daemon, id);
  expect(await daemon.traces()).toEqual(clean);
});

let workers = 54_000;
/** The pids of the processes with this argument. */
async function pidsOf(argument: number): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')),
  );
  return pids.filter((_, index) => lines[index] === `sleep\0${argument}\0`).map(Number);
}

/** The shell has still to start it when the start of its container is answered. */
async function started(argument: number): Promise<void> {
  while ((await pidsOf(argument)).length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
}

describe.each([
  ['crun', 'POD'],
  ['crun', 'NODE'],
  ['runc', 'POD'],
  ['runc', 'NODE'],
] as const)('on %s with pid %s', (handler, pid) => {
  const linux = { security_context: { namespace_options: { ...options, pid } } };
  /** A master with a worker that nothing but a signal ends. */
  async function startMaster(then: string) {
    const argument = workers++;
    const pod = await runPod(daemon, { linux }, handler);
    const id = await startContainer(daemon, pod, containerConfig(`sleep ${argument} & ${then}`, { linux }));
    while ((await pidsOf(argument)).length === 0) await sleep(5); // its shell has been started, no more
    return { argument, pod, id };
  }

  test('processes that a container has started are gone when its end is reported', async () => {
    const { argument, pod, id } = await startMaster('until [ -e /go ]; do sleep 0.1; done; exit 3');
    await started(argument);
    await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['touch', '/go'], timeout: '10' });
    expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 3 });
    expect(await pidsOf(argument)).toEqual([]);
    await removePod(daemon, pod.id);
  });

  test('also if it ended while crisp was not running', async () => {
    const { argument, pod, id } = await startMaster('wait');
    const { info } = await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true });
    const { pid: master } = JSON.parse(info['info'] ?? '') as { pid: number };
    await daemon.kill9();
    for (const one of [(await parentOf(master)) ?? 0, master]) process.kill(one, 'SIGKILL');
    await daemon.start();
    expect(await waitForExit(daemon, id)).toMatchObject({ reason: 'Unknown' });
    expect(await pidsOf(argument)).toEqual([]);
    await removePod(daemon, pod.id);
  });
});

const recordOf = (kind: 'sandboxes' | 'containers', id: string): string =>
  daemon.machine.path(join(daemon.state, kind, `${id}.json`));

test('a pod that has lost its record is removed at the next start, with all its containers', async () => {
  const clean = await daemon.traces();
  const pod = await runPod(daemon, {
    linux: { security_context: { namespace_options: options } },
    port_mappings: [
      { protocol: 'TCP', container_port: 80, host_port: 20_000 + Math.floor(Math.random() * 10_000) },
    ],
  });
  const start = (name: string) =>
    startContainer(
      daemon,
      pod,
      containerConfig('sleep 1000', {
        metadata: { name },
        linux: { security_context: { namespace_options: options } },
      }),
    );
  const [, lost] = [await start('kept'), await start('lost')];
  const holder = await holderOf(pod.id);
  await daemon.kill9();
  await rm(recordOf('sandboxes', pod.id));
  await rm(recordOf('containers', lost));
  await mkdir(daemon.machine.path(join(daemon.state, 'bundles', 'without-container')));
  await daemon.start();
  expect(await identify(holder)).toBeUndefined();
  expect((await daemon.client.runtime.ListContainers({})).containers).toEqual([]);
  expect(await daemon.traces()).toEqual(clean);
});

test('crisp gc ends the holder of a pod that has lost its record; a container of an unknown handler is kept, also at the next start', async () => {
  const handlers = { known: { type: 'oci', path: '/usr/bin/crun' } };
  await daemon.writeConfig({ cli_state: join(daemon.folder, 'cli'), handlers });
  await daemon.restart();
  const clean = await daemon.traces();
  const onHost = { ...options, network: 'NODE' } as const;
  const pod = await runPod(daemon, { linux: { security_context: { namespace_options: onHost } } });
  const holder = await holderOf(pod.id);
  const other = await runPod(daemon, {}, 'known');
  const id = await startContainer(daemon, other, containerConfig('sleep 1000'));
  await daemon.kill9();
  const saved = await readFile(recordOf('containers', id));
  for (const path of [recordOf('sandboxes', pod.id), recordOf('containers', id)]) await rm(path);

  await daemon.writeConfig({ cli_state: join(daemon.folder, 'cli') });
  const gc = await daemon.machine.run([process.execPath, crisp, 'gc', '--config', daemon.configFile]);
  expect(gc).toMatchObject({
    exitCode: 1,
    stdout: expect.stringMatching(
      new RegExp(
        `^NOT removed bundle ${id}: WrongContainerState: .* is in use.*\nremoved pod folder ${pod.id}$`,
        'm',
      ),
    ),
  });
  expect(gc.stdout).not.toContain('rootfs');
  expect(await identify(holder)).toBeUndefined();
  await daemon.start();
  expect(daemon.entries()).toContainEqual(
    expect.objectContaining({ id, error: expect.stringContaining('is in use') }),
  );
  await daemon.kill9();

  await writeFile(recordOf('containers', id), saved);
  await daemon.writeConfig({ handlers });
  await daemon.start();
  expect(
    String(
      (await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['ls', '/bin/busybox'], timeout: '10' }))
        .stdout,
    ),
  ).toBe('/bin/busybox\n');
  await removePod(daemon, other.id);
  expect(await daemon.traces()).toEqual(clean);
});

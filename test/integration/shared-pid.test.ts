// A pod with one pid namespace for all its containers is the only one with a
// process of its own, the holder.  Nothing in the holder's argv says whose it is,
// so its end is checked by pid.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crisp, startDaemon, type Daemon } from '../helpers/daemon.js';
import { identify } from '../../src/host/proc.js';
import { containerConfig, removePod, runPod, startContainer, testImage } from '../helpers/requests.js';

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
  ['is killed and started again', async () => { await daemon.kill9(); await daemon.start(); }],
])('the holder ends with its pod when crisp %s', async (_, meanwhile) => {
  const pod = await runPod(daemon, { linux: { security_context: { namespace_options: options } } });
  const one = await startContainer(daemon, pod, containerConfig('sleep 1000', { metadata: { name: 'one' }, linux: { security_context: { namespace_options: options } } }));
  const holder = await holderOf(pod.id);
  expect(await identify(holder)).toBeDefined();
  const seen = await daemon.client.runtime.ExecSync({ container_id: one, cmd: ['cat', '/proc/1/comm'], timeout: '10' });
  expect(String(seen.stdout)).toBe('catatonit\n');
  await meanwhile();
  await removePod(daemon, pod.id);
  expect(await identify(holder)).toBeUndefined();
});

test('a holder whose pod was never complete is found by the next start', async () => {
  const clean = await daemon.traces();
  const pod = await runPod(daemon, { linux: { security_context: { namespace_options: options } } });
  const holder = await holderOf(pod.id);
  await daemon.kill9();
  // The record as it stood between the intent and the end of the story.
  const path = daemon.machine.path(join(daemon.state, 'sandboxes', `${pod.id}.json`));
  const { holder: _, attachment: __, ...intent } = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  await writeFile(path, JSON.stringify({ ...intent, complete: false }));
  await daemon.start();
  expect(await identify(holder)).toBeUndefined();
  expect((await daemon.client.runtime.ListPodSandbox({})).items).toEqual([]);
  expect(await daemon.traces()).toEqual(clean);
});

const recordOf = (kind: 'sandboxes' | 'containers', id: string): string => daemon.machine.path(join(daemon.state, kind, `${id}.json`));

test('a pod that has lost its record is taken apart by the next start, with all its containers', async () => {
  const clean = await daemon.traces();
  const pod = await runPod(daemon, { linux: { security_context: { namespace_options: options } }, port_mappings: [{ protocol: 'TCP', container_port: 80, host_port: 20_000 + Math.floor(Math.random() * 10_000) }] });
  const start = (name: string) => startContainer(daemon, pod, containerConfig('sleep 1000', { metadata: { name }, linux: { security_context: { namespace_options: options } } }));
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

test('crisp gc ends the holder of a pod that has lost its record; a container that no handler knows of is left alone, also by the next start', async () => {
  await daemon.writeConfig({ cli_state: join(daemon.folder, 'cli') });
  await daemon.restart();
  const clean = await daemon.traces();
  const onHost = { ...options, network: 'NODE' } as const;
  const pod = await runPod(daemon, { linux: { security_context: { namespace_options: onHost } } });
  const holder = await holderOf(pod.id);
  const other = await runPod(daemon);
  const id = await startContainer(daemon, other, containerConfig('sleep 1000'));
  await daemon.kill9();
  const saved = await readFile(recordOf('containers', id));
  for (const path of [recordOf('sandboxes', pod.id), recordOf('containers', id)]) await rm(path);

  await daemon.writeConfig({ cli_state: join(daemon.folder, 'cli'), handlers: { crun: { path: '/no/such/crun' } } });
  const gc = await daemon.machine.run([process.execPath, crisp, 'gc', '--config', daemon.configFile]);
  expect(gc).toMatchObject({ exitCode: 1, stdout: expect.stringMatching(new RegExp(`^NOT removed bundle ${id}: WrongContainerState: .* is in use.*\nremoved pod folder ${pod.id}$`, 'm')) });
  expect(gc.stdout).not.toContain('rootfs');
  expect(await identify(holder)).toBeUndefined();
  await daemon.start();
  expect(daemon.entries()).toContainEqual(expect.objectContaining({ id, error: expect.stringContaining('is in use') }));
  await daemon.kill9();

  await writeFile(recordOf('containers', id), saved);
  await daemon.writeConfig({});
  await daemon.start();
  expect(String((await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['ls', '/bin/busybox'], timeout: '10' })).stdout)).toBe('/bin/busybox\n');
  await removePod(daemon, other.id);
  expect(await daemon.traces()).toEqual(clean);
});

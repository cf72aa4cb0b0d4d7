// The guard rail, from the socket: guests that are not crisp's are never changed,
// whatever its records say and whichever call comes with whichever id.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Daemon } from '../helpers/daemon.js';
import { containerConfig, createContainer, podConfig, removePod, runPod, startContainer, untilStopped } from '../helpers/requests.js';
import { isReal, Node } from './node.js';

let node: Node;
let daemon: Daemon;
const foreign = new Map<string, string>(); // VMID.conf of CTs, and of VMs -> text
beforeAll(async () => {
  if (isReal) return;
  node = await Node.start();
  daemon = await node.daemon();
  await daemon.addImage();
});
afterAll(async () => {
  await daemon?.destroy();
  await node?.stop();
});

/** Guests of others: no mark, another's mark, another tag, out of range, a VM, and copies of one of ours with one thing changed. */
async function seed(ours: string): Promise<void> {
  const changed: [string, string][] = [
    ['900010', 'hostname: web\ntags: crisp\n'], ['900011', ours.replace(/crisp-owner%3A \S+/, 'crisp-owner%3A other')], ['900012', ours.replace(/^tags: .*$/m, 'tags: web')],
    ['101', ours], ['900013', ours.replace(/crisp-container%3A .*/, 'crisp-container%3A someone')], ['900014', `${ours}#crisp-container%3A twice\n`], ['900015', `hostname: y\n[snapshot]\n${ours}`], ['900016', 'lock: backup\nhostname: z\n'],
  ];
  for (const [vmid, text] of changed) foreign.set(join('pve/lxc', `${vmid}.conf`), text);
  foreign.set('pve/qemu-server/900020.conf', 'name: vm\ntags: crisp\n');
  for (const [path, text] of foreign) await writeFile(join(node.folder, path), text);
}
async function expectUntouched(): Promise<void> {
  for (const [path, text] of foreign) expect([path, await readFile(join(node.folder, path), 'utf8')]).toEqual([path, text]);
  const vmids = [...foreign.keys()].map((path) => /(\d+)\.conf$/.exec(path)?.[1] ?? '');
  const calls = (await readFile(join(node.folder, 'calls'), 'utf8')).split('\n').filter((line) => vmids.some((vmid) => line.split(' ').includes(vmid)));
  expect(calls.filter((line) => !line.startsWith('create '))).toEqual([]); // a create of a taken id changes nothing
}

// What it proves is what the fake was told to do; on a real node it would put marked copies beside the guests of others.
(isReal ? test.skip : test)('every call, with every id, on records that were tampered with', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  const running = await startContainer(daemon, pod, containerConfig(untilStopped()));
  const created = await createContainer(daemon, pod, containerConfig('true', { metadata: { name: 'created', attempt: 0 } }));
  const [own = ''] = await node.guests();
  await seed(await node.guest(own));

  const folder = join(daemon.state, 'containers');
  const records = async (): Promise<string[]> => (await daemon.machine.must(['ls', folder])).trim().split('\n');
  const targets = [...foreign.keys()].map((path) => Number(/(\d+)\.conf$/.exec(path)?.[1]));
  const honest = join(daemon.state, 'honest');
  await daemon.machine.must(['cp', '-a', folder, honest]);

  for (const vmid of targets) {
    // 1. A record that names somebody else's guest.
    await daemon.kill9();
    await daemon.machine.must(['cp', '-a', `${honest}/.`, folder]);
    for (const name of await records()) await daemon.machine.must(['sed', '-i', `s/"vmid":[0-9]*/"vmid":${vmid}/`, join(folder, name)]);
    await daemon.start();
    await expectUntouched();

    // 2. Every call that acts, on all ids that one might try.
    const { runtime } = daemon.client;
    const limits = { memory_limit_in_bytes: String(32 << 20) };
    const quick = { deadlineMs: 10_000 };
    const acts: ((id: string) => Promise<unknown>)[] = [
      (id) => runtime.StartContainer({ container_id: id }, quick), (id) => runtime.ExecSync({ container_id: id, cmd: ['true'], timeout: '2' }, quick),
      (id) => runtime.UpdateContainerResources({ container_id: id, linux: limits }, quick), (id) => runtime.ReopenContainerLog({ container_id: id }, quick), (id) => runtime.ContainerStats({ container_id: id }, quick),
      (id) => runtime.CheckpointContainer({ container_id: id, location: join(daemon.folder, 'checkpoint'), timeout: '2' }, quick), (id) => runtime.StopContainer({ container_id: id, timeout: '0' }, { deadlineMs: 2_000 }), (id) => runtime.RemoveContainer({ container_id: id }, { deadlineMs: 2_000 }),
      (id) => runtime.StopPodSandbox({ pod_sandbox_id: id }, { deadlineMs: 1_000 }), (id) => runtime.RemovePodSandbox({ pod_sandbox_id: id }, { deadlineMs: 1_000 }),
    ];
    for (const act of acts) await Promise.all([running, created, String(vmid), `${vmid}.conf`].map((id) => act(id).catch(() => undefined)));
    await expectUntouched();
  }

  // 3. With honest records all is as it was.
  await daemon.kill9();
  await daemon.machine.must(['cp', '-a', `${honest}/.`, folder]);
  await daemon.start();
  const { status } = await daemon.client.runtime.ContainerStatus({ container_id: running });
  expect(status).toMatchObject({ state: 'CONTAINER_RUNNING' });
  await removePod(daemon, pod.id);
  await expectUntouched();
});

(isReal ? test.skip : test)('a new pod takes no id that somebody has', async () => {
  const { pod_sandbox_id: id } = await daemon.client.runtime.RunPodSandbox({ config: podConfig(daemon), runtime_handler: 'lxc' });
  await createContainer(daemon, { id, config: podConfig(daemon) }, containerConfig('true'));
  await removePod(daemon, id);
  await expectUntouched();
  expect((await readdir(join(node.folder, 'pve/lxc'))).length).toBeGreaterThanOrEqual(foreign.size - 1);
});

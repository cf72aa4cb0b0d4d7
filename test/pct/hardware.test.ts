// The hardware options of pods for their CTs: several networks, volumes of Proxmox,
// devices and features; and the options that are refused.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import type { ContainerConfig } from '../../src/cri/generated/runtime/v1/ContainerConfig.js';
import type { Daemon } from '../helpers/daemon.js';
import { patience } from '../helpers/patience.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  untilStopped,
} from '../helpers/requests.js';
import { addBridge, Node } from './node.js';

const key = (name: string): string => `io.crisp.lxc.${name}`;
const annotated = (chosen: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(chosen).map(([name, value]) => [key(name), value]));

let bridges: Awaited<ReturnType<typeof addBridge>>[] = [];
let node: Node;
let daemon: Daemon;
let storage: string;
let clean: string[];
beforeAll(async () => {
  bridges = await Promise.all(['198.18.79.1/24', '198.18.80.1/24'].map((address) => addBridge(address)));
  node = await Node.start();
  storage = await node.storage();
  daemon = await node.daemon(
    {
      bridge: { name: bridges[0]?.name },
      choices: {
        bridges: [bridges[1]?.name],
        storages: [storage],
        max_size_gib: 4,
        features: ['keyctl', 'tun'],
      },
    },
    { allowed_annotations: [key('*')] },
  );
  await daemon.addImage();
});
afterAll(async () => {
  await node?.stop();
  await Promise.all(bridges.map((bridge) => bridge.remove()));
});
beforeEach(async () => {
  clean = await daemon.traces();
});
afterEach(async () => {
  expect([await node.guests(), await node.volumes(), await node.remains()]).toEqual([[], [], []]);
  expect((await daemon.traces()).filter((line) => !line.includes('archives'))).toEqual(
    clean.filter((line) => !line.includes('archives')),
  );
});

async function output(id: string, script: string): Promise<string> {
  const { stdout, stderr, exit_code } = await daemon.client.runtime.ExecSync({
    container_id: id,
    cmd: ['sh', '-c', script],
    timeout: String(10 * patience),
  });
  expect({ exit_code, stderr: stderr.toString() }).toEqual({ exit_code: 0, stderr: '' });
  return stdout.toString();
}

/** A folder of the host, as the kubelet makes one for a volume of a pod. */
async function volume(name: string): Promise<string> {
  const path = join(daemon.folder, 'volumes', name);
  await mkdir(path, { recursive: true });
  return path;
}
const mounting = (name: string, mounts: ContainerConfig['mounts'], attempt = 0): ContainerConfig =>
  containerConfig(untilStopped(), { metadata: { name, attempt }, log_path: `${name}.log`, mounts });

test('several networks: a card for each, and the address of the first is that of the pod', async () => {
  const annotations = annotated({
    network: 'bridge',
    address: '198.18.79.5/24',
    gateway: '198.18.79.1',
    net1: `bridge=${bridges[1]?.name},address=198.18.80.5/24`,
  });
  const pod = await runPod(daemon, { annotations }, 'lxc');
  const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
  const [first, second] = (await node.guestOf(id)).match(/^net\d: .*$/gm) ?? [];
  expect(first).toMatch(new RegExp(`^net0: name=eth0,bridge=${bridges[0]?.name},.*ip=198.18.79.5/24`));
  expect(second).toMatch(new RegExp(`^net1: name=eth1,bridge=${bridges[1]?.name},.*ip=198.18.80.5/24`));
  const hardware = (text = ''): string | undefined => /hwaddr=([^,]+)/.exec(text)?.[1];
  expect(hardware(first)).not.toBe(hardware(second));
  expect(await output(id, 'ip -4 -o address | sort')).toMatch(
    /eth0 .*198\.18\.79\.5\/24.*\n.*eth1 .*198\.18\.80\.5\/24/,
  );
  expect(await output(id, 'ip route')).toMatch(/^default via 198\.18\.79\.1 dev eth0/m);
  const { status: found } = await daemon.client.runtime.PodSandboxStatus({ pod_sandbox_id: pod.id });
  expect(found?.network?.ip).toBe('198.18.79.5');
  await removePod(daemon, pod.id);
});

test('files of the DHCP client of a card are removed with the CT', async () => {
  const pod = await runPod(daemon, { annotations: annotated({ network: 'bridge' }) }, 'lxc');
  const id = await createContainer(daemon, pod, containerConfig(untilStopped()));
  expect(await node.guestOf(id)).toMatch(/^net0: .*,ip=dhcp,/m);
  // On a real node this bridge has no DHCP server, and PVE does not start a CT without an address.
  await daemon.client.runtime.StartContainer({ container_id: id }).catch(() => undefined);
  await removePod(daemon, pod.id);
});

describe('a volume of Proxmox in the place of a volume of the pod', () => {
  const chosen = (more = '') => annotated({ mp0: `path=/data,storage=${storage},size-gib=1${more}` });

  test('belongs to the container, is removed with it, and the next attempt has a new one', async () => {
    const source = await volume('own');
    const pod = await runPod(daemon, { annotations: chosen() }, 'lxc');
    const mounts = [{ container_path: '/data', host_path: source }];
    const id = await startContainer(daemon, pod, mounting('app', mounts));
    expect(await node.guestOf(id)).toMatch(
      new RegExp(`^mp0: ${storage}:\\S+,mp=/data,backup=0,size=1G$`, 'm'),
    );
    expect(await output(id, 'echo kept >/data/file; cat /data/file; stat -c %u /data')).toBe('kept\n0\n');
    expect(await readdir(source)).toEqual([]);
    expect(await node.volumes()).toHaveLength(1);
    const other = await startContainer(daemon, pod, mounting('other', []));
    expect(await node.guestOf(other)).not.toMatch(/^mp\d/m);
    await daemon.client.runtime.StopContainer({ container_id: id, timeout: '5' });
    const next = await startContainer(daemon, pod, mounting('app', mounts, 1));
    expect(await output(next, 'ls /data | grep -v lost+found | wc -l')).toBe('0\n');
    await removePod(daemon, pod.id);
  });

  test('is read-only if the volume of the pod is, and saved by vzdump if the pod says so', async () => {
    const source = await volume('read-only');
    const pod = await runPod(daemon, { annotations: chosen(',backup=true') }, 'lxc');
    const id = await startContainer(
      daemon,
      pod,
      mounting('app', [{ container_path: '/data', host_path: source, readonly: true }]),
    );
    expect(await node.guestOf(id)).toMatch(/^mp0: \S+,mp=\/data,backup=1,ro=1,size=1G$/m);
    expect(await output(id, 'touch /data/file 2>/dev/null || echo refused')).toBe('refused\n');
    await removePod(daemon, pod.id);
  });

  test.each<[string, (source: string) => ContainerConfig['mounts'], RegExp]>([
    [
      'another container shares it',
      (source) => [{ container_path: '/elsewhere', host_path: source }],
      /containers app and other share what is mounted there/,
    ],
    [
      'a file is mounted there',
      (source) => [{ container_path: '/data', host_path: `${source}/file` }],
      /is no folder/,
    ],
  ])('is refused if %s, and nothing is left behind', async (_, mounts, words) => {
    const source = await volume('refused');
    await mkdir(join(source, 'below'), { recursive: true });
    await writeFile(join(source, 'file'), '');
    const pod = await runPod(daemon, { annotations: chosen() }, 'lxc');
    await createContainer(daemon, pod, mounting('app', [{ container_path: '/data', host_path: source }]));
    const before = await node.guests();
    await expect(createContainer(daemon, pod, mounting('other', mounts(source)))).rejects.toThrow(words);
    await daemon.restart(); // which container is of which pod is known afterwards too
    await expect(createContainer(daemon, pod, mounting('other', mounts(source)))).rejects.toThrow(words);
    expect(await node.guests()).toEqual(before);
    await removePod(daemon, pod.id);
  });
});

test('a volume of Proxmox that another mount would hide is refused', async () => {
  const source = await volume('hidden');
  await mkdir(join(source, 'deep'), { recursive: true });
  const annotations = annotated({ mp0: `path=/data/deep,storage=${storage},size-gib=1` });
  const pod = await runPod(daemon, { annotations }, 'lxc');
  const mounts = [
    { container_path: '/data', host_path: source },
    { container_path: '/data/deep', host_path: join(source, 'deep') },
  ];
  await expect(createContainer(daemon, pod, mounting('app', mounts))).rejects.toThrow(
    /mp0: \/data\/deep: \/data, which the container mounts as well, would hide it/,
  );
  await removePod(daemon, pod.id);
});

test('features and devices', async () => {
  const pod = await runPod(daemon, { annotations: annotated({ features: 'tun,keyctl' }) }, 'lxc');
  const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
  expect(await node.guestOf(id)).toMatch(/^features: keyctl=1$/m);
  expect(await output(id, 'stat -c "%F %t:%T" /dev/net/tun')).toBe('character special file a:c8\n');
  await removePod(daemon, pod.id);
});

/** Every value is some pod's, and so may be anything. */
test.each<[string, Record<string, string>, status]>([
  [
    'a volume of another guest',
    { storage: 'local:900051/subvol-900051-disk-0.subvol' },
    status.INVALID_ARGUMENT,
  ],
  [
    'a volume of another guest as a mount point',
    { mp0: 'path=/x,storage=local:900051/subvol-900051-disk-0.subvol,size-gib=1' },
    status.INVALID_ARGUMENT,
  ],
  ['a disk of the host', { mp0: 'path=/x,storage=/dev/sda,size-gib=1' }, status.INVALID_ARGUMENT],
  ['a folder of the host', { mp0: '/etc,path=/x,storage=local,size-gib=1' }, status.INVALID_ARGUMENT],
  ['one more option', { mp0: 'path=/x,storage=local,size-gib=1,shared=1' }, status.INVALID_ARGUMENT],
  ['one more line', { mp0: 'path=/x\nlxc.hook.start: /x,storage=local,size-gib=1' }, status.INVALID_ARGUMENT],
  [
    'a path that leaves the CT',
    { mp0: 'path=/x/../../etc,storage=local,size-gib=1' },
    status.INVALID_ARGUMENT,
  ],
  ['/proc', { mp0: 'path=/proc/sys,storage=local,size-gib=1' }, status.INVALID_ARGUMENT],
  ['a mount point that is too long', { mp0: `path=/${'x'.repeat(100_000)}` }, status.INVALID_ARGUMENT],
  ['one mount point above the maximum', { mp8: 'path=/x,storage=local,size-gib=1' }, status.INVALID_ARGUMENT],
  [
    'an option of net1',
    { network: 'bridge', net1: 'bridge=vmbr0,hwaddr=02:00:00:00:00:01' },
    status.INVALID_ARGUMENT,
  ],
  ['net1 on the CNI network', { net1: 'bridge=vmbr0' }, status.INVALID_ARGUMENT],
  ['a feature of PVE that crisp does not support', { features: 'mknod' }, status.INVALID_ARGUMENT],
  ['a device of the host', { dev0: '/dev/sda' }, status.INVALID_ARGUMENT],
  ['a raw key', { 'lxc.hook.start': '/x' }, status.INVALID_ARGUMENT],
  ['another bridge', { network: 'bridge', net1: 'bridge=vmbr99' }, status.PERMISSION_DENIED],
  ['another storage', { mp0: 'path=/x,storage=tank,size-gib=1' }, status.PERMISSION_DENIED],
  ['more than the largest volume', { storage: 'LOCAL', 'size-gib': '5' }, status.PERMISSION_DENIED],
  ['a feature that is not allowed', { features: 'nesting' }, status.PERMISSION_DENIED],
])('%s is refused with the pod', async (_, chosen, code) => {
  const annotations = annotated(
    Object.fromEntries(
      Object.entries(chosen).map(([name, value]) => [name, value.replace('LOCAL', storage)]),
    ),
  );
  await expect(runPod(daemon, { annotations }, 'lxc')).rejects.toMatchObject({
    code,
    details: expect.stringContaining('annotation io.crisp.lxc.'),
  });
});

// The options of pods for their CTs: a bridge of the node, a volume, a template.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { copyFile, mkdir, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Daemon } from '../helpers/daemon.js';
import { hintPattern } from '../helpers/hints.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';
import { patience } from '../helpers/patience.js';
import { addBridge, Node } from './node.js';

const runFile = promisify(execFile);
const key = (name: string): string => `io.crisp.lxc.${name}`;
let node: Node;
let bridge: Awaited<ReturnType<typeof addBridge>>;
let daemon: Daemon;
beforeAll(async () => {
  bridge = await addBridge('198.18.77.1/24');
  [node, daemon] = await Node.withDaemon(
    { bridge: { name: bridge.name } },
    { allowed_annotations: [key('*')] },
  );
});
afterAll(async () => {
  await node?.stop();
  await bridge?.remove();
});

async function output(id: string, cmd: string[]): Promise<string> {
  const { stdout, stderr, exit_code } = await daemon.client.runtime.ExecSync({
    container_id: id,
    cmd,
    timeout: String(10 * patience),
  });
  expect({ exit_code, stderr: stderr.toString() }).toEqual({ exit_code: 0, stderr: '' });
  return stdout.toString();
}

describe('a bridge of the node', () => {
  const annotations = {
    [key('network')]: 'bridge',
    [key('address')]: '198.18.77.5/24',
    [key('gateway')]: '198.18.77.1',
  };

  test('the CT has its own net0 and address, which the pod reports', async () => {
    const before = await daemon.traces();
    const pod = await runPod(daemon, { annotations }, 'lxc');
    const address = async () =>
      (await daemon.client.runtime.PodSandboxStatus({ pod_sandbox_id: pod.id })).status?.network?.ip;
    expect(await address()).toBe('');
    const id = await startContainer(daemon, pod, containerConfig(`httpd -p 8080 -h /etc; ${untilStopped()}`));
    expect(await node.guestOf(id)).toMatch(
      new RegExp(
        `^net0: name=eth0,bridge=${bridge.name},gw=198.18.77.1,host-managed=1,hwaddr=02:[0-9A-F:]{14},ip=198.18.77.5/24,type=veth$`,
        'm',
      ),
    );
    expect(await address()).toBe('198.18.77.5');
    const { stdout } = await runFile('curl', [
      '--silent',
      '--max-time',
      '5',
      'http://198.18.77.5:8080/hostname',
    ]);
    expect(stdout).toBe('box\n');
    expect(await output(id, ['ip', 'route'])).toContain('default via 198.18.77.1');
    const { stats } = await daemon.client.runtime.PodSandboxStats({ pod_sandbox_id: pod.id });
    expect(stats?.linux?.network?.default_interface).toMatchObject({ name: 'eth0' });
    await removePod(daemon, pod.id);
    expect(await daemon.traces()).toEqual(before);
    expect(await node.guests()).toEqual([]);
  });

  test('the next container has the address of the last, and only one runs at a time', async () => {
    const pod = await runPod(daemon, { annotations }, 'lxc');
    const first = await startContainer(
      daemon,
      pod,
      containerConfig('cat /sys/class/net/eth0/address', { metadata: { name: 'first', attempt: 0 } }),
    );
    expect(await waitForExit(daemon, first)).toMatchObject({ exit_code: 0 });
    const second = await startContainer(
      daemon,
      pod,
      containerConfig(untilStopped(), { metadata: { name: 'second', attempt: 0 } }),
    );
    expect((await node.guestOf(first)).match(/hwaddr=([^,]+)/)?.[1]).toBe(
      (await node.guestOf(second)).match(/hwaddr=([^,]+)/)?.[1],
    );
    const third = await createContainer(
      daemon,
      pod,
      containerConfig(untilStopped(), { metadata: { name: 'third', attempt: 0 } }),
    );
    await expect(daemon.client.runtime.StartContainer({ container_id: third })).rejects.toThrow(
      /has its network.*one container at a time/,
    );
    await removePod(daemon, pod.id);
  });

  test('is refused for a pod on the network of the host', async () => {
    const pod = await runPod(
      daemon,
      { annotations, linux: { security_context: { namespace_options: { network: 'NODE' } } } },
      'lxc',
    );
    const id = await createContainer(
      daemon,
      pod,
      containerConfig('true', { linux: { security_context: { namespace_options: { network: 'NODE' } } } }),
    );
    expect(await node.guestOf(id)).not.toMatch(/^net0/m);
    await removePod(daemon, pod.id);
  });

  test('a missing bridge is named, and nothing is left behind', async () => {
    const pod = await runPod(daemon, { annotations: { ...annotations, [key('bridge')]: 'vmbr99' } }, 'lxc');
    const id = await createContainer(daemon, pod, containerConfig('true'));
    await expect(daemon.client.runtime.StartContainer({ container_id: id })).rejects.toThrow(
      /BridgeMissing.*vmbr99/,
    );
    await removePod(daemon, pod.id);
    expect(await node.guests()).toEqual([]);
  });

  test.each([
    [
      'host ports',
      { port_mappings: [{ protocol: 'TCP' as const, container_port: 80, host_port: 8080, host_ip: '' }] },
      /host_port/,
    ],
    ['network sysctls', { linux: { sysctls: { 'net.ipv4.ip_forward': '1' } } }, /net\.ipv4\.ip_forward/],
    [
      'an invalid address',
      { annotations: { ...annotations, [key('address')]: 'here' } },
      /io\.crisp\.lxc\.address/,
    ],
  ])('is refused: %s', async (_, more, words) => {
    const before = await daemon.traces();
    await expect(runPod(daemon, { annotations, ...more }, 'lxc')).rejects.toThrow(words);
    expect(await daemon.traces()).toEqual(before);
  });
});

describe('a volume of Proxmox', () => {
  test('holds the image, belongs to root of the CT, and is removed with the CT', async () => {
    const before = await daemon.traces();
    const storage = await node.storage();
    const pod = await runPod(
      daemon,
      { annotations: { [key('storage')]: storage, [key('size-gib')]: '2' } },
      'lxc',
    );
    const ids = await Promise.all(
      ['one', 'two'].map((name) =>
        startContainer(
          daemon,
          pod,
          containerConfig(untilStopped(), { metadata: { name, attempt: 0 }, log_path: `${name}.log` }),
        ),
      ),
    );
    const [id = ''] = ids;
    expect(await node.guestOf(id)).toMatch(new RegExp(`^rootfs: ${storage}:.*,size=2G$`, 'm'));
    expect(await node.volumes()).toHaveLength(2);
    expect(
      await output(id, ['sh', '-c', 'echo new >/file; cat /file; stat -c %u /bin /file; hostname']),
    ).toBe('new\n0\n0\nbox\n');
    await removePod(daemon, pod.id);
    expect(await node.volumes()).toEqual([]);
    const archives = async () =>
      (await readdir(join(daemon.root, 'archives'))).filter((name) => name.endsWith('.tar'));
    expect(await archives()).toHaveLength(1); // made once, for the next ones
    await daemon.client.image.RemoveImage({ image: { image: 'docker.io/library/busybox:1' } });
    expect(await archives()).toEqual([]);
    await daemon.addImage();
    expect((await daemon.traces()).filter((line) => !line.includes('archives'))).toEqual(
      before.filter((line) => !line.includes('archives')),
    );
  });

  test('can be read-only, and a missing storage is named', async () => {
    const pod = await runPod(
      daemon,
      { annotations: { [key('storage')]: await node.storage(), [key('size-gib')]: '1' } },
      'lxc',
    );
    const id = await startContainer(
      daemon,
      pod,
      containerConfig('touch /file || exit 3', { linux: { security_context: { readonly_rootfs: true } } }),
    );
    expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 3 });
    await removePod(daemon, pod.id);
    const other = await runPod(daemon, { annotations: { [key('storage')]: 'tank' } }, 'lxc');
    await expect(createContainer(daemon, other, containerConfig('true'))).rejects.toThrow(
      /StorageFailed.*tank/,
    );
    await removePod(daemon, other.id);
    expect(await node.guests()).toEqual([]);
  });
});

describe('a template of Proxmox', () => {
  const name = 'crisp-test-1_amd64.tar';
  beforeAll(async () => {
    const root = join(node.folder, 'guest');
    for (const folder of ['bin', 'sbin', 'etc', 'proc', 'sys', 'dev', 'run', 'tmp'])
      await mkdir(join(root, folder), { recursive: true });
    await copyFile('/bin/busybox', join(root, 'bin/busybox'));
    for (const tool of ['sh', 'hostname', 'cat', 'sleep', 'grep'])
      await symlink('busybox', join(root, 'bin', tool));
    await writeFile(join(root, 'etc/os-release'), 'ID=alpine\n');
    await writeFile(
      join(root, 'sbin/init'),
      `#!/bin/sh\necho booted\ntrap 'exit 5' 37\nwhile :; do sleep 1000 & wait $!; done\n`,
      { mode: 0o755 },
    );
    await runFile('tar', [
      '--create',
      '--file',
      await node.templatePath(name),
      '--owner=0',
      '--group=0',
      '--directory',
      root,
      '.',
    ]);
  });
  afterAll(async () => rm(await node.templatePath(name)));
  const image = `pve/local:vztmpl/${name}`;
  const config = (more: object = {}) => containerConfig('', { command: [], image: { image }, ...more });

  test('is an image once it is pulled; its file is never changed', async () => {
    const { image_ref: ref } = await daemon.client.image.PullImage({
      image: { image: `pve/local/vztmpl/${name}:latest` },
    });
    const { image: found } = await daemon.client.image.ImageStatus({ image: { image } });
    expect(found).toMatchObject({ id: ref, repo_tags: [image] });
    expect((await daemon.client.image.ListImages({})).images.map(({ id }) => id)).toContain(ref);
    await daemon.client.image.RemoveImage({ image: { image: ref } });
    expect((await daemon.client.image.ImageStatus({ image: { image } })).image).toBeNull();
    expect(await stat(await node.templatePath(name))).toBeDefined();
    await expect(
      daemon.client.image.PullImage({ image: { image: 'pve/local:vztmpl/other.tar' } }),
    ).rejects.toThrow(/NotFound/);
  });

  test('boots as a whole guest', async () => {
    await daemon.client.image.PullImage({ image: { image } });
    const pod = await runPod(
      daemon,
      { annotations: { [key('storage')]: await node.storage(), [key('size-gib')]: '1' } },
      'lxc',
    );
    const id = await startContainer(daemon, pod, config());
    expect(await node.guestOf(id)).toMatch(/^ostype: alpine$/m);
    expect(await output(id, ['sh', '-c', 'cat /proc/1/cmdline'])).toContain('/sbin/init');
    await daemon.client.runtime.StopContainer({ container_id: id, timeout: '10' });
    const { status } = await daemon.client.runtime.ContainerStatus({ container_id: id });
    expect(status).toMatchObject({ exit_code: 5, image: { image } });
    await removePod(daemon, pod.id);
    expect(await node.guests()).toEqual([]);
  });

  test('needs a handler of Proxmox, and a storage', async () => {
    const oci = await runPod(daemon, {}, 'crun');
    await expect(createContainer(daemon, oci, config())).rejects.toThrow(
      hintPattern('use a RuntimeClass with a handler of type pct'),
    );
    await removePod(daemon, oci.id);
    const lost = await runPod(daemon, {}, 'lxc');
    await expect(createContainer(daemon, lost, config())).rejects.toThrow(
      hintPattern("set lxc.rootfs.storage, or the pod's annotation NAMEstorage"),
    );
    await removePod(daemon, lost.id);
    const annotations = { [key('storage')]: await node.storage(), [key('size-gib')]: '1' };
    const pod = await runPod(daemon, { annotations }, 'lxc');
    await createContainer(daemon, pod, config());
    await removePod(daemon, pod.id);
  });
});

test('a pod cannot choose what the handler does not allow', async () => {
  const strict = await node.daemon();
  await expect(runPod(strict, { annotations: { [key('vlan')]: '20' } }, 'lxc')).rejects.toThrow(
    /PERMISSION_DENIED.*not allowed/,
  );
});

// Nodes without idmapped overlays: each CT has a copy of its image on a storage, and is
// unprivileged as well.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import type { Daemon } from '../helpers/daemon.js';
import { containerConfig, removePod, runPod, startContainer, untilStopped } from '../helpers/requests.js';
import { isReal, Node } from './node.js';

let node: Node;
let daemon: Daemon;
beforeAll(async () => {
  node = await Node.start();
  daemon = await node.daemon();
  await daemon.addImage();
  await daemon.stop();
  // A filesystem that has no idmapped mounts (no FS_ALLOW_IDMAP), below the layers of images. Newer versions
  // of skopeo would make no store on it, but use one.
  const moved =
    'mv "$0" "$0.disk"; mkdir "$0"; mount -t ramfs -o mode=0711 ramfs "$0"; cp -a "$0.disk/." "$0"';
  await daemon.machine.must(['sh', '-ec', moved, daemon.root]);
  await daemon.start();
});
afterAll(async () => {
  await daemon?.stop();
  await daemon?.machine.run(['umount', '--lazy', daemon.root]);
  await node?.stop();
});

test('a CT has a copy of its image on a storage, made once for all CTs, and is unprivileged', async () => {
  expect(daemon.entries()).toContainEqual(
    expect.objectContaining({
      msg: expect.stringContaining('each CT gets a copy of its image'),
      error: expect.stringContaining('mount_setattr'),
    }),
  );
  const before = await daemon.traces();
  const pod = await runPod(daemon, {}, 'lxc');
  const named = (name: string) =>
    containerConfig(`echo shared > /dev/shm/note-${name}; ${untilStopped(3)}`, {
      metadata: { name, attempt: 0 },
      log_path: `${name}.log`,
    });
  const ids = await Promise.all(['one', 'two'].map((name) => startContainer(daemon, pod, named(name))));
  expect(await node.volumes()).toHaveLength(2);
  for (const guest of await node.guests()) expect(await node.guest(guest)).toMatch(/^rootfs: \S+:\S+,size=/m);
  const { stdout } = await daemon.client.runtime.ExecSync({
    container_id: ids[0] ?? '',
    cmd: [
      'sh',
      '-c',
      'cat /proc/self/uid_map; stat -c %u /bin /etc; echo new > /file && cat /file; hostname; cat /etc/hostname; ls /dev/shm',
    ],
  });
  expect(String(stdout)).toMatch(/^\s*0\s+100000\s+65536\n0\n0\nnew\nbox\nbox\nnote-one\nnote-two\n$/);
  await daemon.client.runtime.StopContainer({ container_id: ids[1] ?? '', timeout: '10' });
  expect((await daemon.client.runtime.ContainerStatus({ container_id: ids[1] ?? '' })).status).toMatchObject({
    exit_code: 3,
  });
  expect(
    (await readdir(daemon.machine.path(join(daemon.root, 'archives')))).filter(
      (name) => name !== 'empty.tar.gz',
    ),
  ).toEqual([expect.stringMatching(/^[0-9a-f]{64}\.tar$/)]);
  await removePod(daemon, pod.id);
  expect([await node.volumes(), await node.guests(), await node.remains()]).toEqual([[], [], []]);
  expect((await daemon.traces()).filter((line) => !line.includes('archives'))).toEqual(before);
});

test('a privileged pod shares the layers: nothing is shifted', async () => {
  const security = { linux: { security_context: { privileged: true } } };
  const pod = await runPod(daemon, security, 'lxc');
  await startContainer(daemon, pod, containerConfig(untilStopped(), security));
  expect(await node.volumes()).toEqual([]);
  expect(await node.guest((await node.guests())[0] ?? '')).not.toContain('unprivileged: 1');
  await removePod(daemon, pod.id);
});

// The storages of a real node stay as they are.
(isReal ? test.skip : test)(
  'without a storage for copies the handler is not ready, and gives a hint',
  async () => {
    await daemon.stop();
    const shown = await node.hideStorages();
    await daemon.start();
    await expect(runPod(daemon, {}, 'lxc')).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
      details: expect.stringMatching(/no storage takes volumes for copies.*lxc\.unprivileged: false/s),
    });
    await shown();
    await daemon.restart();
    await removePod(daemon, (await runPod(daemon, {}, 'lxc')).id);
  },
);

// The rootfs of a container shows the layers of the image, and changes stay in the
// container.
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  access,
  chown,
  lstat,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { isMountPoint } from '../../src/host/mounts.js';
import { run } from '../../src/host/run.js';
import { log } from '../../src/log.js';
import { metrics } from '../../src/metrics.js';
import type { Image } from '../../src/shapes/image.js';
import { makeLayout, type SmallImage } from '../helpers/image.js';
import { diesWithUs } from '../helpers/machine.js';
import { noneUsed, TestStore } from '../helpers/store.js';

const id = 'c'.repeat(64);
let store: TestStore;
let image: Image;
beforeAll(async () => {
  store = await TestStore.open();
  image = await imported('localhost/layers:1', {
    layers: [
      {
        'etc/kept': 'low',
        'etc/changed': 'low',
        'etc/removed': 'low',
        'opt/all/of': 'low',
        'opt/these': 'low',
      },
      { 'etc/changed': 'middle', 'etc/.wh.removed': '', 'opt/.wh..wh..opq': '', 'opt/new': 'middle' },
      { 'etc/changed': 'high' },
    ],
  });
});
afterEach(async () => {
  await store.rootfs.unmount(id);
  await store.rootfs.unmountImage('v');
});
afterAll(() => store?.destroy());

async function imported(name: string, what: SmallImage): Promise<Image> {
  return store.images.importArchive((await makeLayout(store.folder, what)).path, name);
}
/** The present traces: mounts, folders, and holders of images. */
async function traces(): Promise<string[]> {
  const mounts = (await readFile('/proc/self/mountinfo', 'utf8'))
    .split('\n')
    .filter((line) => line.includes(store.folder));
  const folders = await Promise.all(
    [
      join(store.root, 'containers'),
      ...['roots', 'shifted', 'views'].map((name) => join(store.state, name)),
    ].map((folder) => readdir(folder).catch(() => [])),
  );
  return [...mounts, ...folders.flat(), ...(await store.rootfs.list())];
}

describe('a rootfs', () => {
  test('has the topmost version of each file, and no removed files', async () => {
    const path = await store.rootfs.mount(id, image);
    expect(path).toBe(join(store.state, 'roots', id, 'fs'));
    expect(await readFile(join(path, 'etc/kept'), 'utf8')).toBe('low');
    expect(await readFile(join(path, 'etc/changed'), 'utf8')).toBe('high');
    expect(await readdir(join(path, 'etc'))).toEqual(['changed', 'kept']);
    expect(await readdir(join(path, 'opt'))).toEqual(['new']);
    expect((await stat(path)).mode & 0o777).toBe(0o755);
  });

  test('keeps its changes to itself, and removes them with it', async () => {
    const before = await traces();
    const other = 'd'.repeat(64);
    const path = await store.rootfs.mount(id, image);
    const otherPath = await store.rootfs.mount(other, image);
    await writeFile(join(path, 'etc/changed'), 'mine');
    await rm(join(path, 'etc/kept'));
    await rename(join(path, 'opt'), join(path, 'moved'));
    expect(await readFile(join(otherPath, 'etc/changed'), 'utf8')).toBe('high');
    expect(await readdir(otherPath)).toEqual(['etc', 'opt']);
    expect(await store.rootfs.list()).toEqual(expect.arrayContaining([id, other]));
    await store.rootfs.unmount(other);
    await store.rootfs.unmount(id);
    await store.rootfs.unmount(id);
    expect(await traces()).toEqual(before);
    const again = await store.rootfs.mount(id, image);
    expect(await readFile(join(again, 'etc/changed'), 'utf8')).toBe('high');
  });

  test('reports the size of its changes', async () => {
    const path = await store.rootfs.mount(id, image);
    const empty = (await store.rootfs.usage([id])).get(id);
    await writeFile(join(path, 'data'), Buffer.alloc(100_000));
    const full = (await store.rootfs.usage([id, 'none'])).get(id);
    expect((full?.usedBytes ?? 0) - (empty?.usedBytes ?? 0)).toBeGreaterThanOrEqual(100_000);
    expect((full?.inodesUsed ?? 0) - (empty?.inodesUsed ?? 0)).toBe(1);
    expect((await store.rootfs.usage(['none'])).size).toBe(0);
  });

  test('may be in use during its unmount', async () => {
    const path = await store.rootfs.mount(id, image);
    const user = spawn('sleep', ['100'], { cwd: join(path, 'etc'), stdio: 'ignore' });
    try {
      await store.rootfs.unmount(id);
      expect({ path, isMounted: await isMountPoint(path) }).toEqual({ path, isMounted: false });
      expect(await traces()).toEqual([]);
    } finally {
      user.kill('SIGKILL');
    }
  });

  test('of an image with 100 layers has mount options that fit a page', async () => {
    const layers = Array.from({ length: 100 }, (_, index) => ({ [`layer/${index}`]: `${index}` }));
    const many = await imported('localhost/many:1', { layers });
    expect(await store.images.layers(many)).toHaveLength(100);
    const path = await store.rootfs.mount(id, many);
    expect(await readdir(join(path, 'layer'))).toHaveLength(100);
    const view = await store.rootfs.mountImage('v', many);
    expect(await readFile(join(view, 'layer/7'), 'utf8')).toBe('7');
    await store.rootfs.unmount(id);
    await store.rootfs.unmountImage('v');
    await store.images.remove(many.id, noneUsed);
  });

  test('of an image with 200 layers is mounted too', async () => {
    const layers = Array.from({ length: 200 }, (_, index) => ({
      [`layer/${index}`]: `${index}`,
      top: `${index}`,
    }));
    const many = await imported('localhost/very-many:1', { layers });
    const path = await store.rootfs.mount(id, many);
    expect(await readdir(join(path, 'layer'))).toHaveLength(200);
    expect(await readFile(join(path, 'top'), 'utf8')).toBe('199');
    await writeFile(join(path, 'layer/0'), 'mine');
    const view = await store.rootfs.mountImage('v', many);
    expect(await readdir(join(view, 'layer'))).toHaveLength(200);
    expect(await readFile(join(view, 'layer/0'), 'utf8')).toBe('0');
    await store.rootfs.unmount(id);
    await store.rootfs.unmountImage('v');
    await store.images.remove(many.id, noneUsed);
    expect(await traces()).toEqual([]);
  }, 240_000);

  test('that cannot be mounted leaves nothing behind', async () => {
    const { overlay } = store.images.layout;
    const [top = ''] = await store.images.layerIds(image);
    const [link = ''] = await store.images.layout.links([top]);
    await rename(join(overlay, link), join(overlay, 'away'));
    await symlink('/proc', join(overlay, link)); // no filesystem that overlay takes as a layer
    try {
      await expect(store.rootfs.mount(id, image)).rejects.toMatchObject({
        id: 'StorageFailed',
        stage: 'mount rootfs',
        tool: 'mount',
      });
      await expect(store.rootfs.mountImage('v', image)).rejects.toMatchObject({
        id: 'StorageFailed',
        stage: 'mount image',
      });
    } finally {
      await rename(join(overlay, 'away'), join(overlay, link));
    }
    expect(await traces()).toEqual([]);
  });

  test('of an image that is missing or has no layers is refused', async () => {
    const gone = await imported('localhost/gone:1', { layers: [{ a: 'gone' }] });
    await store.images.remove(gone.id, noneUsed);
    await expect(store.rootfs.mount(id, gone)).rejects.toMatchObject({ id: 'ImageNotFound' });
    const empty = await imported('localhost/empty:1', { layers: [] });
    await expect(store.rootfs.mount(id, empty)).rejects.toMatchObject({ id: 'RootfsMissing' });
    await store.images.remove(empty.id, noneUsed);
    expect(await traces()).toEqual([]);
  });

  test('is mapped into a user namespace, where root owns the files of root', async () => {
    const holder = spawn('unshare', ['--user', ...diesWithUs(['sleep', '100'])], { stdio: 'ignore' });
    try {
      await once(holder, 'spawn');
      while (await sameNamespace(holder.pid)) await new Promise(setImmediate);
      for (const map of ['uid_map', 'gid_map'])
        await writeFile(`/proc/${holder.pid}/${map}`, '0 100000 65536');
      const path = await store.rootfs.mount(id, image, {
        namespaceFile: `/proc/${holder.pid}/ns/user`,
        rootUid: 100_000,
        rootGid: 100_000,
      });
      expect(await stat(join(path, 'etc/kept'))).toMatchObject({ uid: 100_000, gid: 100_000 });
      expect(await stat(path)).toMatchObject({ uid: 100_000, gid: 100_000 });
      expect(await readFile(join(path, 'etc/changed'), 'utf8')).toBe('high');
      await chown(join(path, 'etc/kept'), 100_001, 100_001);
      await store.rootfs.unmount(id);
      const layers = Array.from({ length: 150 }, (_, index) => ({ [`layer/${index}`]: `${index}` }));
      const many = await imported('localhost/many-shifted:1', { layers });
      await store.rootfs.mount(id, many, {
        namespaceFile: `/proc/${holder.pid}/ns/user`,
        rootUid: 100_000,
        rootGid: 100_000,
      });
      expect(await readdir(join(path, 'layer'))).toHaveLength(150);
      expect(await stat(join(path, 'layer/0'))).toMatchObject({ uid: 100_000, gid: 100_000 });
      await store.rootfs.unmount(id);
      await store.images.remove(many.id, noneUsed);
      expect(await traces()).toEqual([]);
      expect(await stat(join((await store.images.layers(image)).at(-1) ?? '', 'etc/kept'))).toMatchObject({
        uid: 0,
        gid: 0,
      });
    } finally {
      holder.kill('SIGKILL');
    }
  });

  test('is made by system calls: a command would take ten times as long', async () => {
    const ended = jest.spyOn(metrics.tools, 'observe');
    const started = jest.spyOn(log, 'debug');
    try {
      await store.rootfs.mount(id, image);
      await store.rootfs.unmount(id);
      const commands = started.mock.calls.filter(([, message]) => message === 'tool started');
      expect([commands, ended.mock.calls]).toEqual([[], []]);
      await run(['true'], { timeoutMs: 60_000 });
      expect(ended).toHaveBeenCalledTimes(1); // a command would have been seen
    } finally {
      jest.restoreAllMocks();
    }
  });
});

describe('a view of an image', () => {
  test.each([
    ['one layer', 1],
    ['several layers', 3],
  ])('of %s is read-only', async (_, count) => {
    const some =
      count === 3 ? image : await imported('localhost/single:1', { layers: [{ 'etc/kept': 'low' }] });
    const view = await store.rootfs.mountImage('v', some);
    expect(await readFile(join(view, 'etc/kept'), 'utf8')).toBe('low');
    await expect(writeFile(join(view, 'etc/kept'), 'x')).rejects.toMatchObject({ code: 'EROFS' });
    await expect(access(join(view, 'etc/removed'))).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(store.images.remove(some.id, noneUsed)).rejects.toMatchObject({ id: 'ImageInUse' });
    await store.rootfs.unmountImage('v');
    await store.rootfs.unmountImage('v');
    await expect(lstat(view)).rejects.toMatchObject({ code: 'ENOENT' });
    if (count === 1) await store.images.remove(some.id, noneUsed);
  });
});

async function sameNamespace(pid: number | undefined): Promise<boolean> {
  return (await stat(`/proc/${pid}/ns/user`)).ino === (await stat('/proc/self/ns/user')).ino;
}

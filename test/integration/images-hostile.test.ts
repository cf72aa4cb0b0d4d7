// An image that makes no sense, or that has lost a part, harms no other image.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Image } from '../../src/shapes/image.js';
import { setAside } from '../../src/set-aside.js';
import { makeLayout } from '../helpers/image.js';
import { startProxy, type Proxy, type Registry } from '../helpers/registry.js';
import { noneUsed, TestStore } from '../helpers/store.js';

const id = 'c'.repeat(64);
let store: TestStore;
let registry: Registry;
let proxy: Proxy;
/** An image that is fine. */
let good: string;
beforeAll(async () => {
  store = await TestStore.open();
  registry = await store.registry();
  proxy = await startProxy(registry);
  good = await registry.push(await makeLayout(store.folder, { layers: [{ good: '' }] }), 'good:1');
});
afterEach(async () => {
  await store.rootfs.unmount(id);
  for (const image of await store.images.list()) await store.images.remove(image.id, noneUsed);
});
afterAll(async () => {
  await proxy?.close();
  await store?.destroy();
});

const valid = '"architecture":"amd64","os":"linux"';

describe('an image whose configuration', () => {
  test.each([
    ['is null', 'null'],
    ['is a list', '[]'],
    ['is a number', '1'],
    ['is no JSON', '{"config":'],
    ['is empty', ''],
    ['has a list as config', `{${valid},"config":[]}`],
    ['has a User that is a number', `{${valid},"config":{"User":0}}`],
    ['has labels that are numbers', `{${valid},"config":{"Labels":{"a":1}}}`],
    ['has volumes that are a list', `{${valid},"config":{"Volumes":["/v"]}}`],
  ])('%s is refused, and leaves nothing', async (_, configBlob) => {
    await store.images.pull(good, undefined);
    const before = await store.kept();
    const bad = await registry.push(
      await makeLayout(store.folder, { layers: [{ bad: '' }], configBlob }),
      'bad:1',
    );
    await expect(store.images.pull(bad, undefined)).rejects.toMatchObject({ id: 'ImageCorrupt' });
    expect((await store.images.list()).map(({ tags }) => tags)).toEqual([[good]]);
    expect(await store.kept()).toEqual(before);
  });

  test.each([
    ['has none', `{${valid}}`],
    ['has null', `{${valid},"config":null}`],
    ['is deep', `{${valid},"x":${'['.repeat(5000)}${']'.repeat(5000)}}`],
  ])('%s is taken', async (_, configBlob) => {
    const odd = await registry.push(
      await makeLayout(store.folder, { layers: [{ odd: '' }], configBlob }),
      'odd:1',
    );
    expect(await store.images.pull(odd, undefined)).toMatchObject({ config: {} });
  });

  test('has more than 4 MiB is refused, and leaves nothing', async () => {
    const { path } = await makeLayout(store.folder, {
      layers: [{ large: '' }],
      configBlob: `{${valid},"x":"${'y'.repeat(5 << 20)}"}`,
    });
    const before = await store.kept();
    await expect(store.images.importArchive(path, 'localhost/large:1')).rejects.toMatchObject({
      id: 'ImageCorrupt',
    });
    expect(await store.kept()).toEqual(before);
  });

  test('was null before it was looked at is set aside, named, and can be removed', async () => {
    await store.images.pull(good, undefined);
    const name = await registry.push(await makeLayout(store.folder, { layers: [{ other: '' }] }), 'other:1');
    const image = await store.images.pull(name, undefined);
    const hex = image.id.slice('sha256:'.length);
    await writeFile(
      join(store.storage, 'overlay-images', hex, `=${Buffer.from(image.id).toString('base64')}`),
      'null',
    );
    const { images } = await store.reopened();
    expect((await images.list()).map(({ tags }) => tags)).toEqual([[good]]);
    expect(await images.find(name)).toBeUndefined();
    expect(await images.find(good)).toBeDefined();
    expect(setAside.all()).toEqual([
      { kind: 'image', name: `${image.id} ${name}`, reason: expect.stringContaining('is not valid') },
    ]);
    await images.remove(name, noneUsed);
    await images.list();
    expect(setAside.all()).toEqual([]);
    expect((await images.usage()).usedBytes).toBe((await store.du()).usedBytes);
  });

  test('stands in a list with nonsense beside it does not suffer', async () => {
    await store.images.pull(good, undefined);
    const file = join(store.storage, 'overlay-images', 'images.json');
    const list = JSON.parse(await readFile(file, 'utf8')) as object[];
    await writeFile(file, JSON.stringify([null, { id: '../..' }, ...list]));
    const { images } = await store.reopened();
    expect((await images.list()).map(({ tags }) => tags)).toEqual([[good]]);
    await writeFile(file, JSON.stringify(list));
  });
});

describe('the lists that are ours', () => {
  test.each(['templates.json', 'preloaded.json'])('%s may be broken', async (name) => {
    for (const text of ['{', 'null', '[null, {"volume": 3}]', '{"a": null}']) {
      await writeFile(join(store.root, name), text);
      const { images } = await store.reopened({ preload_dir: await store.makeFolder('preload') });
      expect(await images.list()).toEqual([]);
    }
    await rm(join(store.root, name));
  });
});

describe('a lost layer', () => {
  let name: string;
  let image: Image;
  let ids: readonly string[];
  beforeAll(async () => {
    name = await registry.push(
      await makeLayout(store.folder, { layers: [{ low: 'l' }, { middle: 'm' }, { high: 'h' }] }),
      'lost:1',
    );
  });
  const overlay = (...path: string[]): string => join(store.storage, 'overlay', ...path);

  test.each<[string, (layer: string) => Promise<void>]>([
    ['its folder', (layer) => rm(overlay(layer), { recursive: true })],
    ['its diff', (layer) => rm(overlay(layer, 'diff'), { recursive: true })],
    ['its link', (layer) => rm(overlay(layer, 'link'))],
  ])('(%s) makes the image absent, and the next pull mends it', async (_, lose) => {
    await store.images.pull(good, undefined);
    image = await store.images.pull(name, undefined);
    ids = await store.images.layerIds(image);
    await lose(ids[1] ?? '');
    const { images, rootfs } = await store.reopened();
    expect((await images.list()).map(({ tags }) => tags)).toEqual([[good]]);
    expect(await images.find(name)).toBeUndefined();
    await expect(rootfs.mount(id, image)).rejects.toMatchObject({
      id: 'ImageNotFound',
      hint: expect.stringContaining('pull'),
    });
    const mended = await images.pull(name, undefined);
    expect(mended.id).toBe(image.id);
    const path = await rootfs.mount(id, mended);
    expect((await readdir(path)).sort()).toEqual(['high', 'low', 'middle']);
    await rootfs.unmount(id);
    expect((await images.list()).map(({ tags }) => tags[0]).sort()).toEqual([good, name].sort());
  });

  test('is seen at use, without a restart', async () => {
    image = await store.images.pull(name, undefined);
    ids = await store.images.layerIds(image);
    await rm(overlay(ids[0] ?? '', 'diff'), { recursive: true });
    expect(await store.images.find(name)).toBeUndefined();
    expect(await store.images.list()).toEqual([]);
    await store.images.pull(name, undefined);
    expect(await store.images.find(name)).toBeDefined();
  });

  test('is mended without harm to a container that stands on the other layers', async () => {
    image = await store.images.pull(name, undefined);
    ids = await store.images.layerIds(image);
    const path = await store.rootfs.mount(id, image);
    await rm(overlay(ids[0] ?? ''), { recursive: true });
    await store.images.pull(name, undefined);
    expect(await readFile(join(path, 'low'), 'utf8')).toBe('l');
    expect(await readFile(join(path, 'middle'), 'utf8')).toBe('m');
    await store.rootfs.unmount(id);
    // what was moved aside goes at the next boot
    const [boot = ''] = await readdir(join(store.root, 'detached'));
    await rename(join(store.root, 'detached', boot), join(store.root, 'detached', 'earlier-boot'));
    await store.reopened();
    expect(await readdir(join(store.root, 'detached'))).toEqual([]);
    await rm(join(store.root, 'detached'), { recursive: true });
  });
});

test('a folder in place of a short name is followed nowhere else', async () => {
  const image = await store.images.pull(good, undefined);
  const [layer = ''] = await store.images.layerIds(image);
  const link = join(store.storage, 'overlay', layer, 'link');
  const text = await readFile(link, 'utf8');
  await writeFile(link, '../../../../etc');
  const { images } = await store.reopened();
  expect(await images.find(good)).toBeUndefined();
  await writeFile(link, text);
  await symlink('x', join(store.storage, 'overlay', 'l', 'DANGLING'));
  expect(await (await store.reopened()).images.find(good)).toBeDefined();
});

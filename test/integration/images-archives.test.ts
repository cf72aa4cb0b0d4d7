// Images come from archives, too: for nodes without a registry.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { cp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { contentsOf } from '../../src/images/archives.js';
import { hintPattern } from '../helpers/hints.js';
import { makeArchiveOf, makeLayout } from '../helpers/image.js';
import { noneUsed, TestStore } from '../helpers/store.js';

let store: TestStore;
beforeAll(async () => {
  store = await TestStore.open();
});
afterEach(() => removeAll());
afterAll(() => store?.destroy());

async function removeAll(): Promise<void> {
  for (const { id } of await store.images.list()) await store.images.remove(id, noneUsed);
}
/** What a file holds in the topmost layer of an image. */
async function fileOf(reference: string, path: string): Promise<string> {
  const image = await store.images.find(reference);
  const [top = 'none'] = image ? await store.images.layers(image) : [];
  return readFile(join(top, path), 'utf8');
}

describe('an archive', () => {
  test('and a layout folder are imported', async () => {
    const layout = await makeLayout(store.folder, { layers: [{ a: 'archived' }], compression: 'zstd' });
    const archive = await makeArchiveOf(layout, join(store.folder, 'one.tar'));
    expect(await store.images.importArchive(archive, 'localhost/one')).toMatchObject({
      tags: ['localhost/one:latest'],
    });
    expect(await store.images.importArchive(layout.path, 'localhost/two:2')).toMatchObject({
      tags: expect.arrayContaining(['localhost/two:2']),
    });
    await removeAll();
    await writeFile(archive, 'no archive at all');
    await expect(store.images.importArchive(archive, 'localhost/three')).rejects.toMatchObject({
      tool: 'skopeo',
    });
    expect(await store.kept()).toEqual([]);
  });

  test.each(['an archive', 'a layout folder'])('may have a colon in its name: %s', async (what) => {
    const layout = await makeLayout(store.folder, { layers: [{ a: 'archived' }] });
    const path = join(store.folder, 'web:1.25.tar');
    if (what === 'an archive') await makeArchiveOf(layout, path, 'registry.example.invalid/web:1.25');
    else await rename(layout.path, path);
    const [content, ...others] = await contentsOf(path);
    expect(others).toEqual([]);
    await store.images.importArchive(path, 'localhost/web', content?.reference);
    expect(await fileOf('localhost/web', 'a')).toBe('archived');
    await rm(path, { recursive: true });
  });

  test('of the preload folder is imported once, and pinned', async () => {
    const folder = await store.makeFolder('preload');
    const layout = async (content: string) => makeLayout(store.folder, { layers: [{ a: content }] });
    await makeArchiveOf(await layout('named'), join(folder, 'named.tar'), 'registry.example.invalid/named:1');
    await makeArchiveOf(await layout('unnamed'), join(folder, 'Un_named-1.36+x.tar'), '1.36');
    await writeFile(join(folder, 'broken.tar'), 'no archive');
    await writeFile(join(folder, 'notes.txt'), 'not an archive, and not called so');
    const open = () => store.reopened({ preload_dir: 'FOLDER/preload' });
    const tagsOf = async ({ images }: TestStore) =>
      (await images.list()).map(({ tags, pinned }) => [...tags, pinned]).sort();
    const both = [
      ['localhost/un_named-1.36-x:latest', true],
      ['registry.example.invalid/named:1', true],
    ];
    expect(await tagsOf(await open())).toEqual(both);
    const imported = await stat(join(store.storage, 'overlay-images', 'images.json'));
    expect(await tagsOf(await open())).toEqual(both);
    expect((await stat(join(store.storage, 'overlay-images', 'images.json'))).ino).toBe(imported.ino);
    // what was removed, and what was replaced by a newer archive, is imported again
    await removeAll();
    const newer = await layout('newer');
    await makeArchiveOf(newer, join(folder, 'named.tar'), 'registry.example.invalid/named:1');
    const third = await open();
    expect(await tagsOf(third)).toEqual(both);
    expect(await fileOf('registry.example.invalid/named:1', 'a')).toBe('newer');
    for (const { id } of await third.images.list()) await third.images.remove(id, noneUsed);
  });

  test('cannot be preloaded from a folder that is not there', async () => {
    await expect(store.reopened({ preload_dir: 'FOLDER/none' })).rejects.toMatchObject({
      id: 'InvalidConfigFile',
      message: expect.stringContaining('images.preload_dir'),
      report: expect.stringMatching(hintPattern('create the folder, or remove the key')),
    });
    await store.makeFolder('none');
    await store.reopened({ preload_dir: 'FOLDER/none' });
  });

  test('with several images gives each of them', async () => {
    const folder = await store.makeFolder('several');
    const [one, two] = [
      await makeLayout(store.folder, { layers: [{ a: '1' }] }),
      await makeLayout(store.folder, { layers: [{ a: '2' }] }),
    ];
    await cp(join(two.path, 'blobs'), join(one.path, 'blobs'), { recursive: true });
    const manifests = await Promise.all(
      [one, two].map(async ({ path }, index) => {
        const {
          manifests: [manifest],
        } = JSON.parse(await readFile(join(path, 'index.json'), 'utf8')) as { manifests: object[] };
        return {
          ...manifest,
          annotations: {
            'org.opencontainers.image.ref.name': `registry.example.invalid/several:${index + 1}`,
          },
        };
      }),
    );
    await writeFile(join(one.path, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
    await makeArchiveOf(one, join(folder, 'several.tar'));
    const { images } = await store.reopened({ preload_dir: 'FOLDER/several' });
    expect((await images.list()).flatMap(({ tags }) => tags).sort()).toEqual([
      'registry.example.invalid/several:1',
      'registry.example.invalid/several:2',
    ]);
  });
});

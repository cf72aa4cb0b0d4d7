import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { StorageLayout } from './layout.js';

let folder: string;
let layout: StorageLayout;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-layout-'));
  layout = new StorageLayout(folder);
});
afterEach(() => rm(folder, { recursive: true }));

/** As containers-storage does it: a new file takes the place of the old one. */
async function write(path: string, content: string): Promise<void> {
  await mkdir(join(folder, path, '..'), { recursive: true });
  await writeFile(join(folder, `${path}.new`), content);
  await rename(join(folder, `${path}.new`), join(folder, path));
}
const writeImages = (images: object[]): Promise<void> =>
  write('overlay-images/images.json', JSON.stringify(images));
const writeLayers = (layers: object[]): Promise<void> =>
  write('overlay-layers/layers.json', JSON.stringify(layers));
const writeConfig = (id: string, content: string): Promise<void> =>
  write(`overlay-images/${id}/=${Buffer.from(`sha256:${id}`).toString('base64')}`, content);

test('a store that is not there yet is empty', async () => {
  expect(await layout.readImages()).toEqual([]);
  expect(await layout.unusedLayers()).toEqual([]);
  expect(await layout.halfWritten()).toEqual([]);
  expect(layout.version()).toBe(' ');
});

test('what was written since is seen', async () => {
  await writeImages([{ id: 'a' }]);
  expect((await layout.readImages()).map(({ id }) => id)).toEqual(['a']);
  const before = layout.version();
  await writeImages([{ id: 'b' }]);
  expect((await layout.readImages()).map(({ id }) => id)).toEqual(['b']);
  expect(layout.version()).not.toBe(before);
});

test('layers come topmost first, and none may be missing', async () => {
  await writeLayers([
    { id: 'base' },
    { id: 'middle', parent: 'base' },
    { id: 'top', parent: 'middle' },
    { id: 'loose', parent: 'gone' },
  ]);
  expect((await layout.layersOf({ id: 'x', layer: 'top' })).map(({ id }) => id)).toEqual([
    'top',
    'middle',
    'base',
  ]);
  expect(await layout.layersOf({ id: 'x' })).toEqual([]);
  await expect(layout.layersOf({ id: 'x', layer: 'loose' })).rejects.toMatchObject({ id: 'RootfsMissing' });
});

test('layers that no image stands on are named, each before its parent', async () => {
  await writeLayers([
    { id: 'base' },
    { id: 'one', parent: 'base' },
    { id: 'left' },
    { id: 'lefter', parent: 'left' },
    { id: 'side', parent: 'base' },
    { id: 'mapped', parent: 'base' },
  ]);
  await writeImages([{ id: 'x', layer: 'one', 'mapped-layers': ['mapped'] }]);
  expect(await layout.unusedLayers()).toEqual(['lefter', 'side', 'left']);
});

test('what a writer left half written is named, wherever it lies', async () => {
  await writeLayers([]);
  await write('overlay-layers/.tmp-abc.tar-split.gz123', '');
  await write('overlay-images/def/.tmp-manifest456', '');
  expect((await layout.halfWritten()).sort()).toEqual([
    join(folder, 'overlay-images/def/.tmp-manifest456'),
    join(folder, 'overlay-layers/.tmp-abc.tar-split.gz123'),
  ]);
});

describe('a config', () => {
  test('is what is under "config"', async () => {
    await writeConfig('abc', JSON.stringify({ architecture: 'amd64', config: { User: 'me' } }));
    expect(await layout.configOf({ id: 'abc' })).toEqual({ User: 'me' });
    await writeConfig('def', '{}');
    expect(await layout.configOf({ id: 'def' })).toEqual({});
  });
  test('that is not written yet, or is cut off, is none', async () => {
    expect(await layout.configOf({ id: 'abc' })).toBeUndefined();
    await writeConfig('abc', '{"config": {"Us');
    expect(await layout.configOf({ id: 'abc' })).toBeUndefined();
    await writeConfig('abc', '{"config": {"User": "me"}}');
    expect(await layout.configOf({ id: 'abc' })).toEqual({ User: 'me' });
  });
});

test('a layer that was pulled anew has its new link', async () => {
  await writeLayers([{ id: 'a' }]);
  await write('overlay/a/link', 'OLD');
  expect(await layout.links(['a'])).toEqual(['l/OLD']);
  await write('overlay/a/link', 'NEW');
  await writeLayers([{ id: 'a', parent: '' }]);
  expect(await layout.links(['a'])).toEqual(['l/NEW']);
});

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdir, mkdtemp, readlink, rename, rm, writeFile } from 'node:fs/promises';
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

test('a store that does not exist yet is empty', async () => {
  expect(await layout.readImages()).toEqual([]);
  expect(await layout.unusedLayers()).toEqual([]);
  expect(await layout.halfWritten()).toEqual([]);
  expect(layout.version()).toBe(' ');
});

test('later changes are visible', async () => {
  await writeImages([{ id: 'a' }]);
  expect((await layout.readImages()).map(({ id }) => id)).toEqual(['a']);
  const before = layout.version();
  await writeImages([{ id: 'b' }]);
  expect((await layout.readImages()).map(({ id }) => id)).toEqual(['b']);
  expect(layout.version()).not.toBe(before);
});

test('layers are ordered topmost first, and none may be missing', async () => {
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

test('layers without an image are listed, each before its parent', async () => {
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

test('files of an interrupted write are listed, in all folders', async () => {
  await writeLayers([]);
  await write('overlay-layers/.tmp-abc.tar-split.gz123', '');
  await write('overlay-images/def/.tmp-manifest456', '');
  expect((await layout.halfWritten()).sort()).toEqual([
    join(folder, 'overlay-images/def/.tmp-manifest456'),
    join(folder, 'overlay-layers/.tmp-abc.tar-split.gz123'),
  ]);
});

describe('a config', () => {
  test('is read from the key "config"', async () => {
    await writeConfig('abc', JSON.stringify({ architecture: 'amd64', config: { User: 'me' } }));
    expect(await layout.configOf({ id: 'abc' })).toEqual({ User: 'me' });
    await writeConfig('def', '{}');
    expect(await layout.configOf({ id: 'def' })).toEqual({});
  });
  test('that is missing or truncated is refused', async () => {
    await expect(layout.configOf({ id: 'abc' })).rejects.toMatchObject({ id: 'ImageCorrupt' });
    await writeConfig('abc', '{"config": {"Us');
    await expect(layout.configOf({ id: 'abc' })).rejects.toMatchObject({ id: 'ImageCorrupt' });
    await writeConfig('abc', '{"config": {"User": "me"}}');
    expect(await layout.configOf({ id: 'abc' })).toEqual({ User: 'me' });
  });
  test.each([
    ['null', 'null'],
    ['an array', '[]'],
    ['a number', '3'],
    ['a config that is a list', '{"config": [1]}'],
    ['a User that is a number', '{"config": {"User": 3}}'],
    ['an Env that is a string', '{"config": {"Env": "A=b"}}'],
    ['a Cmd of objects', '{"config": {"Cmd": [{}]}}'],
    ['labels that are numbers', '{"config": {"Labels": {"a": 1}}}'],
    ['volumes that are a list', '{"config": {"Volumes": ["/data"]}}'],
    ['more than 4 MiB', JSON.stringify({ x: 'y'.repeat(5 << 20) })],
  ])('that is %s is refused', async (_, text) => {
    await writeConfig('abc', text);
    await expect(layout.configOf({ id: 'abc' })).rejects.toMatchObject({
      id: expect.stringMatching(/ImageCorrupt|FileRefused/),
    });
  });
  test('may have null values, and nested values are ignored', async () => {
    const deep = '['.repeat(9000) + ']'.repeat(9000);
    await writeConfig('abc', `{"x":${deep},"config":{"User":null,"Env":null,"Volumes":{"/v":${deep}}}}`);
    expect(await layout.configOf({ id: 'abc' })).toEqual({ Env: null, Volumes: { '/v': {} } });
    await writeConfig('def', '{"config":null}');
    expect(await layout.configOf({ id: 'def' })).toEqual({});
  });
});

test('an invalid entry of a list is ignored, the others are kept', async () => {
  await writeImages([
    { id: 'a' },
    null,
    3,
    { id: '../../x' },
    { id: 'b', names: 'x' },
    { id: 'c', names: null },
  ] as object[]);
  expect((await layout.readImages()).map(({ id }) => id)).toEqual(['a', 'c']);
  await writeLayers([{ id: 'a' }, [], { id: 'b', parent: '../etc' }] as object[]);
  expect([...(await layout.readLayers()).keys()]).toEqual(['a']);
});

test('a cycle of layers terminates', async () => {
  await writeLayers([
    { id: 'a', parent: 'b' },
    { id: 'b', parent: 'a' },
  ]);
  await expect(layout.layersOf({ id: 'x', layer: 'a' })).rejects.toMatchObject({ id: 'RootfsMissing' });
  expect((await layout.unusedLayers()).sort()).toEqual(['a', 'b']);
});

test('a layer without its folder, its files or its link is lost', async () => {
  await writeLayers([{ id: 'a' }]);
  expect(await layout.lostLayer([{ id: 'a' }])).toBe('a');
  await mkdir(join(folder, 'overlay/a/diff'), { recursive: true });
  expect(await layout.lostLayer([{ id: 'a' }])).toBe('a');
  await write('overlay/a/link', '');
  expect(await layout.lostLayer([{ id: 'a' }])).toBe('a');
  await write('overlay/a/link', 'NAME');
  expect(await layout.lostLayer([{ id: 'a' }])).toBeUndefined();
  await rm(join(folder, 'overlay/a/diff'), { recursive: true });
  expect(await layout.lostLayer([{ id: 'a' }])).toBe('a');
});

test('a missing short name of a layer is made anew', async () => {
  await writeLayers([{ id: 'a' }]);
  await write('overlay/a/link', 'NAME');
  await mkdir(join(folder, 'overlay/a/diff'));
  for (const lost of ['overlay/l/NAME', 'overlay/l']) {
    await rm(join(folder, lost), { recursive: true, force: true });
    expect(await layout.lostLayer([{ id: 'a' }])).toBeUndefined();
    expect(await readlink(join(folder, 'overlay/l/NAME'))).toBe('../a/diff');
  }
});

test('a layer that was pulled again has its new link', async () => {
  await writeLayers([{ id: 'a' }]);
  await write('overlay/a/link', 'OLD');
  expect(await layout.links(['a'])).toEqual(['l/OLD']);
  await write('overlay/a/link', 'NEW');
  await writeLayers([{ id: 'a', parent: '' }]);
  expect(await layout.links(['a'])).toEqual(['l/NEW']);
});

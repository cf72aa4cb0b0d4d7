// Damaged layers and image records: `crisp check --images` finds them, --repair pulls
// them anew, and the next start after a power loss uses none.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { makeArchiveOf, makeLayout } from '../helpers/image.js';
import type { Registry } from '../helpers/registry.js';
import { noneUsed, TestStore } from '../helpers/store.js';
import { StorageLayout } from '../../src/images/layout.js';
import { setAside } from '../../src/set-aside.js';
import type { Image } from '../../src/shapes/image.js';

const run = promisify(execFile);
const bin = fileURLToPath(new URL('../../bin/crisp', import.meta.url));

const healthy = 'ok no damage found (images: 3, layers: 5)';

let store: TestStore;
let registry: Registry;
let configFile: string;
/** Two images that share their lowest layer, and one that shares nothing. */
let [web, worker, other]: [Pulled, Pulled, Pulled] = [] as never;

interface Pulled {
  readonly name: string;
  readonly image: Image;
  /** Topmost first. */
  readonly layers: readonly string[];
}

beforeAll(async () => {
  store = await TestStore.open();
  registry = await store.registry();
  await store.trust([registry.address]);
  configFile = await store.writeConfig();
  const shared = { 'etc/shared': randomBytes(20_000) };
  const images: Record<string, Record<string, string | Buffer>[]> = {
    web: [shared, { 'etc/web': randomBytes(20_000), 'etc/.wh.shared': '' }, { 'etc/top': 'top of web\n' }],
    worker: [shared, { 'etc/worker': randomBytes(20_000) }],
    other: [{ 'etc/other': randomBytes(20_000) }],
  };
  for (const [name, layers] of Object.entries(images))
    await registry.push(await makeLayout(store.folder, { layers }), `${name}:1`);
});
async function pulled(name: string): Promise<Pulled> {
  const reference = `${registry.address}/${name}:1`;
  const image = await store.images.pull(reference, undefined);
  return { name: reference, image, layers: await store.images.layerIds(image) };
}
async function pullAll(): Promise<void> {
  [web, worker, other] = [await pulled('web'), await pulled('worker'), await pulled('other')];
}
beforeAll(pullAll);
afterEach(async () => {
  expect(await check('--repair')).toMatchObject({ exitCode: 0 });
  expect(await readdir(join(store.root, 'pulls'))).toEqual([]);
});
afterAll(() => store?.destroy());

interface Report {
  readonly exitCode: number;
  /** "LEVEL MESSAGE" of each finding. */
  readonly findings: readonly string[];
}
async function check(...flags: string[]): Promise<Report> {
  const argv = [bin, 'check', '--images', '--json', '--config', configFile, ...flags];
  const { stdout, code } = await run(process.execPath, argv).then(
    (done) => ({ ...done, code: 0 }),
    (error: unknown) => error as { stdout: string; code: number },
  );
  const { checks } = JSON.parse(stdout) as {
    checks: { findings: { level: string; message: string }[] }[];
  };
  const findings = checks.flatMap((one) => one.findings.map(({ level, message }) => `${level} ${message}`));
  return { exitCode: code, findings };
}

const diff = (layer: string | undefined, ...path: string[]): string =>
  join(store.storage, 'overlay', layer ?? '', 'diff', ...path);

/** All files of the store with their inodes and times, without the locks and the lists of containers-storage. */
async function snapshot(): Promise<string> {
  const { stdout } = await run('find', [
    ...[join(store.storage, 'overlay'), join(store.storage, 'overlay-images')],
    ...['!', '-name', '*.lock', '-printf', '%p %i %T@ %s\n'],
  ]);
  return stdout.split('\n').sort().join('\n');
}
/** The content of the images, as a container would see it. */
async function content(...images: readonly Pulled[]): Promise<string[]> {
  const texts = [];
  for (const { name } of images) {
    const image = await store.images.find(name);
    if (!image) throw new Error(`${name} is not in the store`);
    const target = await store.rootfs.mountImage('content', image);
    const { stdout } = await run('sh', ['-c', 'cd "$0" && find . -type f | sort | xargs md5sum', target]);
    await store.rootfs.unmountImage('content');
    texts.push(stdout);
  }
  return texts;
}

test('a healthy store is found healthy, and a repair changes nothing', async () => {
  const before = await snapshot();
  for (const flags of [[], ['--repair']])
    expect(await check(...flags)).toEqual({
      exitCode: 0,
      findings: [healthy],
    });
  expect(await snapshot()).toBe(before);
});

test('--repair alone is a mistake', async () => {
  const argv = [bin, 'check', '--repair', '--config', configFile];
  await expect(run(process.execPath, argv)).rejects.toMatchObject({ code: 2 });
});

describe('damage is found and repaired', () => {
  const shared = (): string => web.layers[2] ?? '';
  test.each<[string, () => Promise<unknown>, RegExp]>([
    ['a file is altered', () => writeFile(diff(shared(), 'etc/shared'), randomBytes(20_000)), /checksum/],
    ['a file is truncated', () => truncate(diff(shared(), 'etc/shared'), 4096), /checksum/],
    ['a file is empty', () => truncate(diff(shared(), 'etc/shared'), 0), /checksum/],
    ['a file is missing', () => rm(diff(shared(), 'etc/shared')), /no such file/],
    ['all files are missing', () => rm(diff(shared()), { recursive: true }), /folder is lost/],
    [
      'the folder is missing',
      () => rm(join(store.storage, 'overlay', shared()), { recursive: true }),
      /folder is lost/,
    ],
    [
      'the headers are truncated',
      () => truncate(join(store.storage, 'overlay-layers', `${shared()}.tar-split.gz`), 20),
      /EOF/,
    ],
    [
      'the headers are missing',
      () => rm(join(store.storage, 'overlay-layers', `${shared()}.tar-split.gz`)),
      /differ/,
    ],
  ])('in a layer of two images: %s', async (_, damage, reason) => {
    const before = await content(web, worker, other);
    const [id, names] = [shared(), [web.name, worker.name]];
    await damage();
    const found = await check();
    expect(found.exitCode).toBe(1);
    expect(found.findings).toEqual(
      // containers-storage cannot read the layers above a lost one either
      names.map((name) => expect.stringMatching(new RegExp(`^failure ${name}; (.*; )?layer ${id}: `))),
    );
    expect(found.findings[0]).toMatch(reason);
    const mended = await check('--repair');
    expect(mended.findings).toEqual(names.map((name) => expect.stringContaining(`ok repaired: ${name}; `)));
    expect(mended.exitCode).toBe(0);
    expect((await check()).findings).toEqual([healthy]);
    expect(await content(web, worker, other)).toEqual(before);
  });

  test('in an upper layer, under a running container: its files stay as they are', async () => {
    const image = await store.images.find(web.name);
    if (!image) throw new Error('no image');
    const rootfs = await store.rootfs.mount('runs-on', image);
    try {
      await writeFile(diff(web.layers[0], 'etc/top'), 'damaged\n');
      const { exitCode, findings } = await check('--repair');
      expect(findings).toEqual([
        expect.stringMatching(/^warning repaired: .*running containers keep the damaged files.*: runs-on$/),
      ]);
      expect(exitCode).toBe(0);
      expect(await readFile(join(rootfs, 'etc/top'), 'utf8')).toBe('damaged\n');
      expect(await readFile(diff(web.layers[0], 'etc/top'), 'utf8')).toBe('top of web\n');
      const again = await store.rootfs.mount('made-after', image);
      expect(await readFile(join(again, 'etc/top'), 'utf8')).toBe('top of web\n');
      await store.rootfs.unmount('made-after');
    } finally {
      await store.rootfs.unmount('runs-on');
    }
  });

  test.each(['the configuration', 'the manifest'])('in a record of an image: %s', async (which) => {
    const layout = new StorageLayout(store.storage);
    const stored = (await layout.readImages()).find(({ id }) => other.image.id === `sha256:${id}`);
    if (!stored) throw new Error('no image');
    const file = layout.dataFile(stored, which === 'the manifest' ? 'manifest' : other.image.id);
    for (const damage of [() => truncate(file, 10), () => rm(file)]) {
      await damage();
      const found = await check();
      expect([found.exitCode, found.findings]).toEqual([
        1,
        [expect.stringContaining(`failure ${other.name}; `)],
      ]);
      expect((await check('--repair')).exitCode).toBe(0);
      expect(await store.images.find(other.name)).toEqual(other.image);
    }
  });

  test('a layer is not in the list', async () => {
    const list = join(store.storage, 'overlay-layers', 'layers.json');
    const layers = JSON.parse(await readFile(list, 'utf8')) as { id: string }[];
    await writeFile(list, JSON.stringify(layers.filter(({ id }) => id !== other.layers[0])));
    const found = await check();
    expect([found.exitCode, found.findings]).toEqual([
      1,
      [expect.stringMatching(new RegExp(`^failure ${other.name}; .* is not in the store$`))],
    ]);
    expect(await check('--repair')).toMatchObject({ exitCode: 0 });
    expect(await content(other)).toHaveLength(1);
  });
});

test('a folder that was left by an interrupted pull is found, and gc removes it', async () => {
  const folder = join(store.storage, 'overlay', 'ab'.repeat(32));
  await mkdir(join(folder, 'diff', 'half'), { recursive: true });
  expect((await check()).findings).toEqual([healthy]); // it may be in the making
  const old = new Date(Date.now() - 2 * 3_600_000);
  await utimes(folder, old, old);
  const { exitCode, findings } = await check();
  expect([exitCode, findings]).toEqual([0, [`warning no layer has the folder ${folder}`]]);
  // Every other overlay of this machine could use a folder without a short name.
  await writeFile(join(folder, 'link'), 'ABCDEFGHIJKLMNOPQRSTUVWXYZ');
  await utimes(folder, old, old);
  const { stdout } = await run(process.execPath, [bin, 'gc', '--config', configFile]);
  expect(stdout).toContain(`removed image folder ${folder}\n`);
  expect((await check()).findings).toEqual([healthy]);
});

test('an image whose registry does not have it stays as it is, and the others are repaired', async () => {
  const made = await makeLayout(store.folder, { layers: [{ 'etc/loaded': randomBytes(20_000) }] });
  const archive = await makeArchiveOf(made, join(store.folder, 'loaded.tar'));
  const name = `${registry.address}/loaded:1`;
  const image = await store.images.importArchive(archive, name);
  const [layer = ''] = await store.images.layerIds(image);
  await truncate(diff(layer, 'etc/loaded'), 100);
  await truncate(diff(other.layers[0], 'etc/other'), 100);
  const names = async (): Promise<string[]> =>
    (await readdir(store.storage, { recursive: true })).filter(
      (path) => !path.endsWith('attributes-checked'),
    );
  const before = await names();
  const { exitCode, findings } = await check('--repair');
  expect(exitCode).toBe(1);
  expect(findings).toEqual([
    expect.stringContaining(`ok repaired: ${other.name}`),
    expect.stringMatching(
      new RegExp(`^failure ${name}; layer ${layer}: .*; not repaired: NotFoundInRegistry`),
    ),
  ]);
  expect((await names()).sort()).toEqual(before.sort());
  expect(await store.images.find(name)).toEqual(image);
  await store.images.remove(name, noneUsed);
});

describe('after a power loss', () => {
  const note = (): string => join(store.root, 'synced-layers.json');
  /** As if the machine had lost its power before these layers were flushed. */
  async function loseBefore(...layers: readonly string[]): Promise<void> {
    const known = JSON.parse(await readFile(note(), 'utf8')) as { layers: string[] };
    const flushed = known.layers.filter((line) => !layers.some((id) => line.startsWith(id)));
    expect(known.layers.length - flushed.length).toBe(layers.length);
    await writeFile(note(), JSON.stringify({ boot: 'another', layers: flushed }));
  }
  afterEach(pullAll);

  test('images that were not flushed are compared: damaged ones are gone, whole ones stay', async () => {
    await loseBefore(...worker.layers, ...other.layers);
    await truncate(diff(other.layers[0], 'etc/other'), 0);
    const { images } = await store.reopened();
    await store.trust([registry.address]);
    expect((await images.list()).flatMap(({ tags }) => tags).sort()).toEqual([web.name, worker.name].sort());
    const again = await images.pull(other.name, undefined);
    expect(again.id).toBe(other.image.id);
    expect((await check()).findings).toEqual([healthy]);
  });

  test('a layer that no image uses yet is not used by the next pull', async () => {
    const [layer = ''] = other.layers;
    // As an interrupted pull leaves it: the image is not in the list yet.
    const images = join(store.storage, 'overlay-images', 'images.json');
    const records = JSON.parse(await readFile(images, 'utf8')) as { id: string }[];
    await writeFile(images, JSON.stringify(records.filter(({ id }) => `sha256:${id}` !== other.image.id)));
    await loseBefore(layer);
    await truncate(diff(layer, 'etc/other'), 0);
    const reopened = await store.reopened();
    await store.trust([registry.address]);
    const list = join(store.storage, 'overlay-layers', 'layers.json');
    expect(await readFile(list, 'utf8')).not.toContain(layer);
    await reopened.images.pull(other.name, undefined);
    expect(await check()).toMatchObject({ exitCode: 0 });
  });

  // containers-storage removes the folder of a layer by the name in its link: with an
  // empty one it removes the folder of all short names.
  test('a half layer without the name of its link takes no other image with it', async () => {
    const [layer = ''] = other.layers;
    const list = join(store.storage, 'overlay-layers', 'layers.json');
    const layers = JSON.parse(await readFile(list, 'utf8')) as { id: string; flags?: object }[];
    const images = join(store.storage, 'overlay-images', 'images.json');
    const records = JSON.parse(await readFile(images, 'utf8')) as { id: string }[];
    await loseBefore(layer);
    await truncate(join(store.storage, 'overlay', layer, 'link'), 0);
    await writeFile(images, JSON.stringify(records.filter(({ id }) => `sha256:${id}` !== other.image.id)));
    await writeFile(
      list,
      JSON.stringify(layers.map((one) => (one.id === layer ? { ...one, flags: { incomplete: true } } : one))),
    );
    const { images: reopened } = await store.reopened();
    await store.trust([registry.address]);
    expect(await readFile(list, 'utf8')).not.toContain(layer);
    expect((await reopened.list()).flatMap(({ tags }) => tags).sort()).toEqual(
      [web.name, worker.name].sort(),
    );
    expect(setAside.all()).toEqual([]);
    expect(await content(web, worker)).toHaveLength(2);
  });

  test('an image whose layer has lost the name of its link is gone until it is pulled again', async () => {
    const [layer = ''] = other.layers;
    await loseBefore(layer);
    await truncate(join(store.storage, 'overlay', layer, 'link'), 0);
    const { images } = await store.reopened();
    await store.trust([registry.address]);
    expect((await images.list()).flatMap(({ tags }) => tags).sort()).toEqual([web.name, worker.name].sort());
    expect(setAside.all()).toEqual([]);
    expect((await images.pull(other.name, undefined)).id).toBe(other.image.id);
    expect((await check()).findings).toEqual([healthy]);
  });

  test('flushed images are not read again', async () => {
    await loseBefore();
    await truncate(diff(other.layers[0], 'etc/other'), 0); // it would be found
    const { images } = await store.reopened();
    expect(await images.find(other.name)).toEqual(other.image);
    await store.trust([registry.address]);
    await check('--repair');
  });
});

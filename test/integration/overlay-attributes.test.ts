// A layer that contains overlay's own attributes: only the host may set them, so they
// are removed.
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { readdir, readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { exposition } from '../../src/metrics.js';
import type { Image } from '../../src/shapes/image.js';
import { makeLayout } from '../helpers/image.js';
import { TestStore } from '../helpers/store.js';

const run = promisify(execFile);
const id = 'c'.repeat(64);
let store: TestStore;
let image: Image;
beforeAll(async () => {
  store = await TestStore.open();
  const deep = Array.from({ length: 12 }, () => 'd'.repeat(250)).join('/');
  const layout = await makeLayout(store.folder, {
    layers: [
      { 'hidden/file': 'hidden', 'emptied/file': 'low', 'whole/file': 'low', [`${deep}/file`]: 'low' },
      archive([
        { path: 'shown/', attributes: { redirect: '/hidden' } },
        { path: 'copy', attributes: { metacopy: '', redirect: '/hidden/file' } },
        { path: `${deep}/`, attributes: { redirect: '/hidden' } },
        { path: 'emptied/.wh..wh..opq' },
        { path: 'whole/', attributes: { opaque: 'y' } },
      ]),
    ],
  });
  image = await store.images.importArchive(layout.path, 'localhost/attributes:1');
});
afterEach(async () => {
  await store.rootfs.unmount(id);
  await store.rootfs.unmountImage('v');
});
afterAll(() => store?.destroy());

/** A tar of pax headers (pax(1)); a path with "/" behind it is a folder. */
function archive(entries: readonly { path: string; attributes?: Record<string, string> }[]): Buffer {
  const header = (path: string, type: string, size: number): Buffer => {
    const block = Buffer.alloc(512);
    block.write(path.slice(0, 99), 0);
    block.write(type === '5' ? '0000755\0' : '0000644\0', 100);
    block.write('0000000\0', 108);
    block.write('0000000\0', 116);
    block.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
    block.write('00000000000\0', 136);
    block.write(`        ${type}`, 148);
    block.write('ustar\x0000', 257);
    const sum = block.reduce((total, byte) => total + byte, 0);
    block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    return block;
  };
  const record = (key: string, value: string): string => {
    const rest = ` ${key}=${value}\n`;
    let length = rest.length;
    while (`${length}${rest}`.length !== length) length = `${length}${rest}`.length;
    return `${length}${rest}`;
  };
  return Buffer.concat([
    ...entries.flatMap(({ path, attributes = {} }) => {
      const records = Buffer.from(
        [
          record('path', path),
          ...Object.entries(attributes).map(([name, value]) =>
            record(`SCHILY.xattr.trusted.overlay.${name}`, value),
          ),
        ].join(''),
      );
      return [
        header('pax', 'x', records.length),
        Buffer.concat([records], Math.ceil(records.length / 512) * 512),
        header(path, path.endsWith('/') ? '5' : '0', 0),
      ];
    }),
    Buffer.alloc(1024),
  ]);
}

async function look(path: string): Promise<object> {
  const read = async (name: string) => (await readdir(join(path, name))).join();
  const { stdout } = await run('find', ['.', '-path', './ddd*', '-type', 'f', '-printf', '%f %s\n'], {
    cwd: path,
  });
  return {
    shown: await read('shown'),
    copy: await readFile(join(path, 'copy'), 'utf8'),
    deep: stdout,
    emptied: await read('emptied'),
    whole: await read('whole'),
  };
}
const honest = { shown: '', copy: '', deep: 'file 3\n', emptied: '', whole: '' };

test('redirect and metacopy attributes in a layer expose no other files; emptied folders stay empty', async () => {
  const path = await store.rootfs.mount(id, image);
  expect(await look(path)).toEqual(honest);
  expect(exposition()).toMatch(/^crisp_tool_duration_seconds_count\{tool="perl",result="ok"\} 1$/m); // for both layers
  // Changes by the container still work: renaming a folder of the image makes a redirect in its own layer.
  await rename(join(path, 'hidden'), join(path, 'moved'));
  expect(await readFile(join(path, 'moved/file'), 'utf8')).toBe('hidden');
  expect(await look(await store.rootfs.mountImage('v', image))).toEqual(honest);
});

test('a layer is checked once', async () => {
  const [top = ''] = await store.images.layers(image);
  const mark = join(top, '../attributes-checked');
  const { mtimeMs } = await stat(mark);
  await store.rootfs.mount(id, image);
  await store.rootfs.prepare(image);
  expect((await stat(mark)).mtimeMs).toBe(mtimeMs);
});

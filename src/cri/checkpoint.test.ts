// CheckpointContainer: the archive, and what is refused; a stand-in for the backend that dumps one file.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Bench, settled } from '../../test/helpers/services.js';
import { checkpointContainer, checkpointPod, restorePod } from './checkpoint.js';

let bench: Bench;
let dumped: { id: string; timeoutMs: number }[];
beforeEach(() => {
  dumped = [];
  bench = new Bench({
    backend: {
      checkpoint: async ({ id }, folder, timeoutMs) => {
        await settled();
        dumped.push({ id, timeoutMs });
        writeFileSync(join(folder, 'pages.img'), 'memory');
      },
    },
    rootfs: { written: () => join(bench.folder, 'written') },
  });
  mkdirSync(join(bench.folder, 'written'));
  writeFileSync(join(bench.folder, 'written', 'file'), 'changed');
});
afterEach(() => bench.end());

async function container(config: object = {}) {
  const record = await bench.running(
    await bench.pod(),
    { createdAt: '1700000000123456789', imageId: 'image-id', imageRef: 'image@digest' },
    { metadata: { name: 'c' }, image: { image: 'sha', user_specified_image: 'asked:1' }, ...config },
  );
  mkdirSync(record.folder, { recursive: true });
  writeFileSync(join(record.folder, 'config.json'), '{"ociVersion":"1.0.2"}');
  return record;
}
const location = (): string => join(bench.folder, 'archives', 'c.tar');
const checkpoint = (id: string, timeout = '7', path = location()) =>
  checkpointContainer(bench.services, { container_id: id, location: path, timeout });

test('an archive has the dump, the spec, the writable layer and the container, for root only', async () => {
  const { id } = await container();
  mkdirSync(join(bench.folder, 'archives'));
  const before = Date.now();
  expect(await checkpoint(id)).toEqual({});
  expect(dumped).toEqual([{ id, timeoutMs: 7_000 }]);
  expect(statSync(location()).mode & 0o777).toBe(0o600);
  const read = (name: string) =>
    execFileSync('tar', ['--extract', '--to-stdout', '--file', location(), `./${name}`], {
      encoding: 'utf8',
    });
  expect(read('checkpoint/pages.img')).toBe('memory');
  expect(JSON.parse(read('spec.dump'))).toEqual({ ociVersion: '1.0.2' });
  const { checkpointedTime, ...config } = JSON.parse(read('config.dump')) as Record<string, string>;
  expect(config).toEqual({
    id,
    name: 'c',
    rootfsImage: 'image-id',
    rootfsImageRef: 'image@digest',
    rootfsImageName: 'asked:1',
    runtime: 'fake',
    createdTime: '2023-11-14T22:13:20.123Z',
  });
  expect(Date.parse(checkpointedTime ?? '')).toBeGreaterThanOrEqual(before);
  writeFileSync(
    join(bench.folder, 'diff.tar'),
    execFileSync('tar', ['-xOf', location(), './rootfs-diff.tar']),
  );
  expect(execFileSync('tar', ['-xOf', join(bench.folder, 'diff.tar'), './file'], { encoding: 'utf8' })).toBe(
    'changed',
  );
  expect(readdirSync(join(bench.folder, 'archives'))).toEqual(['c.tar']);
  expect(readdirSync(join(bench.services.config.root, 'checkpoints'))).toEqual([]);
});

test.each([
  ['0', 60_000],
  ['1', 1_000],
  ['9999999999', 2 ** 31 - 1],
])('a timeout of %s s is %d ms for the backend', async (timeout, timeoutMs) => {
  const { id } = await container({ image: { image: 'sha' } });
  mkdirSync(join(bench.folder, 'archives'));
  await checkpoint(id, timeout);
  expect(dumped).toEqual([{ id, timeoutMs }]);
});

test('the image of a container is named by its id if nothing else is known', async () => {
  const { id } = await container({ image: { image: 'sha' } });
  mkdirSync(join(bench.folder, 'archives'));
  await checkpoint(id);
  const text = execFileSync('tar', ['-xOf', location(), './config.dump'], { encoding: 'utf8' });
  expect(JSON.parse(text)).toMatchObject({ rootfsImageName: 'sha' });
});

test.each<[string, () => { timeout?: string; path?: string }, string]>([
  ['a relative location', () => ({ path: 'c.tar' }), 'location'],
  ['a folder that does not exist', () => ({ path: '/none/c.tar' }), 'there is no folder /none'],
  [
    'a file that exists',
    () => {
      writeFileSync(location(), 'of somebody');
      return {};
    },
    'exists already',
  ],
  [
    'a link that leads nowhere',
    () => {
      symlinkSync('/none', location());
      return {};
    },
    'exists already',
  ],
  ['a negative timeout', () => ({ timeout: '-1' }), 'timeout is -1 s'],
])('a checkpoint with %s is refused', async (_, fault, message) => {
  const { id } = await container();
  mkdirSync(join(bench.folder, 'archives'));
  const { timeout, path } = fault();
  await expect(checkpoint(id, timeout, path)).rejects.toMatchObject({
    message: expect.stringContaining(message),
  });
  expect(dumped).toEqual([]);
});

test('a container that does not run, and whole pods, are refused', async () => {
  const { id } = await bench.container(await bench.pod());
  await expect(checkpoint(id)).rejects.toMatchObject({ id: 'WrongContainerState' });
  const pod = { pod_sandbox_id: '', location: '', timeout: '0', path: '', options: {} } as never;
  await expect(checkpointPod(bench.services, pod)).rejects.toMatchObject({ id: 'Unsupported' });
  await expect(restorePod(bench.services, pod)).rejects.toMatchObject({ id: 'Unsupported' });
  expect(existsSync(location())).toBe(false);
});

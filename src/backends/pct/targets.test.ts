import { afterEach, beforeEach, expect, test } from '@jest/globals';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeTargets } from './targets.js';

let rootfs: string;
let umask: number;
beforeEach(() => {
  umask = process.umask(0);
  rootfs = mkdtempSync(join(tmpdir(), 'crisp-targets-'));
});
afterEach(() => {
  process.umask(umask);
  rmSync(rootfs, { recursive: true });
});
const found = (path: string): [string, number, number, boolean] => {
  const { mode, uid, gid } = statSync(join(rootfs, path));
  return [(mode & 0o777).toString(8), uid, gid, statSync(join(rootfs, path)).isDirectory()];
};

test('files and folders are made with all above them, and belong to the root of the CT', async () => {
  await makeTargets(
    rootfs,
    [
      { path: '/a/b/c', isFolder: true },
      { path: '/a/file', isFolder: false },
      { path: '/', isFolder: true },
    ],
    100_000,
  );
  expect([found('a'), found('a/b'), found('a/b/c'), found('a/file')]).toEqual([
    ['755', 100_000, 100_000, true],
    ['755', 100_000, 100_000, true],
    ['755', 100_000, 100_000, true],
    ['644', 100_000, 100_000, false],
  ]);
  expect(readFileSync(join(rootfs, 'a/file'), 'utf8')).toBe('');
});

test('what is there stays as it is', async () => {
  mkdirSync(join(rootfs, 'etc'), { mode: 0o700 });
  writeFileSync(join(rootfs, 'etc/hosts'), 'text', { mode: 0o600 });
  await makeTargets(rootfs, [{ path: '/etc/hosts', isFolder: false }], 100_000);
  expect([found('etc'), found('etc/hosts')]).toEqual([
    ['700', 0, 0, true],
    ['600', 0, 0, false],
  ]);
  expect(readFileSync(join(rootfs, 'etc/hosts'), 'utf8')).toBe('text');
});

test('nothing is made through a link of the image, or above the root filesystem', async () => {
  const outside = mkdtempSync(join(tmpdir(), 'crisp-outside-'));
  try {
    symlinkSync(outside, join(rootfs, 'run'));
    await makeTargets(rootfs, [{ path: '/run/secrets/x', isFolder: true }], 0);
    await expect(makeTargets(join(rootfs), [{ path: `/../x`, isFolder: true }], 0)).rejects.toMatchObject({
      id: 'InvalidArgument',
    });
    expect(readdirSync(outside)).toEqual([]);
    expect(readdirSync(rootfs)).toEqual(['run']);
  } finally {
    rmSync(outside, { recursive: true });
  }
});

test('a file where a folder is needed is an error', async () => {
  writeFileSync(join(rootfs, 'etc'), '');
  await expect(makeTargets(rootfs, [{ path: '/etc/hosts', isFolder: false }], 0)).rejects.toThrow(/ENOTDIR/);
});

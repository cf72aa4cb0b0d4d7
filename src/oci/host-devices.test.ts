import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deviceNumbers, devicesAt } from './host-devices.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-devices-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

function node(name: string, type: 'b' | 'c', major: number, minor: number): string {
  const path = join(folder, name);
  execFileSync('mknod', ['-m', '640', path, type, String(major), String(minor)]);
  return path;
}

test.each([
  [1, 3],
  [259, 5],
  [8, 70_001],
  [4095, 1_048_575],
])('the kernel has the numbers %i and %i in one', (major, minor) => {
  expect(deviceNumbers(statSync(node('one', 'c', major, minor)).rdev)).toEqual({ major, minor });
});

test('a device has the type, the mode and the owner of its node, under the path in the container', async () => {
  const path = node('disk', 'b', 7, 300);
  execFileSync('chown', ['12:34', path]);
  expect(await devicesAt(path, '/dev/mine')).toEqual([
    { type: 'b', path: '/dev/mine', major: 7, minor: 300, fileMode: 0o640, uid: 12, gid: 34 },
  ]);
  expect(await devicesAt(node('tty', 'c', 4, 1), '/dev/x')).toMatchObject([
    { type: 'c', major: 4, minor: 1 },
  ]);
});

test('of a folder there are all devices below it, but no links and no files', async () => {
  mkdirSync(join(folder, 'sub/lower'), { recursive: true });
  node('one', 'c', 1, 3);
  node('sub/lower/two', 'c', 1, 5);
  symlinkSync('one', join(folder, 'link'));
  writeFileSync(join(folder, 'file'), '');
  const found = await devicesAt(folder, '/dev/all');
  expect(found.map(({ path }) => path).sort()).toEqual(['/dev/all/one', '/dev/all/sub/lower/two']);
});

test('a link to a device that the request names is followed', async () => {
  symlinkSync(node('one', 'c', 1, 3), join(folder, 'link'));
  expect(await devicesAt(join(folder, 'link'), '/dev/x')).toMatchObject([
    { path: '/dev/x', major: 1, minor: 3 },
  ]);
});

test('a path without a device has none', async () => {
  writeFileSync(join(folder, 'file'), '');
  expect(await devicesAt(join(folder, 'file'), '/dev/x')).toEqual([]);
  expect(await devicesAt(join(folder, 'none'), '/dev/x')).toEqual([]);
});

test('all devices of the host are without those that a container has itself', async () => {
  const paths = (await devicesAt('/dev', '/dev')).map(({ path }) => path);
  expect(paths).toEqual(expect.arrayContaining(['/dev/null', '/dev/zero']));
  expect(paths.filter((path) => /^\/dev\/(pts|shm|mqueue|fd|console|ptmx|lxc|lxd)(\/|$)/.test(path))).toEqual(
    [],
  );
  // Only at the top: elsewhere the names are free.
  node('console', 'c', 1, 3);
  expect(await devicesAt(folder, '/dev/x')).toHaveLength(1);
});

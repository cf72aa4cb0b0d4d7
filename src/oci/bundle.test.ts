import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Spec } from '../shapes/spec.js';
import { validateBundle, writeBundle } from './bundle.js';

let folder: string;
let mask: number;
beforeEach(() => {
  mask = process.umask(0); // so that the modes are ours alone
  folder = mkdtempSync(join(tmpdir(), 'crisp-bundle-'));
});
afterEach(() => {
  process.umask(mask);
  rmSync(folder, { recursive: true });
});

const spec = (process: object = {}, more: object = {}): Spec =>
  ({
    ociVersion: '1.1.0',
    root: { path: 'rootfs' },
    process: { args: ['/bin/sh'], env: ['PATH=/sbin:/bin'], cwd: '/', user: { uid: 0, gid: 0 }, ...process },
    ...more,
  }) as unknown as Spec;
function file(path: string, mode = 0o755): void {
  const whole = join(folder, 'rootfs', path);
  mkdirSync(dirname(whole), { recursive: true });
  writeFileSync(whole, '');
  chmodSync(whole, mode);
}
const issues = async (value: unknown) => {
  writeFileSync(join(folder, 'config.json'), JSON.stringify(value));
  return (await validateBundle(folder)).map(({ path }) => path);
};

test('config.json, which holds the environment, is accessible to root alone', () => {
  writeBundle(folder, spec());
  expect((statSync(join(folder, 'config.json')).mode & 0o777).toString(8)).toBe('600');
  expect(JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))).toEqual(spec());
});

test('a bundle without config.json, or without a rootfs or with an empty one, is invalid', async () => {
  expect((await validateBundle(folder)).map(({ path }) => path)).toEqual(['config.json']);
  writeFileSync(join(folder, 'config.json'), '{');
  expect((await validateBundle(folder)).map(({ path }) => path)).toEqual(['config.json']);
  expect(await issues({ ...spec(), root: {} })).toEqual(['root.path']);
  expect(await issues(spec())).toEqual(['root.path']);
  mkdirSync(join(folder, 'rootfs'));
  expect(await issues(spec())).toEqual(['root.path']);
  file('bin/sh');
  expect(await issues(spec())).toEqual([]);
});

test.each<[string, object, boolean]>([
  ['by its path', { args: ['/bin/sh'] }, true],
  ['by a path that does not exist', { args: ['/bin/none'] }, false],
  ['by PATH, in its second folder', { args: ['sh'] }, true],
  ['by PATH, which does not have it', { args: ['tool'] }, false],
  ['without PATH', { args: ['sh'], env: ['HOME=/bin'] }, false],
  ['from the working folder', { args: ['./tool'], cwd: '/opt' }, true],
  ['from another working folder', { args: ['./tool'] }, false],
  ['that is not executable', { args: ['/bin/text'] }, false],
  ['outside of the rootfs', { args: ['../../../../bin/sh'], cwd: '/' }, true], // which is inside, for whom the rootfs is /
  ['in a mount, which cannot be inspected', { args: ['/mounted/none'] }, true],
  ['that is a mount', { args: ['/mounted'] }, true],
  ['beside a mount', { args: ['/mounted-not/none'] }, false],
  ['with an empty name', { args: [''] }, false],
  ['that is a folder', { args: ['/bin'] }, false],
])('a program named %s', async (_, process, found) => {
  file('bin/sh');
  file('opt/tool');
  file('bin/text', 0o644);
  const mounts = [{ destination: '/mounted', type: 'tmpfs', source: 'tmpfs' }];
  expect(await issues(spec(process, { mounts }))).toEqual(found ? [] : ['process.args.0']);
});

test('a bind source must exist', async () => {
  file('bin/sh');
  mkdirSync(join(folder, 'here'));
  const at = '/x';
  const mounts = [
    { destination: at, type: 'tmpfs', source: 'none' },
    { destination: at, type: 'bind', source: 'here' },
    { destination: at, type: 'bind', source: 'none' },
    { destination: at, source: '/none', options: ['bind', 'ro'] },
    { destination: at, source: '/none', options: ['rbind'] },
    { destination: at, type: 'none', source: join(folder, 'here'), options: ['rbind'] },
  ];
  expect(await issues(spec({}, { mounts }))).toEqual([
    'mounts.2.source',
    'mounts.3.source',
    'mounts.4.source',
  ]);
});

test('a container without a process needs no program', async () => {
  file('x');
  expect(await issues({ ...spec(), process: undefined })).toEqual([]);
});

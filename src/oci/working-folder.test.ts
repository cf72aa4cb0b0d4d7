import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Mount, Spec } from '../shapes/spec.js';
import { checkProcessFolder, withWorkingFolder } from './working-folder.js';

let base: string;
let rootfs: string;
let volume: string;
beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'crisp-cwd-'));
  [rootfs, volume] = [join(base, 'rootfs'), join(base, 'volume')];
  await mkdir(join(rootfs, 'srv/app'), { recursive: true });
  await mkdir(join(volume, 'data'), { recursive: true });
  for (const [target, path] of [
    ['/srv/app', 'rootfs/app'],
    ['../../volume', 'rootfs/srv/up'],
    ['/proc/1/cwd', 'rootfs/way'],
    ['round', 'rootfs/round'],
    ['/proc/self/root', 'volume/link'],
    ['../volume/data', 'volume/fine'],
  ] as const)
    await symlink(target, join(base, path));
});
afterEach(() => rm(base, { recursive: true }));

const mounts = (): Mount[] => [
  { destination: '/proc', type: 'proc', source: 'proc' },
  { destination: '/run', type: 'tmpfs', source: 'tmpfs' },
  { destination: '/volume', type: 'bind', source: volume, options: ['rbind'] },
  { destination: '/host', type: 'bind', source: '/', options: ['rbind', 'ro'] },
];
const resolved = async (cwd: string): Promise<string> =>
  (await withWorkingFolder({ process: { cwd }, mounts: mounts() } as unknown as Spec, rootfs)).process.cwd;

test.each([
  ['/', '/'],
  ['/srv/app', '/srv/app'],
  ['/app/', '/srv/app'],
  ['/srv/up/data', '/volume/data'],
  ['/../../srv', '/srv'],
  ['/not/there', '/not/there'],
  ['/run/later', '/run/later'],
  ['/volume/fine', '/volume/data'],
  ['/volume/data/../../app', '/srv/app'],
])('%s is %s', async (cwd, expected) => {
  expect(await resolved(cwd)).toBe(expected);
});

test.each([
  '/proc',
  '/proc/1/root',
  '/srv/../proc/self/cwd',
  '/way',
  '/way/etc',
  '/volume/link',
  '/host/proc/1/root',
  '/round',
])('%s is refused', async (cwd) => {
  await expect(resolved(cwd)).rejects.toMatchObject({ id: 'InvalidArgument' });
});

describe('of a process', () => {
  let child: ChildProcess;
  afterEach(() => void child.kill('SIGKILL'));
  const inNamespace = async (cwd: string): Promise<number> => {
    child = spawn('unshare', ['--mount', 'sh', '-c', 'cd "$0" && echo there && exec sleep 60', cwd], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(child.stdout as NodeJS.ReadableStream, 'data');
    return child.pid as number;
  };

  test('on its own mounts is accepted', async () => {
    await checkProcessFolder(rootfs, await inNamespace(rootfs));
  });

  test.each([`/proc/${process.pid}/root`, `/proc/${process.pid}/cwd`, '/proc/1'])(
    'entered through %s is refused',
    async (cwd) => {
      await expect(checkProcessFolder(cwd, await inNamespace(cwd))).rejects.toMatchObject({
        id: 'InvalidArgument',
      });
    },
  );
});

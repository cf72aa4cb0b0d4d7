// Real mounts in a folder of the test's own.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mountIdMapped } from './idmap.js';
import { bindMount, isMountPoint, mount, mountPoints, unmount, unmountBelow } from './mounts.js';

let base: string;
const at = (...path: string[]): string => join(base, ...path);
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'crisp-mounts-'));
  for (const name of ['a', 'b', 'c']) mkdirSync(at(name));
});
afterEach(() => {
  for (let left = ours(); left.length > 0; left = ours())
    for (const target of left.reverse()) execFileSync('umount', ['-l', target]);
  rmSync(base, { recursive: true });
});
/** By another program, so that a fault here does not hide itself. */
function ours(): string[] {
  return execFileSync('findmnt', ['-lno', 'TARGET'], { encoding: 'utf8' })
    .split('\n')
    .filter((target) => target.startsWith(`${base}/`));
}
const optionsOf = (target: string): string[] =>
  execFileSync('findmnt', ['-no', 'OPTIONS', target], { encoding: 'utf8' }).trim().split(',');

describe('a mount', () => {
  test('has its type and its options: flags of the kernel, and those of the filesystem', async () => {
    await mount('tmpfs', 'tmpfs', at('a'), 'ro,nosuid,nodev,noexec,size=64k,mode=711');
    expect(optionsOf(at('a'))).toEqual(
      expect.arrayContaining(['ro', 'nosuid', 'nodev', 'noexec', 'size=64k', 'mode=711']),
    );
    await mount('tmpfs', 'tmpfs', at('b'), '');
    for (const flag of ['ro', 'nosuid', 'nodev', 'noexec']) expect(optionsOf(at('b'))).not.toContain(flag);
    expect(await isMountPoint(at('a'))).toBe(true);
    expect(await isMountPoint(at('c'))).toBe(false);
  });

  test('is at its path alone, and not at a link to it or in its folders', async () => {
    await mount('tmpfs', 'tmpfs', at('a'), '');
    mkdirSync(at('a', 'folder'));
    symlinkSync('a', at('link'));
    await bindMount(at('b'), at('c'));
    const paths = ['a', 'b', 'c', 'link', 'a/folder', 'none', 'none/below'];
    expect(await Promise.all(paths.map((path) => isMountPoint(at(path))))).toEqual([
      ...[true, false, true],
      ...[false, false, false, false],
    ]);
  });

  test('may name its folders from another working folder, which ours is only meanwhile', async () => {
    const before = process.cwd();
    for (const name of ['lower', 'upper', 'work']) mkdirSync(at('a', name));
    await mount('tmpfs', 'tmpfs', at('b'), '');
    for (const name of ['lower', 'upper', 'work']) mkdirSync(at('b', name));
    writeFileSync(at('b', 'lower', 'file'), 'below');
    await mount('overlay', 'overlay', at('c'), 'lowerdir=lower,upperdir=upper,workdir=work', {
      cwd: at('b'),
    });
    expect(readFileSync(at('c', 'file'), 'utf8')).toBe('below');
    expect(process.cwd()).toBe(before);
    await expect(mount('overlay', 'overlay', at('c'), 'lowerdir=none', { cwd: at('b') })).rejects.toThrow();
    expect(process.cwd()).toBe(before);
  });

  test('that fails is an error of the storage, or of the caller, with the words of the kernel', async () => {
    await expect(mount('none-such', 'x', at('a'), '', { stage: 'mount it' })).rejects.toMatchObject({
      id: 'StorageFailed',
      stage: 'mount it',
      tool: 'mount',
      message: expect.stringMatching(/cannot mount none-such at .*\/a: .*: No such device/),
    });
    await expect(mount('tmpfs', 'x', at('absent'), '', { errorId: 'RootfsMissing' })).rejects.toMatchObject({
      id: 'RootfsMissing',
    });
    const long = `lowerdir=${'x'.repeat(5_000)}`;
    await expect(mount('overlay', 'x', at('a'), long)).rejects.toThrow(/longer than a page/);
  });

  test('of a folder shows it at another place', async () => {
    writeFileSync(at('a', 'file'), 'one');
    await bindMount(at('a'), at('b'));
    expect(readFileSync(at('b', 'file'), 'utf8')).toBe('one');
    await expect(bindMount(at('none'), at('c'))).rejects.toMatchObject({ id: 'StorageFailed' });
  });
});

describe('the list of mounts', () => {
  test('has their paths as they are, and what each passes on', async () => {
    const [spaced, slave] = [at('with space'), at('slave')];
    for (const path of [spaced, slave]) mkdirSync(path);
    execFileSync('mount', ['-t', 'tmpfs', '--make-shared', 'tmpfs', spaced]);
    execFileSync('mount', ['--bind', spaced, slave]);
    execFileSync('mount', ['--make-slave', slave]);
    execFileSync('mount', ['-t', 'tmpfs', '--make-unbindable', 'tmpfs', at('a')]);
    execFileSync('mount', ['-t', 'tmpfs', '--make-private', 'tmpfs', at('b')]);
    const found = (await mountPoints()).filter(({ target }) => target.startsWith(base));
    expect(found).toEqual([
      { target: spaced, type: 'tmpfs', propagation: 'shared' },
      { target: slave, type: 'tmpfs', propagation: 'slave' },
      { target: at('a'), type: 'tmpfs', propagation: 'unbindable' },
      { target: at('b'), type: 'tmpfs', propagation: 'private' },
    ]);
  });
});

describe('unmounting', () => {
  test('takes what is mounted over each other, and no mount is no error', async () => {
    for (let layer = 0; layer < 2; layer++) await mount('tmpfs', 'tmpfs', at('a'), '');
    await mount('tmpfs', 'tmpfs', at('b'), '');
    await unmount(at('a'), at('b'), at('c'), at('absent'));
    while (await isMountPoint(at('a'))) await unmount(at('a'));
    expect(ours()).toEqual([]);
  });

  test('takes one that is in use out of the tree at once', async () => {
    await mount('tmpfs', 'tmpfs', at('a'), '');
    writeFileSync(at('a', 'file'), 'kept');
    const file = openSync(at('a', 'file'), 'r');
    await unmount(at('a'));
    expect(ours()).toEqual([]);
    expect(readFileSync(file, 'utf8')).toBe('kept');
    closeSync(file);
  });

  test('below a folder takes the deepest first, the folder itself, and none beside it', async () => {
    await mount('tmpfs', 'tmpfs', at('a'), '');
    mkdirSync(at('a', 'inner'));
    await mount('tmpfs', 'tmpfs', at('a', 'inner'), '');
    mkdirSync(at('ab'));
    await mount('tmpfs', 'tmpfs', at('ab'), '');
    await unmountBelow(at('a'));
    expect(ours()).toEqual([at('ab')]);
    await unmountBelow(at('a'));
  });
});

test('a mapped view has the owners of a user namespace, and a source that has none is an error', async () => {
  await mount('tmpfs', 'tmpfs', at('a'), '');
  writeFileSync(at('a', 'file'), '');
  const holder = spawn('unshare', ['--user', 'sh', '-c', 'echo up; exec sleep 1000'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(holder.stdout, 'data');
  try {
    for (const kind of ['uid', 'gid'])
      writeFileSync(`/proc/${holder.pid}/${kind}_map`, `0 ${kind === 'uid' ? 100_000 : 200_000} 10`);
    const namespace = `/proc/${holder.pid}/ns/user`;
    await mountIdMapped(at('a'), at('b'), namespace);
    const { uid, gid } = statSync(at('b', 'file'));
    expect([uid, gid]).toEqual([100_000, 200_000]);
    expect(statSync(at('a', 'file'))).toMatchObject({ uid: 0, gid: 0 });
    await expect(mountIdMapped(at('none'), at('c'), namespace)).rejects.toMatchObject({
      id: 'StorageFailed',
      stage: 'mount idmapped',
      message: expect.stringContaining(at('none')),
    });
    await expect(mountIdMapped(at('a'), at('c'), '/proc/self/ns/net')).rejects.toMatchObject({
      id: 'StorageFailed',
    });
    expect(ours()).toEqual([at('a'), at('b')]);
  } finally {
    holder.kill('SIGKILL');
    await once(holder, 'exit');
  }
});

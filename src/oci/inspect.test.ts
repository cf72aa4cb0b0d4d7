import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ContainerConfig } from '../cri/generated/runtime/v1/ContainerConfig.js';
import { receivedContainer } from '../../test/helpers/received.js';
import { inspectRootfs, leadsTo, resolveInside } from './inspect.js';

let base: string;
let rootfs: string;
beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'crisp-inspect-'));
  rootfs = join(base, 'rootfs');
  for (const folder of ['run', 'var', 'etc', 'a/b', 'bin'])
    await mkdir(join(rootfs, folder), { recursive: true });
});
afterEach(async () => {
  await rm(base, { recursive: true });
});

const inspect = (config: ContainerConfig, imageMounts: [number, string][] = []) =>
  inspectRootfs({
    rootfs,
    config: receivedContainer(config),
    imageMounts: new Map(imageMounts),
    cdiFolders: [join(base, 'cdi')],
  });

describe('a path of the host leads to a mount point', () => {
  const below = (path: string): string => join(base, path);
  beforeEach(async () => {
    for (const folder of ['mnt/dead', 'mnt/dead2', 'data']) await mkdir(below(folder), { recursive: true });
    await symlink(below('mnt/dead'), below('data/absolute'));
    await symlink('../mnt/dead/folder', below('data/relative'));
    await symlink('loop', below('data/loop'));
    await symlink('../mnt', below('data/near'));
  });
  test.each([
    ['mnt/dead', true],
    ['mnt/dead/folder', true],
    ['mnt/../mnt/./dead/x', true],
    ['data/absolute/x', true],
    ['data/relative', true],
    ['data/near/dead/../../data', true],
    ['data/loop', true], // cannot be found out
    ['mnt/dead2', false],
    ['mnt', false],
    ['data/near', false],
    ['data/none/mnt/dead', false],
    ['data', false],
  ])('%s: %p', async (path, expected) => {
    expect(await leadsTo(new Set([below('mnt/dead')]), `${base}/${path}`)).toBe(expected);
  });
  test('which is the root', async () => {
    expect(await leadsTo(new Set(['/']), base)).toBe(true);
  });
});

describe('where a path leads inside a rootfs', () => {
  beforeEach(async () => {
    await symlink('/run', join(rootfs, 'var/run'));
    await symlink('../a/./b', join(rootfs, 'etc/link'));
    await symlink('loop', join(rootfs, 'loop'));
    await symlink('../../..', join(rootfs, 'etc/climb'));
    await symlink('/etc/link/../none', join(rootfs, 'chain'));
  });
  test.each([
    ['/x/y', '/x/y'],
    ['//a//b/', '/a/b'],
    ['/a/../run', '/run'],
    ['/', '/'],
    ['/var/run/secrets', '/run/secrets'],
    ['/etc/link/c', '/a/b/c'],
    ['/chain/d', '/a/none/d'],
  ])('%s is %s', async (path, expected) => {
    expect(await resolveInside(rootfs, path, 'here')).toBe(expected);
  });
  test.each([
    ['/..', 'PathEscapes'],
    ['/a/../../etc', 'PathEscapes'],
    ['/etc/climb/etc', 'PathEscapes'],
    ['/loop', 'PathEscapes'],
    ['a', 'InvalidArgument'],
    ['', 'InvalidArgument'],
  ])('%s is %s', async (path, id) => {
    await expect(resolveInside(rootfs, path, 'here')).rejects.toMatchObject({
      id,
      message: expect.stringContaining('here: '),
    });
  });
});

describe('accounts', () => {
  test('are those of the image, wherever its links point', async () => {
    await writeFile(join(rootfs, 'a/passwd'), 'inside');
    await symlink('/a/passwd', join(rootfs, 'etc/passwd'));
    await symlink('../../../../../../../../../etc/group', join(rootfs, 'etc/group'));
    expect((await inspect({})).accounts).toEqual({ passwd: 'inside', group: '' });
  });
  test('are read from regular files only', async () => {
    execFileSync('mkfifo', [join(rootfs, 'etc/passwd')]);
    await mkdir(join(rootfs, 'etc/group'));
    expect((await inspect({})).accounts).toEqual({ passwd: '', group: '' });
  });
});

describe('unlimited account files', () => {
  test.each(['passwd', 'group'])('in /etc/%s are refused', async (name) => {
    await writeFile(join(rootfs, 'etc', name), 'x:x:1:1::/:\n'.repeat(100_000));
    await expect(inspect({})).rejects.toMatchObject({
      id: 'FileRefused',
      message: expect.stringContaining(`/etc/${name} of the image`),
    });
  });
});

describe('mounts', () => {
  test('are resolved on both sides', async () => {
    await symlink('/run', join(rootfs, 'var/run'));
    await mkdir(join(base, 'data'));
    await symlink('data', join(base, 'link'));
    expect(
      (await inspect({ mounts: [{ host_path: join(base, 'link'), container_path: '/var/run/x' }] })).mounts,
    ).toMatchObject([{ target: '/run/x', source: join(base, 'data') }]);
  });
  test.each([
    [{ host_path: '/no/such', container_path: '/x' }, 'MountSourceMissing'],
    [{ host_path: 'relative', container_path: '/x' }, 'InvalidArgument'],
    [{ host_path: '/', container_path: 'x' }, 'InvalidArgument'],
    [{ host_path: '/', container_path: '/../x' }, 'PathEscapes'],
  ])('%j is %s', async (mount, id) => {
    await expect(inspect({ mounts: [mount] })).rejects.toMatchObject({
      id,
      message: expect.stringContaining('mounts[0].'),
    });
  });
  test('of images resolve their sub path inside the image', async () => {
    const image = join(base, 'image');
    await mkdir(join(image, 'dir/sub'), { recursive: true });
    await symlink('/dir', join(image, 'link'));
    const of = (image_sub_path: string) =>
      inspect({ mounts: [{ container_path: '/x', image: { image: 'i' }, readonly: true, image_sub_path }] }, [
        [0, image],
      ]);
    expect((await of('')).mounts).toMatchObject([{ source: join(image, '/') }]);
    expect((await of('link/sub')).mounts).toMatchObject([{ source: join(image, 'dir/sub') }]);
    for (const wrong of ['none', '/dir', '../image', 'dir/../../x'])
      await expect(of(wrong)).rejects.toMatchObject({ id: 'ImageVolumeMountFailed' });
  });
});

describe('devices', () => {
  test('have the numbers of the host, and folders are expanded', async () => {
    await mkdir(join(base, 'dev/deep'), { recursive: true });
    execFileSync('mknod', ['-m', '640', join(base, 'dev/one'), 'c', '1', '3']);
    execFileSync('mknod', [join(base, 'dev/deep/two'), 'b', '300', '70000']);
    await symlink('one', join(base, 'dev/again'));
    const { devices } = await inspect({
      devices: [{ host_path: join(base, 'dev'), container_path: '/dev/all', permissions: 'r' }],
    });
    expect([...devices].sort((one, other) => one.device.path.localeCompare(other.device.path))).toMatchObject(
      [
        { device: { type: 'b', path: '/dev/all/deep/two', major: 300, minor: 70_000 }, permissions: 'r' },
        {
          device: { type: 'c', path: '/dev/all/one', major: 1, minor: 3, fileMode: 0o640 },
          permissions: 'r',
        },
      ],
    );
  });
  test.each([
    { host_path: '/etc/passwd' },
    { host_path: '/no/such' },
    { host_path: 'dev/null' },
    { host_path: '/dev/null', container_path: 'null' },
  ])('%j is refused', async (device) => {
    await expect(inspect({ devices: [device] })).rejects.toMatchObject({
      id: 'InvalidArgument',
      message: expect.stringContaining('devices[0]'),
    });
  });
  test('of the host are for privileged containers only', async () => {
    expect((await inspect({})).hostDevices).toEqual([]);
    const { hostDevices } = await inspect({ linux: { security_context: { privileged: true } } });
    expect(hostDevices).toContainEqual(expect.objectContaining({ path: '/dev/null', major: 1, minor: 3 }));
    expect(hostDevices.filter(({ path }) => /^\/dev\/(pts|shm|mqueue|console|ptmx)/.test(path))).toEqual([]);
  });
});

describe('a Localhost seccomp profile', () => {
  const of = (localhost_ref: string, privileged = false) =>
    inspect({
      linux: { security_context: { privileged, seccomp: { profile_type: 'Localhost', localhost_ref } } },
    });
  test('is read, unless the container is privileged', async () => {
    const path = join(base, 'profile.json');
    await writeFile(path, '{"defaultAction":"SCMP_ACT_LOG"}');
    expect((await of(path)).seccompProfile).toEqual({ defaultAction: 'SCMP_ACT_LOG' });
    expect((await of('/no/such', true)).seccompProfile).toBeUndefined();
  });
  test.each(['/no/such', '/etc/passwd', 'relative.json', ''])('"%s" is refused', async (path) => {
    await expect(of(path)).rejects.toMatchObject({
      id: 'InvalidArgument',
      message: expect.stringContaining('seccomp.localhost_ref'),
    });
  });
});

describe('limits', () => {
  async function chain(length: number): Promise<string> {
    await mkdir(join(rootfs, 'chain'));
    for (let link = 1; link <= length; link++)
      await symlink(link === length ? '/bin' : `l${link + 1}`, join(rootfs, 'chain', `l${link}`));
    return '/chain/l1';
  }
  test('as many links are followed as the kernel follows', async () => {
    expect(await resolveInside(rootfs, await chain(40), 'here')).toBe('/bin');
    await rm(join(rootfs, 'chain'), { recursive: true });
    await expect(resolveInside(rootfs, await chain(41), 'here')).rejects.toMatchObject({ id: 'PathEscapes' });
  });
  test('a link to a name that is too long is an error that names the field', async () => {
    await symlink('x'.repeat(300), join(rootfs, 'long'));
    await expect(resolveInside(rootfs, '/long', 'here')).rejects.toMatchObject({
      id: 'InvalidArgument',
      message: 'here: the path is too long',
    });
  });
  test('a file of accounts has at most 1 MiB, and a profile too', async () => {
    await writeFile(join(rootfs, 'etc/passwd'), 'x'.repeat(1 << 20));
    expect((await inspect({})).accounts.passwd).toHaveLength(1 << 20);
    await writeFile(join(rootfs, 'etc/passwd'), 'x'.repeat((1 << 20) + 1));
    await expect(inspect({})).rejects.toMatchObject({ id: 'FileRefused' });
    await rm(join(rootfs, 'etc/passwd'));
    const path = join(base, 'profile.json');
    const config = {
      linux: { security_context: { seccomp: { profile_type: 'Localhost' as const, localhost_ref: path } } },
    };
    const profile = '{"defaultAction":"SCMP_ACT_LOG"}';
    await writeFile(path, profile.padEnd(1 << 20));
    expect((await inspect(config)).seccompProfile).toEqual({ defaultAction: 'SCMP_ACT_LOG' });
    await writeFile(path, profile.padEnd((1 << 20) + 1));
    await expect(inspect(config)).rejects.toMatchObject({ id: 'InvalidArgument' });
  });
});

test('a device has the path of the host and all permissions where the request says nothing', async () => {
  expect((await inspect({ devices: [{ host_path: '/dev/null' }] })).devices).toMatchObject([
    { device: { path: '/dev/null' }, permissions: 'rwm' },
  ]);
});

describe('a mount source that does not exist', () => {
  const of = async (
    host_path: string,
    rejects: (path: string) => boolean,
  ): Promise<{ source: string; made: string[] }> => {
    const made: string[] = [];
    const { mounts } = await inspectRootfs({
      rootfs,
      config: receivedContainer({ mounts: [{ host_path, container_path: '/x' }] }),
      imageMounts: new Map(),
      absentSources: { rejects, made },
    });
    return { source: mounts[0]?.source ?? '', made };
  };
  test('is made as a folder that all may enter, and noted', async () => {
    const umask = process.umask(0);
    const path = join(base, 'new/folder');
    expect(await of(`${path}/`, () => false)).toEqual({ source: path, made: [join(base, 'new'), path] });
    process.umask(umask);
    expect((await stat(path)).mode & 0o7777).toBe(0o755);
  });
  test.each([
    ['as given', (): string => join(base, 'secret/x'), 'secret/x'],
    ['with a slash at its end', (): string => `${join(base, 'secret/x')}/`, 'secret/x'],
    ['behind a link', (): string => join(base, 'link/x'), 'secret/x'],
  ])('is an error if the configuration rejects it: %s', async (_, path, rejected) => {
    await mkdir(join(base, 'secret'));
    await symlink('secret', join(base, 'link'));
    await expect(of(path(), (at) => at === join(base, rejected))).rejects.toMatchObject({
      id: 'MountSourceMissing',
      message: expect.stringContaining('absent_mount_sources_to_reject'),
    });
  });
  test('is not made in a request that is refused for another reason', async () => {
    await expect(
      inspectRootfs({
        rootfs,
        config: receivedContainer({
          mounts: [{ host_path: join(base, 'new'), container_path: '/x' }],
          devices: [{ host_path: '/etc/passwd' }],
        }),
        imageMounts: new Map(),
        absentSources: { rejects: () => false, made: [] },
      }),
    ).rejects.toMatchObject({ id: 'InvalidArgument' });
    await expect(stat(join(base, 'new'))).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

test('the propagation of a mount is that of the mount that contains its source', async () => {
  const below = (name: string): string => join(base, name);
  await mkdir(below('shared'));
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', below('shared')]);
  try {
    execFileSync('mount', ['--make-shared', below('shared')]);
    await mkdir(below('shared/private'));
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', below('shared/private')]);
    execFileSync('mount', ['--make-private', below('shared/private')]);
    await mkdir(below('shared/private/x'));
    await mkdir(below('shared/privates'));
    const { mounts } = await inspect({
      mounts: ['shared', 'shared/private', 'shared/private/x', 'shared/privates'].map((name) => ({
        host_path: below(name),
        container_path: '/x',
      })),
    });
    expect(mounts.map(({ propagation }) => propagation)).toEqual(['shared', 'private', 'private', 'shared']);
  } finally {
    execFileSync('umount', ['-R', below('shared')]);
  }
});

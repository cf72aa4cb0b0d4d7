import { describe, expect, test } from '@jest/globals';
import type { Mount } from '../cri/generated/runtime/v1/Mount.js';
import { receivedContainer } from '../../test/helpers/received.js';
import type { MountFacts } from './inspect.js';
import { containerMounts, type MountsInput } from './mounts.js';

function of(mounts: Mount[] = [], more: Partial<MountsInput> = {}, facts: Partial<MountFacts> = {}) {
  return containerMounts({
    config: receivedContainer({ mounts }),
    facts: mounts.map((mount) => ({
      target: mount.container_path ?? '',
      source: mount.host_path ?? '',
      propagation: 'private',
      ...facts,
    })),
    privileged: false,
    readOnlyRootfs: false,
    hostNetwork: false,
    hasUserNamespace: false,
    sharedMemory: '/pod/shm',
    volumes: [],
    hasOwnIpc: false,
    podFolder: '/pod',
    cgroup: 'v1',
    moreMounts: [],
    features: { recursiveReadOnlyMounts: true, userNamespaces: true },
    ...more,
  });
}
const at = (destination: string, result: ReturnType<typeof of>) =>
  result.mounts.filter((mount) => mount.destination === destination);
const destinations = (result: ReturnType<typeof of>): string[] =>
  result.mounts.map((mount) => mount.destination);

test('the mounts of every container', () => {
  expect(destinations(of())).toEqual([
    '/proc',
    '/dev',
    '/sys',
    '/dev/pts',
    '/dev/mqueue',
    '/dev/shm',
    '/etc/resolv.conf',
    '/etc/hosts',
    '/etc/hostname',
    '/sys/fs/cgroup',
  ]);
  expect(at('/dev/shm', of())).toEqual([
    { destination: '/dev/shm', type: 'bind', source: '/pod/shm', options: ['rbind', 'rw'] },
  ]);
  expect(at('/dev/shm', of([], { sharedMemory: undefined }))).toMatchObject([{ source: '/dev/shm' }]);
  expect(at('/dev/shm', of([], { hasOwnIpc: true }))).toMatchObject([{ type: 'tmpfs' }]);
});

test('only privileged containers can write to /sys and the cgroups', () => {
  for (const path of ['/sys', '/sys/fs/cgroup']) {
    expect(at(path, of())[0]?.options).toContain('ro');
    expect(at(path, of([], { privileged: true }))[0]?.options).toContain('rw');
  }
  expect(at('/sys', of([], { hasUserNamespace: true, hostNetwork: true }))).toMatchObject([
    { type: 'bind', source: '/sys' },
  ]);
  expect(at('/sys/fs/cgroup', of([], { cgroup: 'v2' }))).toMatchObject([{ type: 'cgroup' }]);
  expect(at('/sys/fs/cgroup', of([], { cgroup: 'v2', privileged: true }))).toMatchObject([
    { type: 'bind', source: '/sys/fs/cgroup' },
  ]);
});

test('a mount of the request replaces the default one', () => {
  const result = of([
    { container_path: '/etc/hosts', host_path: '/kubelet/hosts' },
    { container_path: '/dev/shm', host_path: '/memory' },
  ]);
  expect(at('/etc/hosts', result)).toEqual([
    {
      destination: '/etc/hosts',
      type: 'bind',
      source: '/kubelet/hosts',
      options: ['rbind', 'rprivate', 'rw'],
    },
  ]);
  expect(at('/dev/shm', result)).toMatchObject([{ source: '/memory' }]);
  expect(
    destinations(of([{ container_path: '/dev', host_path: '/dev' }])).filter((path) =>
      path.startsWith('/dev'),
    ),
  ).toEqual(['/dev']);
});

test('parents are mounted before their children', () => {
  const paths = ['/a/b/c', '/a', '/a/b', '/etc', '/sys/fs/cgroup/x'];
  const order = destinations(
    of(
      paths.map((container_path) => ({ container_path, host_path: '/x' })),
      { moreMounts: [{ destination: '/a/b/d', source: '/y' }] },
    ),
  );
  for (const path of order)
    for (const parent of order)
      if (path.startsWith(`${parent}/`)) expect(order.indexOf(parent)).toBeLessThan(order.indexOf(path));
  expect(order).toContain('/a/b/d');
});

test('the files of the pod are read-only with a read-only root', () => {
  expect(at('/etc/resolv.conf', of([], { readOnlyRootfs: true }))).toEqual([
    {
      destination: '/etc/resolv.conf',
      type: 'bind',
      source: '/pod/resolv.conf',
      options: ['rbind', 'rprivate', 'nosuid', 'noexec', 'nodev', 'ro'],
    },
  ]);
});

describe('a mount of the request', () => {
  const one = (mount: Mount, facts: Partial<MountFacts> = {}, more: Partial<MountsInput> = {}) =>
    of([{ container_path: '/mnt', host_path: '/data', ...mount }], more, facts);
  const options = (...args: Parameters<typeof one>): readonly string[] =>
    at('/mnt', one(...args))[0]?.options ?? [];

  test('access and options', () => {
    expect(options({})).toEqual(['rbind', 'rprivate', 'rw']);
    expect(options({ readonly: true, mount_options: ['noexec'] })).toEqual([
      'rbind',
      'rprivate',
      'ro',
      'noexec',
    ]);
    expect(options({ readonly: true, recursive_read_only: true })).toEqual(['rbind', 'rprivate', 'rro']);
  });
  test('propagation, also of the root', () => {
    expect(one({})).toMatchObject({ rootfsPropagation: undefined });
    const both = one({ propagation: 'PROPAGATION_BIDIRECTIONAL' }, { propagation: 'shared' });
    expect(both.rootfsPropagation).toBe('rshared');
    expect(at('/mnt', both)[0]?.options).toContain('rshared');
    expect(
      one({ propagation: 'PROPAGATION_HOST_TO_CONTAINER' }, { propagation: 'slave' }).rootfsPropagation,
    ).toBe('rslave');
  });
  test('id mappings', () => {
    const maps = [{ container_id: 0, host_id: 65_536, length: 10 }];
    expect(at('/mnt', one({ uidMappings: maps, gidMappings: maps }))).toMatchObject([
      {
        options: ['rbind', 'rprivate', 'rw', 'idmap'],
        uidMappings: [{ containerID: 0, hostID: 65_536, size: 10 }],
        gidMappings: [{ containerID: 0, hostID: 65_536, size: 10 }],
      },
    ]);
    expect(() =>
      one({ uidMappings: maps }, {}, { features: { recursiveReadOnlyMounts: true, userNamespaces: false } }),
    ).toThrow(expect.objectContaining({ id: 'UnsupportedField' }));
  });
  test('recursively read-only, which the runtime may not support', () => {
    expect(() =>
      one(
        { readonly: true, recursive_read_only: true },
        {},
        { features: { recursiveReadOnlyMounts: false, userNamespaces: true } },
      ),
    ).toThrow(expect.objectContaining({ id: 'RROUnsupported' }));
  });
  test.each<[Mount, Partial<MountFacts>]>([
    [{ propagation: 'PROPAGATION_BIDIRECTIONAL' }, { propagation: 'slave' }],
    [{ propagation: 'PROPAGATION_HOST_TO_CONTAINER' }, { propagation: 'private' }],
    [{ recursive_read_only: true }, {}],
    [
      { readonly: true, recursive_read_only: true, propagation: 'PROPAGATION_HOST_TO_CONTAINER' },
      { propagation: 'shared' },
    ],
    [{ image: { image: 'x' } }, {}],
    [{ mount_options: ['rw'] }, {}],
    [{ mount_options: ['uid=0'] }, {}],
    [{}, { target: '/' }],
  ])('%j with %j is refused', (mount, facts) => {
    expect(() => one(mount, facts)).toThrow(
      expect.objectContaining({ id: 'InvalidArgument', message: expect.stringContaining('mounts[0]') }),
    );
  });
});

test('the standard mounts have the types, sources and options of the runtimes', () => {
  const safe = ['nosuid', 'noexec', 'nodev'];
  const all = of([], { volumes: [{ target: '/data', source: '/volumes/0' }] }).mounts;
  const found = Object.fromEntries(all.map(({ destination, ...rest }) => [destination, rest]));
  expect(found).toMatchObject({
    '/proc': { type: 'proc', source: 'proc', options: safe },
    '/dev': {
      type: 'tmpfs',
      source: 'tmpfs',
      options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
    },
    '/dev/pts': {
      type: 'devpts',
      source: 'devpts',
      options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
    },
    '/dev/mqueue': { type: 'mqueue', source: 'mqueue', options: safe },
    '/dev/shm': { type: 'bind', source: '/pod/shm', options: ['rbind', 'rw'] },
    '/sys': { type: 'sysfs', source: 'sysfs', options: [...safe, 'ro'] },
    '/sys/fs/cgroup': { type: 'cgroup', source: 'cgroup', options: [...safe, 'relatime', 'ro'] },
    '/data': { type: 'bind', source: '/volumes/0', options: ['rbind', 'rprivate', 'rw'] },
  });
  expect(at('/dev/shm', of([], { hasOwnIpc: true }))[0]).toMatchObject({
    type: 'tmpfs',
    source: 'shm',
    options: [...safe, 'mode=1777', 'size=65536k'],
  });
  const shared = of([], { hasUserNamespace: true, hostNetwork: true, privileged: true, cgroup: 'v2' });
  for (const path of ['/sys', '/sys/fs/cgroup'])
    expect(at(path, shared)[0]).toMatchObject({ source: path, options: ['rbind', ...safe, 'rw'] });
});

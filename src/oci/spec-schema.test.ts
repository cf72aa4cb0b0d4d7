import { expect, test } from '@jest/globals';
import { validateSpec } from './spec-schema.js';

const valid = {
  ociVersion: '1.0.2',
  root: { path: 'rootfs' },
  hostname: 'box',
  mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
  process: { user: { uid: 0, gid: 0 }, args: ['sh'], cwd: '/', env: ['A=', 'B=c'] },
  linux: {
    namespaces: [{ type: 'pid' }, { type: 'uts' }, { type: 'time' }],
    resources: { memory: { limit: -1 }, pids: { limit: 10 } },
    sysctl: { 'kernel.x': '1' },
  },
};
/** The valid spec with one value in another's place; undefined: left out. */
function changed(path: string, value: unknown): unknown {
  const spec = structuredClone(valid) as Record<string, unknown>;
  const keys = path.split('.');
  const last = keys.pop() ?? '';
  const parent = keys.reduce<Record<string, unknown>>(
    (object, key) => object[key] as Record<string, unknown>,
    spec,
  );
  if (value === undefined) delete parent[last];
  else parent[last] = value;
  return spec;
}

test('a valid spec has no issues, with or without its optional parts', () => {
  expect(validateSpec(valid)).toEqual([]);
  for (const path of ['process', 'mounts', 'linux.resources', 'process.env', 'hostname'])
    expect(validateSpec(changed(path, undefined))).toEqual([]);
  expect(validateSpec(changed('linux.resources.cpu', { shares: 2 ** 60, quota: -1 }))).toEqual([]);
});

test.each<[string, unknown, string, RegExp]>([
  ['ociVersion', '2.0.0', 'ociVersion', /1\.x\.y/],
  ['root', undefined, 'root', /expected object/],
  ['process.args', [], 'process.args', /at least one/],
  ['process.args', 'sh', 'process.args', /array/],
  ['process.cwd', 'here', 'process.cwd', /absolute/],
  ['process.env', ['A'], 'process.env.0', /NAME=VALUE/],
  ['process.user', { uid: '0', gid: 0 }, 'process.user.uid', /number/],
  ['process.user', { uid: 1.5, gid: 2 ** 32 }, 'process.user.uid', /int/],
  ['process.capabilities', { bounding: ['CHOWN'] }, 'process.capabilities.bounding.0', /CAP_/],
  [
    'process.rlimits',
    [
      { type: 'RLIMIT_CORE', soft: 1, hard: 1 },
      { type: 'RLIMIT_CORE', soft: 1, hard: 1 },
    ],
    'process.rlimits.1',
    /second RLIMIT_CORE/,
  ],
  ['process.typo', 1, 'process.typo', /not a property/],
  ['mounts', [{ destination: 'proc' }], 'mounts.0.destination', /absolute/],
  ['mounts', [{ destination: '/x', uidMappings: [] }], 'mounts.0', /both/],
  [
    'linux.namespaces',
    [{ type: 'pid' }, { type: 'uts' }, { type: 'pid' }],
    'linux.namespaces.2',
    /second pid/,
  ],
  ['linux.namespaces', [{ type: 'net' }, { type: 'uts' }], 'linux.namespaces.0.type', /network/],
  ['linux.namespaces', [], 'hostname', /uts/],
  ['linux.uidMappings', [{ containerID: 0, hostID: 0, size: 1 }], 'linux.uidMappings', /user namespace/],
  ['linux.devices', [{ type: 'c', path: '/dev/x' }], 'linux.devices.0', /major/],
  ['linux.resources', { memory: { limit: '1G' } }, 'linux.resources.memory.limit', /number/],
  [
    'linux.resources',
    { hugepageLimits: [{ pageSize: '2M', limit: 1 }] },
    'linux.resources.hugepageLimits.0.pageSize',
    /2MB/,
  ],
  ['linux.seccomp', { defaultAction: 'DENY' }, 'linux.seccomp.defaultAction', /SCMP_ACT_/],
  ['linux.maskedPaths', ['proc'], 'linux.maskedPaths.0', /absolute/],
  ['hooks', { prestart: [{ path: 'hook' }] }, 'hooks.prestart.0.path', /absolute/],
  ['annotations', { a: 1 }, 'annotations.a', /string/],
])('%s = %j', (path, value, at, expected) => {
  expect(validateSpec(changed(path, value))).toContainEqual({
    path: at,
    message: expect.stringMatching(expected),
  });
});

test.each([null, 'text', []])('%j is not a valid spec', (json) => {
  expect(validateSpec(json)).toHaveLength(1);
});

// The ranges of the Go types of the specification.
test.each<[string, (value: number | string) => unknown, (number | string)[], (number | string)[]]>([
  ['process.user', (uid) => ({ uid, gid: 0 }), [0, 2 ** 32 - 1], [-1, 2 ** 32, 0.5]],
  ['linux.resources', (shares) => ({ cpu: { shares } }), [0, 2 ** 63, 2 ** 64], [-1, 2 ** 65, 1.5]],
  ['linux.resources', (quota) => ({ cpu: { quota } }), [-(2 ** 63), 0, 2 ** 63], [-(2 ** 64), 2 ** 64]],
  ['linux.resources', (weight) => ({ blockIO: { weight } }), [0, 2 ** 16 - 1], [-1, 2 ** 16]],
  [
    'process.scheduler',
    (nice) => ({ policy: 'SCHED_OTHER', nice }),
    [-(2 ** 31), 2 ** 31 - 1],
    [-(2 ** 31) - 1, 2 ** 31],
  ],
  ['process.scheduler', (flag) => ({ policy: 'SCHED_OTHER', flags: [flag] }), ['SCHED_FLAG_X'], ['X']],
  ['process.oomScoreAdj', (value) => value, [-1000, 1000], [-1001, 1001]],
  [
    'linux.seccomp',
    (flag) => ({ defaultAction: 'SCMP_ACT_LOG', flags: [flag] }),
    ['SECCOMP_FILTER_FLAG_LOG'],
    ['LOG'],
  ],
  [
    'linux.seccomp',
    (index) => ({
      defaultAction: 'SCMP_ACT_LOG',
      syscalls: [{ names: ['x'], action: 'SCMP_ACT_LOG', args: [{ index, value: 0, op: 'SCMP_CMP_EQ' }] }],
    }),
    [0, 5],
    [-1, 6],
  ],
  [
    'linux.devices',
    (fileMode) => [{ type: 'c', path: '/x', major: 1, minor: 1, fileMode }],
    [0, 0o777],
    [-1, 0o1000],
  ],
  ['linux.memoryPolicy', (mode) => ({ mode }), ['MPOL_BIND'], ['BIND']],
  ['linux.memoryPolicy', (flag) => ({ flags: [flag] }), ['MPOL_F_NUMA_BALANCING'], ['MPOL_X']],
  ['hooks', (timeout) => ({ poststop: [{ path: '/x', timeout }] }), [1], [0]],
  ['root', (path) => ({ path }), ['x'], ['']],
  ['annotations', (key) => ({ [key]: 'x' }), ['a'], ['']],
])('%s has the range of its type', (path, make, good, bad) => {
  for (const value of good) expect([value, validateSpec(changed(path, make(value)))]).toEqual([value, []]);
  for (const value of bad)
    expect([value, validateSpec(changed(path, make(value))).length > 0]).toEqual([value, true]);
});

test.each<[string, unknown]>([
  ['linux.devices', [{ type: 'p', path: '/dev/x' }]],
  ['linux.devices', [{ type: 'c', path: '/dev/x', major: 1, minor: 2 }]],
  ['mounts', [{ destination: '/x', uidMappings: [], gidMappings: [] }]],
  [
    'process.rlimits',
    [
      { type: 'RLIMIT_CORE', soft: 1, hard: 1 },
      { type: 'RLIMIT_NOFILE', soft: 1, hard: 1 },
    ],
  ],
  ['linux.uidMappings', []],
])('%s = %j is valid', (path, value) => {
  expect(validateSpec(changed(path, value))).toEqual([]);
});

test.each<[string, unknown, string]>([
  ['linux.devices', [{ type: 'c', path: '/dev/x', major: 1 }], 'linux.devices.0'],
  ['linux.devices', [{ type: 'b', path: '/dev/x', minor: 1 }], 'linux.devices.0'],
  ['mounts', [{ destination: '/x', gidMappings: [] }], 'mounts.0'],
  ['linux.gidMappings', [{ containerID: 0, hostID: 0, size: 1 }], 'linux.gidMappings'],
  ['linux.uidMappings', [{ containerID: 0, hostID: 0, size: 0 }], 'linux.uidMappings.0.size'],
  [
    'linux.seccomp',
    { defaultAction: 'SCMP_ACT_LOG', syscalls: [{ names: [], action: 'SCMP_ACT_LOG' }] },
    'linux.seccomp.syscalls.0.names',
  ],
])('%s = %j is wrong at %s', (path, value, at) => {
  expect(validateSpec(changed(path, value)).map((issue) => issue.path)).toContain(at);
});

test('a domain name needs a uts namespace as well, and a spec without one has none', () => {
  const without = changed('linux.namespaces', [{ type: 'pid' }]) as Record<string, unknown>;
  delete without['hostname'];
  expect(validateSpec(without)).toEqual([]);
  expect(validateSpec({ ...without, domainname: 'x' }).map((issue) => issue.path)).toEqual(['hostname']);
  const user = changed('linux.namespaces', [{ type: 'uts' }, { type: 'user' }]) as { linux: object };
  const map = [{ containerID: 0, hostID: 0, size: 1 }];
  expect(validateSpec({ ...user, linux: { ...user.linux, uidMappings: map, gidMappings: map } })).toEqual([]);
});

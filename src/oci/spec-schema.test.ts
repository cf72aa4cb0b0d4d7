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

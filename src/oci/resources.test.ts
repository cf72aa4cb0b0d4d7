import { describe, expect, test } from '@jest/globals';
import type { LinuxContainerResources } from '../cri/generated/runtime/v1/LinuxContainerResources.js';
import { receivedResources } from '../../test/helpers/received.js';
import { parseNumberList } from './host-facts.js';
import { containerResources, resourcesNotHonoured } from './resources.js';

const v2 = {
  cgroup: 'v2' as const,
  swapAccounting: true,
  hugepageSizes: ['2MB', '1GB'],
  cpus: [0, 1, 3],
  memoryNodes: [0],
};
type Host = Parameters<typeof containerResources>[1];
const bare: Host = { ...v2, cgroup: 'v1', swapAccounting: false, hugepageSizes: [] };
const of = (wanted: LinuxContainerResources, host: Host = v2) =>
  containerResources(receivedResources(wanted), host);

test('no limits', () => {
  expect(of({})).toEqual({});
});

test('all limits', () => {
  expect(
    of({
      cpu_shares: 512,
      cpu_period: 100_000,
      cpu_quota: 50_000,
      cpuset_cpus: '0-1,3',
      cpuset_mems: '0',
      memory_limit_in_bytes: 1 << 26,
      memory_swap_limit_in_bytes: 1 << 27,
      hugepage_limits: [
        { page_size: '2MB', limit: 4 << 20 },
        { page_size: '64KB', limit: 0 },
      ],
      unified: { 'memory.high': '50000000' },
    }),
  ).toEqual({
    cpu: { shares: 512, period: 100_000, quota: 50_000, cpus: '0-1,3', mems: '0' },
    memory: { limit: 1 << 26, swap: 1 << 27 },
    hugepageLimits: [{ pageSize: '2MB', limit: 4 << 20 }],
    unified: { 'memory.high': '50000000' },
  });
});

test('-1 removes a limit', () => {
  expect(of({ cpu_quota: -1, memory_limit_in_bytes: -1, memory_swap_limit_in_bytes: -1 })).toEqual({
    cpu: { quota: -1 },
    memory: { limit: -1, swap: -1 },
  });
});

test('a memory limit without a swap limit allows no swap, also at an update that removes the limit', () => {
  const limit = 1 << 26;
  for (const host of [v2, { ...v2, cgroup: 'v1' as const }]) {
    expect(of({ memory_limit_in_bytes: limit }, host)).toEqual({ memory: { limit, swap: limit } });
    expect(of({ memory_limit_in_bytes: limit, memory_swap_limit_in_bytes: -1 }, host)).toEqual({
      memory: { limit, swap: -1 },
    });
    expect(of({ memory_limit_in_bytes: -1 }, host)).toEqual({ memory: { limit: -1, swap: -1 } });
  }
  expect(of({ memory_limit_in_bytes: limit }, bare)).toEqual({ memory: { limit } });
  expect(resourcesNotHonoured(receivedResources({ memory_limit_in_bytes: limit }), bare)).toEqual([]);
});

test('limits without a controller on the host are omitted and reported, unless they are zero', () => {
  const wanted = {
    memory_limit_in_bytes: 1 << 26,
    memory_swap_limit_in_bytes: 1 << 27,
    hugepage_limits: [{ page_size: '2MB', limit: 1 << 21 }],
  };
  expect(of(wanted, bare)).toEqual({ memory: { limit: 1 << 26 } });
  expect(resourcesNotHonoured(receivedResources(wanted), bare)).toEqual([
    'memory_swap_limit_in_bytes',
    'hugepage_limits',
  ]);
  expect(
    resourcesNotHonoured(
      receivedResources({ ...wanted, hugepage_limits: [{ page_size: '2MB', limit: 0 }] }),
      { ...bare, swapAccounting: true },
    ),
  ).toEqual([]);
});

describe('invalid values', () => {
  test.each<[string, LinuxContainerResources]>([
    ['cpu_shares', { cpu_shares: -1 }],
    ['cpu_shares', { cpu_shares: 1 }],
    ['cpu_shares', { cpu_shares: 300_000 }],
    ['cpu_period', { cpu_period: 10 }],
    ['cpu_period', { cpu_period: 2_000_000 }],
    ['cpu_quota', { cpu_quota: -2 }],
    ['cpu_quota', { cpu_quota: 999 }],
    ['memory_limit_in_bytes', { memory_limit_in_bytes: -2 }],
    ['memory_limit_in_bytes', { memory_limit_in_bytes: 100 }],
    ['memory_limit_in_bytes', { memory_limit_in_bytes: '9223372036854775807' }],
    ['memory_swap_limit_in_bytes', { memory_swap_limit_in_bytes: 1 << 20 }],
    ['memory_swap_limit_in_bytes', { memory_limit_in_bytes: 1 << 21, memory_swap_limit_in_bytes: 1 << 20 }],
    ['cpuset_cpus', { cpuset_cpus: '0-' }],
    ['cpuset_cpus', { cpuset_cpus: '2' }],
    ['cpuset_cpus', { cpuset_cpus: '0-3' }],
    ['cpuset_mems', { cpuset_mems: '1' }],
    ['hugepage_limits', { hugepage_limits: [{ page_size: '../2MB', limit: 1 }] }],
    ['unified', { unified: { '../memory.max': '1' } }],
  ])('%s: %j', (field, wanted) => {
    expect(() => of(wanted)).toThrow(
      expect.objectContaining({
        id: 'InvalidArgument',
        message: expect.stringContaining(`resources.${field}: `),
      }),
    );
  });
  test('unified on cgroup v1', () => {
    expect(() => of({ unified: { 'memory.high': '1' } }, bare)).toThrow(
      expect.objectContaining({ id: 'UnsupportedField' }),
    );
  });
});

test.each([
  ['0', [0]],
  ['0-2,5', [0, 1, 2, 5]],
  ['', undefined],
  ['2-1', undefined],
  ['a', undefined],
  ['0,', undefined],
])('the list %j', (text, expected) => {
  expect(parseNumberList(text)).toEqual(expected);
});

test.each<[LinuxContainerResources, boolean]>([
  [{ cpu_shares: 2 }, true],
  [{ cpu_shares: 1 }, false],
  [{ cpu_shares: 262_144 }, true],
  [{ cpu_shares: 262_145 }, false],
  [{ cpu_period: 1_000 }, true],
  [{ cpu_period: 999 }, false],
  [{ cpu_period: 1_000_000 }, true],
  [{ cpu_period: 1_000_001 }, false],
  [{ cpu_quota: 1_000 }, true],
  [{ cpu_quota: 999 }, false],
  [{ cpu_quota: -1 }, true],
  [{ cpu_quota: -2 }, false],
  [{ memory_limit_in_bytes: 4096 }, true],
  [{ memory_limit_in_bytes: 4095 }, false],
])('the bounds are those of the kernel: %j', (wanted, isValid) => {
  if (isValid) expect(() => of(wanted)).not.toThrow();
  else expect(() => of(wanted)).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
});

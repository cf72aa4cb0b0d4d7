import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  cgroupDriver,
  cgroupFolder,
  cgroupPath,
  readLayout,
  weightOfShares,
  writeResources,
  type CgroupLayout,
} from './cgroup.js';

const hybrid = `23 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
`;
const unified =
  '25 24 0:22 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n';

describe('the layout', () => {
  test('a hybrid host is v1, and its v2 tree is known', () => {
    expect(readLayout(hybrid)).toEqual({
      version: 'v1',
      unified: '/sys/fs/cgroup/unified',
      controllers: {
        cpu: '/sys/fs/cgroup/cpu,cpuacct',
        cpuacct: '/sys/fs/cgroup/cpu,cpuacct',
        memory: '/sys/fs/cgroup/memory',
        'name=systemd': '/sys/fs/cgroup/systemd',
      },
    });
  });

  test('v1 alone has no v2 tree', () => {
    expect(readLayout(hybrid.replace(/^41 .*\n/m, '')).unified).toBeUndefined();
  });

  test('a v2 host has one tree for all controllers', () => {
    const layout = readLayout(unified);
    expect(layout).toEqual({ version: 'v2', controllers: {}, unified: '/sys/fs/cgroup' });
    expect(cgroupFolder(layout, 'memory', '/kubepods/pod1')).toBe('/sys/fs/cgroup/kubepods/pod1');
  });

  test('a controller that v1 does not mount has no folder', () => {
    expect(cgroupFolder(readLayout(hybrid), 'hugetlb', '/x')).toBeUndefined();
    expect(cgroupFolder(readLayout(hybrid), 'memory', '/x/y')).toBe('/sys/fs/cgroup/memory/x/y');
  });

  test('a configured driver is used', () => {
    expect(cgroupDriver('systemd')).toBe('systemd');
    expect(cgroupDriver('cgroupfs')).toBe('cgroupfs');
  });
});

describe('the path of a group', () => {
  test.each([
    ['/kubepods/burstable/pod1/abc', '/kubepods/burstable/pod1/abc'],
    ['crisp/abc/', '/crisp/abc'],
    ['/', '/'],
    ['/a/../../etc', '/etc'],
    [
      'kubepods-burstable-pod1_2.slice:crisp:abc',
      '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/crisp-abc.scope',
    ],
    [':crisp:abc', '/system.slice/crisp-abc.scope'],
    ['/kubepods.slice/kubepods-pod1.slice', '/kubepods.slice/kubepods-pod1.slice'],
    ['kubepods-pod1.slice', '/kubepods.slice/kubepods-pod1.slice'],
    ['-.slice', '/'],
  ])('%s is %s', (name, path) => {
    expect(cgroupPath(name)).toBe(path);
  });
});

describe('limits', () => {
  let root: string;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'crisp-cgroup-'));
  });
  afterEach(async () => {
    await rm(root, { recursive: true });
  });

  test('on v2 shares become a weight, and swap is counted separately from memory', async () => {
    const layout: CgroupLayout = { version: 'v2', controllers: {}, unified: root };
    const expected = {
      'cpu.weight': '100',
      'cpu.max': '50000 100000',
      'cpuset.cpus': '0-1',
      'memory.max': '1048576',
      'memory.swap.max': '2097152',
      'pids.max': 'max',
      'hugetlb.2MB.max': '4194304',
      'memory.high': '900000',
    };
    await mkdir(join(root, 'pod'));
    for (const file of Object.keys(expected)) await writeFile(join(root, 'pod', file), '');
    await writeResources(
      '/pod',
      {
        cpu: { shares: 1024, quota: 50_000, period: 100_000, cpus: '0-1' },
        memory: { limit: 1 << 20, swap: 3 << 20 },
        pids: { limit: -1 },
        hugepageLimits: [{ pageSize: '2MB', limit: 4 << 20 }],
        unified: { 'memory.high': '900000' },
      },
      layout,
    );
    const written = await Promise.all(
      Object.keys(expected).map(async (file) => [file, await readFile(join(root, 'pod', file), 'utf8')]),
    );
    expect(Object.fromEntries(written)).toEqual(expected);
  });

  test('a missing cgroup is an error that names the file', async () => {
    const layout: CgroupLayout = { version: 'v2', controllers: {}, unified: root };
    await expect(writeResources('/pod', { memory: { limit: 1 << 20 } }, layout)).rejects.toMatchObject({
      id: 'InvalidArgument',
      message: expect.stringContaining(join(root, 'pod/memory.max')),
    });
  });

  test('a setting whose controller is not mounted is refused by name', async () => {
    const layout: CgroupLayout = { version: 'v1', controllers: {}, unified: undefined };
    await expect(writeResources('/pod', { pids: { limit: 10 } }, layout)).rejects.toMatchObject({
      id: 'UnsupportedField',
      message: expect.stringContaining('pids.max'),
    });
  });

  test.each([
    [2, 1],
    [1024, 100],
    [262_144, 10_000],
    [1, 1],
    [1_000_000, 10_000],
  ])('%i shares are a weight of %i', (shares, weight) => {
    expect(weightOfShares(shares)).toBe(weight);
  });
});

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

  test('a second v2 mount does not replace the first, and a path may have a space', () => {
    const second = hybrid.replace('41 31', '42 31').replace('/sys/fs/cgroup/unified', '/srv/v2');
    const spaced = unified.replace('/sys/fs/cgroup', '/mnt/my\\040groups');
    expect(readLayout(unified + second.split('\n').at(-2)).unified).toBe('/sys/fs/cgroup');
    expect(readLayout(spaced).unified).toBe('/mnt/my groups');
  });

  test('a filesystem of another type has no controllers, whatever its options', () => {
    const other = '50 23 0:50 / /mnt/memory rw,relatime - tmpfs tmpfs rw,memory\n';
    expect(readLayout(other + unified)).toEqual(readLayout(unified));
    expect(readLayout(other + hybrid)).toEqual(readLayout(hybrid));
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

  describe.each(['v1', 'v2'] as const)('with %s', (version) => {
    const layout = (): CgroupLayout =>
      version === 'v2'
        ? { version, controllers: {}, unified: root }
        : {
            version,
            controllers: { cpu: root, cpuset: root, memory: root, pids: root, hugetlb: root },
            unified: undefined,
          };
    /** Writes limits into a group with empty files; those that have content then. */
    const written = async (
      resources: Parameters<typeof writeResources>[1],
    ): Promise<Record<string, string>> => {
      await mkdir(join(root, 'pod'), { recursive: true });
      const all = [
        ...['cpu.shares', 'cpu.weight', 'cpu.max', 'cpu.cfs_quota_us', 'cpu.cfs_period_us'],
        ...['cpuset.cpus', 'cpuset.mems', 'memory.max', 'memory.swap.max', 'memory.limit_in_bytes'],
        ...['memory.memsw.limit_in_bytes', 'pids.max', 'hugetlb.2MB.max', 'hugetlb.2MB.limit_in_bytes'],
      ];
      for (const file of all) await writeFile(join(root, 'pod', file), '');
      await writeResources('/pod', resources, layout());
      const after = await Promise.all(
        all.map(async (file) => [file, await readFile(join(root, 'pod', file), 'utf8')] as const),
      );
      return Object.fromEntries(after.filter(([, text]) => text !== ''));
    };

    test.each([
      [{}, {}, {}],
      [{ cpu: { shares: 512 } }, { 'cpu.shares': '512' }, { 'cpu.weight': '59' }],
      [{ cpu: { quota: 25_000 } }, { 'cpu.cfs_quota_us': '25000' }, { 'cpu.max': '25000 100000' }],
      [{ cpu: { quota: 0 } }, { 'cpu.cfs_quota_us': '0' }, { 'cpu.max': '0 100000' }],
      [{ cpu: { quota: -1 } }, { 'cpu.cfs_quota_us': '-1' }, { 'cpu.max': 'max 100000' }],
      [{ cpu: { period: 50_000 } }, { 'cpu.cfs_period_us': '50000' }, { 'cpu.max': 'max 50000' }],
      [
        { cpu: { quota: 30_000, period: 60_000 } },
        { 'cpu.cfs_quota_us': '30000', 'cpu.cfs_period_us': '60000' },
        { 'cpu.max': '30000 60000' },
      ],
      [{ cpu: { cpus: '0-2,4' } }, { 'cpuset.cpus': '0-2,4' }, { 'cpuset.cpus': '0-2,4' }],
      [{ cpu: { mems: '0,1,3' } }, { 'cpuset.mems': '0,1,3' }, { 'cpuset.mems': '0,1,3' }],
      [{ cpu: { cpus: '', mems: '' } }, {}, {}],
      [{ memory: { limit: 70_000 } }, { 'memory.limit_in_bytes': '70000' }, { 'memory.max': '70000' }],
      [{ memory: { limit: -1 } }, { 'memory.limit_in_bytes': '-1' }, { 'memory.max': 'max' }],
      [{ memory: { limit: 0 } }, { 'memory.limit_in_bytes': '0' }, { 'memory.max': '0' }],
      [{ memory: { swap: 8_000 } }, { 'memory.memsw.limit_in_bytes': '8000' }, { 'memory.swap.max': '8000' }],
      [{ memory: { swap: -1 } }, { 'memory.memsw.limit_in_bytes': '-1' }, { 'memory.swap.max': 'max' }],
      [{ memory: { swap: 0 } }, { 'memory.memsw.limit_in_bytes': '0' }, { 'memory.swap.max': '0' }],
      [
        { memory: { limit: 9_000, swap: 8_000 } },
        { 'memory.limit_in_bytes': '9000', 'memory.memsw.limit_in_bytes': '8000' },
        { 'memory.max': '9000', 'memory.swap.max': '0' },
      ],
      [{ pids: { limit: 10_000 } }, { 'pids.max': '10000' }, { 'pids.max': '10000' }],
      [{ pids: { limit: -1 } }, { 'pids.max': 'max' }, { 'pids.max': 'max' }],
      [
        { hugepageLimits: [{ pageSize: '2MB', limit: 2_097_152 }] },
        { 'hugetlb.2MB.limit_in_bytes': '2097152' },
        { 'hugetlb.2MB.max': '2097152' },
      ],
    ])('%j sets what it names, and keeps the rest', async (resources, v1, v2) => {
      expect(await written(resources)).toEqual(version === 'v1' ? v1 : v2);
    });
  });

  describe('with v1', () => {
    const layout = (): CgroupLayout => ({
      version: 'v1',
      controllers: { cpu: root, memory: root },
      unified: undefined,
    });
    const read = (file: string): Promise<string> => readFile(join(root, 'pod', file), 'utf8');
    beforeEach(() => mkdir(join(root, 'pod')));

    test.each([
      ['more memory and swap', '1000', 3_000],
      ['unlimited swap', '1000', -1],
    ])('%s: both together first, since the kernel wants that to be the larger', async (_, present, swap) => {
      await writeFile(join(root, 'pod/memory.memsw.limit_in_bytes'), present);
      const refused = writeResources('/pod', { memory: { limit: 2_000, swap } }, layout());
      await expect(refused).rejects.toMatchObject({
        message: expect.stringContaining('memory.limit_in_bytes: there is no such group'), // the file is absent
      });
      expect((await read('memory.memsw.limit_in_bytes')).startsWith(String(swap))).toBe(true);
    });

    test('less memory and swap: the memory first', async () => {
      await writeFile(join(root, 'pod/memory.memsw.limit_in_bytes'), '9000');
      const refused = writeResources('/pod', { memory: { limit: 2_000, swap: 3_000 } }, layout());
      await expect(refused).rejects.toMatchObject({ id: 'InvalidArgument' });
      expect(await read('memory.memsw.limit_in_bytes')).toBe('9000');
    });

    test('a period with a quota: without a quota meanwhile, since the kernel checks them as a pair', async () => {
      await writeFile(join(root, 'pod/cpu.cfs_quota_us'), '70000');
      const refused = writeResources('/pod', { cpu: { quota: 20_000, period: 50_000 } }, layout());
      await expect(refused).rejects.toMatchObject({ message: expect.stringContaining('cpu.cfs_period_us') });
      expect((await read('cpu.cfs_quota_us')).slice(0, 2)).toBe('-1');
    });
  });

  test('a missing cgroup is an error that names the file', async () => {
    const layout: CgroupLayout = { version: 'v2', controllers: {}, unified: root };
    await expect(writeResources('/pod', { memory: { limit: 1 << 20 } }, layout)).rejects.toMatchObject({
      id: 'InvalidArgument',
      message: `the kernel refuses 1048576 for ${join(root, 'pod/memory.max')}: there is no such group, or no such setting`,
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
    [3, 2],
    [100, 17],
    [4096, 303],
    [262_143, 10_000],
  ])('%i shares are a weight of %i', (shares, weight) => {
    expect(weightOfShares(shares)).toBe(weight);
  });
});

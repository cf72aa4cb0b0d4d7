// v2 and v1 files as shown by kernel 6.1, in a folder of the test.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { hugePageSizes, readDetails, readOomKills, readProcesses, readUsage } from './cgroup-stats.js';
import type { CgroupLayout } from './cgroup.js';

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'crisp-cgroup-'));
});
afterEach(async () => {
  await rm(root, { recursive: true });
});

async function files(content: Record<string, string>): Promise<void> {
  for (const [file, text] of Object.entries(content)) {
    await mkdir(dirname(join(root, file)), { recursive: true });
    await writeFile(join(root, file), text);
  }
}

const pressure = (total: number): string =>
  `some avg10=1.50 avg60=0.70 avg300=0.20 total=${total}\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=${total - 1}\n`;

describe('on v2', () => {
  const layout = (): CgroupLayout => ({ version: 'v2', controllers: {}, unified: root });
  const recorded = {
    'pod/c/cpu.stat':
      'usage_usec 9007199254740\nuser_usec 3000000\nsystem_usec 1500000\nnr_periods 20\nnr_throttled 3\nthrottled_usec 4000\nnr_bursts 0\nburst_usec 0\n',
    'pod/c/memory.current': '1000000\n',
    'pod/c/memory.max': '67108864\n',
    'pod/c/memory.peak': '2000000\n',
    'pod/c/memory.swap.current': '4096\n',
    'pod/c/memory.swap.max': 'max\n',
    'pod/c/memory.stat':
      'anon 400000\nfile 500000\nkernel 70000\nkernel_stack 16384\nfile_mapped 123\ninactive_file 300000\npgfault 77\npgmajfault 5\n',
    'pod/c/memory.events': 'low 0\nhigh 0\nmax 11\noom 2\noom_kill 1\noom_group_kill 0\n',
    'pod/c/pids.current': '4\n',
    'pod/c/pids.max': 'max\n',
    'pod/c/io.stat':
      '8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:16 rbytes=5 wbytes=6 rios=7 wios=8 dbytes=0 dios=0\n',
    'pod/c/cpu.pressure': pressure(10),
    'pod/c/memory.pressure': pressure(20),
    'pod/c/io.pressure': pressure(30),
    'pod/c/cgroup.procs': '12\n34\n',
    'pod/c/nested/cgroup.procs': '56\n',
  };

  test('usage', async () => {
    await files(recorded);
    expect(readUsage('/pod/c', layout())).toEqual({
      cpuNs: 9007199254740000n,
      memory: {
        usageBytes: 1_000_000,
        workingSetBytes: 700_000,
        rssBytes: 400_000,
        cacheBytes: 500_000,
        mappedFileBytes: 123,
        limitBytes: 67_108_864,
        pageFaults: 77,
        majorPageFaults: 5,
      },
      swap: { usageBytes: 4096, limitBytes: undefined },
      pressure: {
        cpu: {
          some: { totalUs: 10, avg10: 1.5, avg60: 0.7, avg300: 0.2 },
          full: { totalUs: 9, avg10: 0.5, avg60: 0, avg300: 0 },
        },
        memory: expect.objectContaining({ some: expect.objectContaining({ totalUs: 20 }) }),
        io: expect.objectContaining({ some: expect.objectContaining({ totalUs: 30 }) }),
      },
    });
  });

  test('details', async () => {
    await files(recorded);
    expect(readDetails('/pod/c', layout())).toEqual({
      cpu: {
        userNs: 3_000_000_000n,
        systemNs: 1_500_000_000n,
        periods: 20,
        throttledPeriods: 3,
        throttledNs: 4_000_000n,
      },
      memory: { kernelBytes: 70_000, maxUsageBytes: 2_000_000, limitHits: 11, oomKills: 1 },
      tasks: { current: 4, max: undefined },
      devices: [
        { major: 8, minor: 0, readBytes: 4096, writeBytes: 8192, reads: 1, writes: 2 },
        { major: 254, minor: 16, readBytes: 5, writeBytes: 6, reads: 7, writes: 8 },
      ],
      hugePages: [],
    });
  });

  test('processes of subgroups are included', async () => {
    await files(recorded);
    expect(readProcesses('/pod/c', layout())).toEqual([12, 34, 56]);
  });

  test('a value that the kernel does not account for is undefined, not 0', async () => {
    const {
      'pod/c/memory.swap.current': _,
      'pod/c/io.pressure': __,
      'pod/c/memory.peak': ___,
      ...less
    } = recorded;
    await files(less);
    expect(readUsage('/pod/c', layout())).toMatchObject({ swap: undefined, pressure: undefined });
    expect(readDetails('/pod/c', layout())?.memory.maxUsageBytes).toBeUndefined();
  });

  const noMemory = {
    usageBytes: 1_000_000,
    workingSetBytes: 1_000_000,
    rssBytes: 0,
    cacheBytes: 0,
    mappedFileBytes: 0,
    limitBytes: undefined,
    pageFaults: 0,
    majorPageFaults: 0,
  };

  test('what a file does not name is 0', async () => {
    await files({
      ...recorded,
      'pod/c/cpu.stat': '',
      'pod/c/memory.stat': '',
      'pod/c/memory.events': '',
      'pod/c/memory.max': 'max\n',
      'pod/c/io.stat': '8:0\n',
      'pod/c/cpu.pressure': '',
    });
    const none = { totalUs: 0, avg10: 0, avg60: 0, avg300: 0 };
    const usage = readUsage('/pod/c', layout());
    expect(usage).toMatchObject({ cpuNs: 0n, pressure: { cpu: { some: none, full: none } } });
    expect(usage?.memory).toEqual(noMemory);
    expect(readDetails('/pod/c', layout())).toMatchObject({
      cpu: { userNs: 0n, systemNs: 0n, periods: 0, throttledPeriods: 0, throttledNs: 0n },
      memory: { kernelBytes: 0, limitHits: 0, oomKills: 0 },
      devices: [{ major: 8, minor: 0, readBytes: 0, writeBytes: 0, reads: 0, writes: 0 }],
    });
  });

  test('the working set is never negative, and the memory of the kernel was once its stacks alone', async () => {
    await files({ ...recorded, 'pod/c/memory.stat': 'inactive_file 2000000\nkernel_stack 16384\n' });
    expect(readUsage('/pod/c', layout())?.memory.workingSetBytes).toBe(0);
    expect(readDetails('/pod/c', layout())?.memory.kernelBytes).toBe(16_384);
  });

  test('a limit of swap is that of swap alone', async () => {
    await files({ ...recorded, 'pod/c/memory.swap.max': '12288\n' });
    expect(readUsage('/pod/c', layout())?.swap).toEqual({ usageBytes: 4096, limitBytes: 12_288 });
  });

  test('without the controller of processes there are none to count', async () => {
    const { 'pod/c/pids.current': _, 'pod/c/io.stat': __, ...less } = recorded;
    await files(less);
    expect(readDetails('/pod/c', layout())).toMatchObject({
      tasks: { current: 0, max: undefined },
      devices: [],
    });
  });

  test('huge pages are counted by their size', async () => {
    const sizes = hugePageSizes();
    const [size = ''] = sizes;
    expect(sizes).toEqual(sizes.map(() => expect.stringMatching(/^[1-9]\d*[KMG]B$/)));
    expect(size).not.toBe('');
    await files({ ...recorded, [`pod/c/hugetlb.${size}.current`]: '4194304\n' });
    expect(readDetails('/pod/c', layout())?.hugePages).toEqual([
      { pageSize: size, usageBytes: 4_194_304, maxUsageBytes: undefined },
    ]);
  });

  test('kills for memory are those of the group and all below it', async () => {
    await files(recorded);
    expect(readOomKills('/pod/c', layout())).toBe(1);
    expect(readOomKills('/gone', layout())).toBeUndefined();
    expect(
      readOomKills('/pod/c', { version: 'v1', controllers: { memory: root }, unified: root }),
    ).toBeUndefined();
  });

  test('a file that cannot be read is an error', async () => {
    await files(recorded);
    await rm(join(root, 'pod/c/memory.current'));
    await mkdir(join(root, 'pod/c/memory.current'));
    expect(() => readUsage('/pod/c', layout())).toThrow(/EISDIR/);
  });

  test('a removed cgroup has no usage', () => {
    expect([
      readUsage('/gone', layout()),
      readDetails('/gone', layout()),
      readProcesses('/gone', layout()),
    ]).toEqual([undefined, undefined, []]);
  });
});

describe('on v1', () => {
  const layout = (): CgroupLayout => ({
    version: 'v1',
    unified: undefined,
    controllers: Object.fromEntries(
      ['cpu', 'cpuacct', 'memory', 'pids', 'blkio'].map((name) => [name, join(root, name)]),
    ),
  });
  const recorded = {
    'cpuacct/c/cpuacct.usage': '123456789012345678\n',
    'cpuacct/c/cpuacct.usage_user': '1000\n',
    'cpuacct/c/cpuacct.usage_sys': '500\n',
    'cpu/c/cpu.stat': 'nr_periods 4\nnr_throttled 2\nthrottled_time 3000\n',
    'memory/c/memory.usage_in_bytes': '1000\n',
    'memory/c/memory.max_usage_in_bytes': '2000\n',
    'memory/c/memory.failcnt': '6\n',
    'memory/c/memory.kmem.usage_in_bytes': '64\n',
    'memory/c/memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 3\n',
    'memory/c/memory.stat':
      'cache 1\nrss 2\nhierarchical_memory_limit 4096\nhierarchical_memsw_limit 12288\ntotal_cache 100\ntotal_rss 200\ntotal_mapped_file 30\ntotal_swap 40\ntotal_pgfault 50\ntotal_pgmajfault 60\ntotal_inactive_file 1200\n',
    'pids/c/pids.current': '2\n',
    'pids/c/pids.max': '100\n',
    'pids/c/cgroup.procs': '7\n',
    'blkio/c/blkio.throttle.io_service_bytes_recursive':
      '8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Total 12288\nTotal 12288\n',
    'blkio/c/blkio.throttle.io_serviced_recursive': '8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n',
  };

  test('usage', async () => {
    await files(recorded);
    expect(readUsage('/c', layout())).toEqual({
      cpuNs: 123456789012345678n,
      memory: {
        usageBytes: 1000,
        workingSetBytes: 0,
        rssBytes: 200,
        cacheBytes: 100,
        mappedFileBytes: 30,
        limitBytes: 4096,
        pageFaults: 50,
        majorPageFaults: 60,
      },
      swap: { usageBytes: 40, limitBytes: 8192 },
      pressure: undefined,
    });
  });

  test('details', async () => {
    await files(recorded);
    expect(readDetails('/c', layout())).toEqual({
      cpu: { userNs: 1000n, systemNs: 500n, periods: 4, throttledPeriods: 2, throttledNs: 3000n },
      memory: { kernelBytes: 64, maxUsageBytes: 2000, limitHits: 6, oomKills: 3 },
      tasks: { current: 2, max: 100 },
      devices: [{ major: 8, minor: 0, readBytes: 4096, writeBytes: 8192, reads: 1, writes: 2 }],
      hugePages: [],
    });
    expect(readProcesses('/c', layout())).toEqual([7]);
  });

  test('the greatest number means no limit', async () => {
    await files({
      ...recorded,
      'memory/c/memory.stat': recorded['memory/c/memory.stat'].replace(
        'limit 4096',
        'limit 9223372036854771712',
      ),
    });
    expect(readUsage('/c', layout())?.memory.limitBytes).toBeUndefined();
  });

  test('without swap accounting there is no swap', async () => {
    await files({
      ...recorded,
      'memory/c/memory.stat': recorded['memory/c/memory.stat'].replace(
        /^(total_swap|hierarchical_memsw_limit).*\n/gm,
        '',
      ),
    });
    expect(readUsage('/c', layout())?.swap).toBeUndefined();
  });

  test('without a limit of memory and swap there is none of swap; it is never negative', async () => {
    const of = (memory: number, both: number | string): Record<string, string> => ({
      ...recorded,
      'memory/c/memory.stat': `hierarchical_memory_limit ${memory}\nhierarchical_memsw_limit ${both}\ntotal_swap 40\n`,
    });
    await files(of(4_096, '9223372036854771712'));
    expect(readUsage('/c', layout())?.swap).toEqual({ usageBytes: 40, limitBytes: undefined });
    await files(of(4_096, 1_000));
    expect(readUsage('/c', layout())?.swap).toEqual({ usageBytes: 40, limitBytes: 0 });
    await files({ 'memory/c/memory.stat': 'hierarchical_memsw_limit 5000\ntotal_swap 40\n' });
    expect(readUsage('/c', layout())?.swap).toEqual({ usageBytes: 40, limitBytes: 5_000 });
  });

  test('what a file does not name is 0, or no limit', async () => {
    await files({
      ...recorded,
      'cpu/c/cpu.stat': '',
      'memory/c/memory.stat': '',
      'memory/c/memory.oom_control': '',
    });
    expect(readUsage('/c', layout())?.memory).toEqual({
      usageBytes: 1000,
      workingSetBytes: 1000,
      rssBytes: 0,
      cacheBytes: 0,
      mappedFileBytes: 0,
      limitBytes: undefined,
      pageFaults: 0,
      majorPageFaults: 0,
    });
    expect(readDetails('/c', layout())).toMatchObject({
      cpu: { periods: 0, throttledPeriods: 0, throttledNs: 0n },
      memory: { oomKills: 0 },
    });
  });

  test('a controller that is not mounted counts nothing, and without that of memory there is no usage', async () => {
    const [size = ''] = hugePageSizes();
    await files({
      ...recorded,
      [`hugetlb/c/hugetlb.${size}.usage_in_bytes`]: '2097152\n',
      [`hugetlb/c/hugetlb.${size}.max_usage_in_bytes`]: '4194304\n',
    });
    const { pids: _, blkio: __, ...controllers } = layout().controllers;
    expect(readDetails('/c', { ...layout(), controllers })).toMatchObject({
      tasks: { current: 0, max: undefined },
      devices: [],
      hugePages: [],
    });
    const huge = { ...layout(), controllers: { ...layout().controllers, hugetlb: join(root, 'hugetlb') } };
    expect(readDetails('/c', huge)?.hugePages).toEqual([
      { pageSize: size, usageBytes: 2_097_152, maxUsageBytes: 4_194_304 },
    ]);
    expect(readUsage('/c', { ...layout(), controllers: { cpuacct: join(root, 'cpuacct') } })).toBeUndefined();
  });
});

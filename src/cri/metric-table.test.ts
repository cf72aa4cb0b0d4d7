// All input values are different numbers, so that no metric can show the wrong one.
import { expect, test } from '@jest/globals';
import type { PressureLine } from '../host/cgroup-stats.js';
import { containerMetrics, interfaceMetrics, type Counted, type MetricTable } from './metric-table.js';
import { linuxResourcesOf } from './proto.js';

const line = (seconds: number): PressureLine => ({
  totalUs: seconds * 1e6 + 1,
  avg10: 1,
  avg60: 2,
  avg300: 3,
});
const ns = (seconds: number): bigint => BigInt(seconds) * 1_000_000_000n + 999_999_999n;
const counted: Counted = {
  usage: {
    cpuNs: ns(101),
    memory: {
      usageBytes: 102,
      workingSetBytes: 103,
      rssBytes: 104,
      cacheBytes: 105,
      mappedFileBytes: 106,
      limitBytes: 107,
      pageFaults: 108,
      majorPageFaults: 109,
    },
    swap: { usageBytes: 110, limitBytes: 111 },
    pressure: {
      cpu: { some: line(112), full: line(113) },
      memory: { some: line(114), full: line(115) },
      io: { some: line(116), full: line(117) },
    },
  },
  details: {
    cpu: { userNs: ns(118), systemNs: ns(119), periods: 120, throttledPeriods: 121, throttledNs: ns(122) },
    memory: { kernelBytes: 123, maxUsageBytes: 124, limitHits: 125, oomKills: 126 },
    tasks: { current: 127, max: 128 },
    devices: [{ major: 8, minor: 1, readBytes: 129, writeBytes: 130, reads: 131, writes: 132 }],
    hugePages: [{ pageSize: '2MB', usageBytes: 133, maxUsageBytes: 134 }],
  },
  pids: [2, 3, 4],
  openFiles: { files: 135, sockets: 136 },
  openFilesLimit: 137,
  layer: { usedBytes: 138, inodesUsed: 139, measuredAtMs: 1 },
  filesystem: { device: '/dev/data', sizeBytes: 140, inodes: 141, inodesFree: 142 },
  deviceName: (major, minor) => `/dev/${major}-${minor}`,
  resources: linuxResourcesOf({
    memory_limit_in_bytes: '143',
    memory_swap_limit_in_bytes: '144',
    cpu_shares: '145',
    cpu_period: '146',
    cpu_quota: '147',
    unified: { 'memory.min': '148' },
  }),
  startedAt: '149999999999',
};

/** Name -> "LABELS: VALUE" of each row. */
function shown<Source>(table: MetricTable<Source>, source: Source): Record<string, string[]> {
  return Object.fromEntries(
    Object.entries(table).map(([name, { values }]) => {
      const found = values(source) ?? [];
      const rows = typeof found === 'object' ? found : [{ labels: [], value: found }];
      return [name, rows.map(({ labels, value }) => [...labels, value].join(' '))];
    }),
  );
}

test('each metric of a container has the value that its name says', () => {
  const { container_last_seen: seen = [], ...rest } = shown(containerMetrics, counted);
  expect(Math.abs(Number(seen[0]) - Date.now() / 1000)).toBeLessThan(60);
  expect(rest).toEqual({
    container_start_time_seconds: ['149'],
    container_cpu_usage_seconds_total: ['total 101'],
    container_cpu_user_seconds_total: ['118'],
    container_cpu_system_seconds_total: ['119'],
    container_cpu_cfs_periods_total: ['120'],
    container_cpu_cfs_throttled_periods_total: ['121'],
    container_cpu_cfs_throttled_seconds_total: ['122'],
    container_memory_usage_bytes: ['102'],
    container_memory_working_set_bytes: ['103'],
    container_memory_rss: ['104'],
    container_memory_cache: ['105'],
    container_memory_mapped_file: ['106'],
    container_memory_kernel_usage: ['123'],
    container_memory_swap: ['110'],
    container_memory_max_usage_bytes: ['124'],
    container_memory_failcnt: ['125'],
    container_memory_failures_total: [
      'pgfault container 108',
      'pgfault hierarchy 108',
      'pgmajfault container 109',
      'pgmajfault hierarchy 109',
    ],
    container_oom_events_total: ['126'],
    container_hugetlb_usage_bytes: ['2MB 133'],
    container_hugetlb_max_usage_bytes: ['2MB 134'],
    container_fs_usage_bytes: ['/dev/data 138'],
    container_fs_limit_bytes: ['/dev/data 140'],
    container_fs_inodes_total: ['/dev/data 141'],
    container_fs_inodes_free: ['/dev/data 142'],
    container_fs_reads_total: ['/dev/8-1 131'],
    container_fs_reads_bytes_total: ['/dev/8-1 129'],
    container_fs_writes_total: ['/dev/8-1 132'],
    container_fs_writes_bytes_total: ['/dev/8-1 130'],
    container_blkio_device_usage_total: ['/dev/8-1 8 1 Read 129', '/dev/8-1 8 1 Write 130'],
    container_processes: ['3'],
    container_threads: ['127'],
    container_threads_max: ['128'],
    container_file_descriptors: ['135'],
    container_sockets: ['136'],
    container_ulimits_soft: ['max_open_files 137'],
    container_pressure_cpu_waiting_seconds_total: ['112'],
    container_pressure_cpu_stalled_seconds_total: ['113'],
    container_pressure_memory_waiting_seconds_total: ['114'],
    container_pressure_memory_stalled_seconds_total: ['115'],
    container_pressure_io_waiting_seconds_total: ['116'],
    container_pressure_io_stalled_seconds_total: ['117'],
    container_spec_cpu_shares: ['145'],
    container_spec_cpu_period: ['146'],
    container_spec_cpu_quota: ['147'],
    container_spec_memory_limit_bytes: ['143'],
    container_spec_memory_swap_limit_bytes: ['144'],
    container_spec_memory_reservation_limit_bytes: ['148'],
  });
});

test('unknown values are omitted, and a missing limit is 0', () => {
  const rows = shown(containerMetrics, {
    ...counted,
    usage: { ...counted.usage, swap: undefined, pressure: undefined },
    details: {
      ...counted.details,
      memory: { ...counted.details.memory, maxUsageBytes: undefined },
      tasks: { current: 1, max: undefined },
      hugePages: [{ pageSize: '2MB', usageBytes: 1, maxUsageBytes: undefined }],
    },
    openFilesLimit: undefined,
    layer: undefined,
    resources: linuxResourcesOf({ memory_limit_in_bytes: '-1', cpu_quota: '-1' }),
  });
  const empty = Object.entries(rows)
    .filter(([, values]) => values.length === 0)
    .map(([name]) => name);
  expect(empty.filter((name) => !name.startsWith('container_pressure'))).toEqual([
    'container_memory_max_usage_bytes',
    'container_hugetlb_max_usage_bytes',
    'container_fs_usage_bytes',
    'container_ulimits_soft',
    'container_spec_cpu_quota',
  ]);
  expect(empty.filter((name) => name.startsWith('container_pressure'))).toHaveLength(6);
  for (const name of [
    'container_memory_swap',
    'container_threads_max',
    'container_spec_memory_limit_bytes',
    'container_spec_cpu_shares',
  ])
    expect([name, rows[name]]).toEqual([name, ['0']]);
});

test('each metric of an interface has the value that its name says', () => {
  expect(
    shown(interfaceMetrics, {
      name: 'eth0',
      receive: { bytes: 1, packets: 2, errors: 3, dropped: 4 },
      transmit: { bytes: 5, packets: 6, errors: 7, dropped: 8 },
    }),
  ).toEqual({
    container_network_receive_bytes_total: ['1'],
    container_network_receive_packets_total: ['2'],
    container_network_receive_packets_dropped_total: ['4'],
    container_network_receive_errors_total: ['3'],
    container_network_transmit_bytes_total: ['5'],
    container_network_transmit_packets_total: ['6'],
    container_network_transmit_packets_dropped_total: ['8'],
    container_network_transmit_errors_total: ['7'],
  });
});

test('monotonic values are counters', () => {
  for (const [name, { type }] of Object.entries({ ...containerMetrics, ...interfaceMetrics }))
    expect([name, type]).toEqual([
      name,
      name !== 'container_fs_inodes_total' && /_total$|failcnt$/.test(name) ? 'COUNTER' : 'GAUGE',
    ]);
});

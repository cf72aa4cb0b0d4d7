// The metrics of containers and of pod interfaces: name -> its meaning, its
// labels in addition to the common ones, and its value. The names are
// cAdvisor's, as served by the kubelet; the CRI has integers, so seconds are
// truncated.
import type { Filesystem } from '../host/filesystem.js';
import type { Details, PressureLine, Usage } from '../host/cgroup-stats.js';
import type { InterfaceCounters } from '../host/net-dev.js';
import type { LinuxContainerResources__Output } from './generated/runtime/v1/LinuxContainerResources.js';
import type { MeasuredLayer } from './usage-cache.js';

/** The data of a running container. */
export interface Counted {
  readonly usage: Usage;
  readonly details: Details;
  readonly pids: readonly number[];
  readonly openFiles: { readonly files: number; readonly sockets: number };
  readonly openFilesLimit: number | undefined;
  readonly layer: MeasuredLayer | undefined;
  readonly filesystem: Filesystem;
  readonly deviceName: (major: number, minor: number) => string;
  /** As requested, including updates. */
  readonly resources: LinuxContainerResources__Output | undefined;
  /** Nanoseconds since the epoch. */
  readonly startedAt: string;
}

export interface MetricRow<Source> {
  readonly type: 'COUNTER' | 'GAUGE';
  readonly help: string;
  readonly labels?: readonly string[];
  /** One value, or one for each set of values of `labels`; undefined: not known here. */
  readonly values: (
    source: Source,
  ) => number | bigint | undefined | readonly { value: number | bigint; labels: readonly string[] }[];
}
export type MetricTable<Source> = Readonly<Record<string, MetricRow<Source>>>;

const counter = <Source>(
  help: string,
  values: MetricRow<Source>['values'],
  labels?: readonly string[],
): MetricRow<Source> => ({ type: 'COUNTER', help, values, ...(labels ? { labels } : {}) });
const gauge = <Source>(
  help: string,
  values: MetricRow<Source>['values'],
  labels?: readonly string[],
): MetricRow<Source> => ({ type: 'GAUGE', help, values, ...(labels ? { labels } : {}) });

const seconds = (ns: bigint): bigint => ns / 1_000_000_000n;
const stalled = (line: PressureLine | undefined): number | undefined =>
  line && Math.floor(line.totalUs / 1e6);

const onDevice = ({ filesystem }: Counted, value: number | undefined) =>
  value === undefined ? undefined : [{ value, labels: [filesystem.device] }];
const perDevice =
  (of: 'readBytes' | 'writeBytes' | 'reads' | 'writes') =>
  ({ details, deviceName }: Counted) =>
    details.devices.map((device) => ({
      value: device[of],
      labels: [deviceName(device.major, device.minor)],
    }));
const perPageSize =
  (of: 'usageBytes' | 'maxUsageBytes') =>
  ({ details }: Counted) =>
    details.hugePages.flatMap((pages) =>
      pages[of] === undefined ? [] : [{ value: pages[of], labels: [pages.pageSize] }],
    );
/** The values of a container and of its subgroups are the same here: cgroups count hierarchically. */
const faults = (type: string, value: number) =>
  ['container', 'hierarchy'].map((scope) => ({ value, labels: [type, scope] }));
/** 0 means "no limit", as in cAdvisor. */
const asked =
  (
    field: 'memory_limit_in_bytes' | 'memory_swap_limit_in_bytes' | 'cpu_shares' | 'cpu_period' | 'cpu_quota',
  ) =>
  ({ resources }: Counted) =>
    Math.max(0, Number(resources?.[field] ?? 0));

/** The metrics of a container, with the names of cAdvisor (KEP-2371). */
export const containerMetrics: MetricTable<Counted> = {
  container_last_seen: gauge('Seconds since the epoch at which the container was last seen', () =>
    Math.floor(Date.now() / 1000),
  ),
  container_start_time_seconds: gauge(
    'Seconds since the epoch at which the container was started',
    ({ startedAt }) => seconds(BigInt(startedAt)),
  ),

  container_cpu_usage_seconds_total: counter(
    'CPU time used',
    ({ usage }) => [{ value: seconds(usage.cpuNs), labels: ['total'] }],
    ['cpu'],
  ),
  container_cpu_user_seconds_total: counter('CPU time used in user mode', ({ details }) =>
    seconds(details.cpu.userNs),
  ),
  container_cpu_system_seconds_total: counter('CPU time used in the kernel', ({ details }) =>
    seconds(details.cpu.systemNs),
  ),
  container_cpu_cfs_periods_total: counter(
    'Periods in which the CPU quota was enforced',
    ({ details }) => details.cpu.periods,
  ),
  container_cpu_cfs_throttled_periods_total: counter(
    'Periods in which the CPU quota was used up',
    ({ details }) => details.cpu.throttledPeriods,
  ),
  container_cpu_cfs_throttled_seconds_total: counter(
    'Time in which tasks were throttled by the CPU quota',
    ({ details }) => seconds(details.cpu.throttledNs),
  ),

  container_memory_usage_bytes: gauge(
    'Memory in use, page cache included',
    ({ usage }) => usage.memory.usageBytes,
  ),
  container_memory_working_set_bytes: gauge(
    'Memory in use without the page cache that is easily dropped',
    ({ usage }) => usage.memory.workingSetBytes,
  ),
  container_memory_rss: gauge('Bytes of anonymous memory', ({ usage }) => usage.memory.rssBytes),
  container_memory_cache: gauge('Bytes of page cache', ({ usage }) => usage.memory.cacheBytes),
  container_memory_mapped_file: gauge(
    'Bytes of files mapped into memory',
    ({ usage }) => usage.memory.mappedFileBytes,
  ),
  container_memory_kernel_usage: gauge('Bytes of kernel memory', ({ details }) => details.memory.kernelBytes),
  container_memory_swap: gauge('Bytes of swap in use', ({ usage }) => usage.swap?.usageBytes ?? 0),
  container_memory_max_usage_bytes: gauge(
    'Maximum memory usage',
    ({ details }) => details.memory.maxUsageBytes,
  ),
  container_memory_failcnt: counter(
    'How often memory use reached its limit',
    ({ details }) => details.memory.limitHits,
  ),
  container_memory_failures_total: counter(
    'Page faults, and major ones (pgmajfault)',
    ({ usage: { memory } }) => [
      ...faults('pgfault', memory.pageFaults),
      ...faults('pgmajfault', memory.majorPageFaults),
    ],
    ['failure_type', 'scope'],
  ),
  container_oom_events_total: counter(
    'Processes killed by the OOM killer',
    ({ details }) => details.memory.oomKills,
  ),
  container_hugetlb_usage_bytes: gauge('Bytes of huge pages in use', perPageSize('usageBytes'), ['pagesize']),
  container_hugetlb_max_usage_bytes: gauge(
    'Maximum usage of huge pages, in bytes',
    perPageSize('maxUsageBytes'),
    ['pagesize'],
  ),

  container_fs_usage_bytes: gauge(
    'Bytes that the container has written to its root filesystem',
    (counted) => onDevice(counted, counted.layer?.usedBytes),
    ['device'],
  ),
  container_fs_limit_bytes: gauge(
    'Size of the filesystem of the writable layer',
    (counted) => onDevice(counted, counted.filesystem.sizeBytes),
    ['device'],
  ),
  container_fs_inodes_total: gauge(
    'Inodes of that filesystem',
    (counted) => onDevice(counted, counted.filesystem.inodes),
    ['device'],
  ),
  container_fs_inodes_free: gauge(
    'Free inodes of that filesystem',
    (counted) => onDevice(counted, counted.filesystem.inodesFree),
    ['device'],
  ),
  container_fs_reads_total: counter('Reads completed', perDevice('reads'), ['device']),
  container_fs_reads_bytes_total: counter('Bytes read', perDevice('readBytes'), ['device']),
  container_fs_writes_total: counter('Writes completed', perDevice('writes'), ['device']),
  container_fs_writes_bytes_total: counter('Bytes written', perDevice('writeBytes'), ['device']),
  container_blkio_device_usage_total: counter(
    'Bytes moved, by device and operation',
    ({ details, deviceName }) =>
      details.devices.flatMap(({ major, minor, readBytes, writeBytes }) => {
        const device = [deviceName(major, minor), String(major), String(minor)];
        return [
          { value: readBytes, labels: [...device, 'Read'] },
          { value: writeBytes, labels: [...device, 'Write'] },
        ];
      }),
    ['device', 'major', 'minor', 'operation'],
  ),

  container_processes: gauge('Processes in the container', ({ pids }) => pids.length),
  container_threads: gauge('Threads in the container', ({ details }) => details.tasks.current),
  container_threads_max: gauge(
    'Threads that the container may have, 0 for any number',
    ({ details }) => details.tasks.max ?? 0,
  ),
  container_file_descriptors: gauge(
    'Open files of the processes in the container',
    ({ openFiles }) => openFiles.files,
  ),
  container_sockets: gauge(
    'Open sockets of the processes in the container',
    ({ openFiles }) => openFiles.sockets,
  ),
  container_ulimits_soft: gauge(
    'Soft limits of the first process',
    ({ openFilesLimit }) =>
      openFilesLimit === undefined ? undefined : [{ value: openFilesLimit, labels: ['max_open_files'] }],
    ['ulimit'],
  ),

  container_pressure_cpu_waiting_seconds_total: counter(
    'Time in which some task waited for a CPU',
    ({ usage }) => stalled(usage.pressure?.cpu.some),
  ),
  container_pressure_cpu_stalled_seconds_total: counter(
    'Time in which all tasks waited for a CPU',
    ({ usage }) => stalled(usage.pressure?.cpu.full),
  ),
  container_pressure_memory_waiting_seconds_total: counter(
    'Time in which some task waited for memory',
    ({ usage }) => stalled(usage.pressure?.memory.some),
  ),
  container_pressure_memory_stalled_seconds_total: counter(
    'Time in which all tasks waited for memory',
    ({ usage }) => stalled(usage.pressure?.memory.full),
  ),
  container_pressure_io_waiting_seconds_total: counter(
    'Time in which some task waited for I/O',
    ({ usage }) => stalled(usage.pressure?.io.some),
  ),
  container_pressure_io_stalled_seconds_total: counter(
    'Time in which all tasks waited for I/O',
    ({ usage }) => stalled(usage.pressure?.io.full),
  ),

  container_spec_cpu_shares: gauge('Requested CPU shares', asked('cpu_shares')),
  container_spec_cpu_period: gauge('Requested CPU period, in microseconds', asked('cpu_period')),
  container_spec_cpu_quota: gauge(
    'Requested CPU quota, in microseconds per period; absent: none',
    (counted) => asked('cpu_quota')(counted) || undefined,
  ),
  container_spec_memory_limit_bytes: gauge(
    'Requested memory limit, 0 for none',
    asked('memory_limit_in_bytes'),
  ),
  container_spec_memory_swap_limit_bytes: gauge(
    'Requested limit of memory and swap together, 0 for none',
    asked('memory_swap_limit_in_bytes'),
  ),
  container_spec_memory_reservation_limit_bytes: gauge(
    'Requested memory reservation (soft limit)',
    ({ resources }) => Math.max(0, Number(resources?.unified['memory.min'] ?? 0) || 0),
  ),
};

const perInterface = (help: string, of: (one: InterfaceCounters) => number): MetricRow<InterfaceCounters> =>
  counter(help, of, ['interface']);

/** The caller adds the value of "interface". */
export const interfaceMetrics: MetricTable<InterfaceCounters> = {
  container_network_receive_bytes_total: perInterface('Bytes received', ({ receive }) => receive.bytes),
  container_network_receive_packets_total: perInterface('Packets received', ({ receive }) => receive.packets),
  container_network_receive_packets_dropped_total: perInterface(
    'Packets dropped while receiving',
    ({ receive }) => receive.dropped,
  ),
  container_network_receive_errors_total: perInterface(
    'Errors while receiving',
    ({ receive }) => receive.errors,
  ),
  container_network_transmit_bytes_total: perInterface('Bytes sent', ({ transmit }) => transmit.bytes),
  container_network_transmit_packets_total: perInterface('Packets sent', ({ transmit }) => transmit.packets),
  container_network_transmit_packets_dropped_total: perInterface(
    'Packets dropped while sending',
    ({ transmit }) => transmit.dropped,
  ),
  container_network_transmit_errors_total: perInterface(
    'Errors while sending',
    ({ transmit }) => transmit.errors,
  ),
};

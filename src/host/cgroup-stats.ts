// Statistics of control groups: CPU, memory, processes, I/O, pressure. Called
// by cri/stats.ts for every container at every scrape of the kubelet, and by
// cri/pod-metrics.ts for the other values of cAdvisor's metrics.
//
// Synchronous on purpose: these files are in memory, and reading one takes
// about 10 us this way but ten times as long through the thread pool.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { cgroupFolder, cgroupLayout, isGone, type CgroupLayout } from './cgroup.js';

/** Time that tasks spent waiting for a resource. */
export interface Pressure {
  /** At least one task waited. */
  readonly some: PressureLine;
  /** All tasks waited at once. */
  readonly full: PressureLine;
}
/** `total` in microseconds since the group was made, averages in percent. */
export interface PressureLine {
  readonly totalUs: number;
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
}

/** The values for the CRI's statistics. */
export interface Usage {
  /** Nanoseconds of CPU time since the group was made. */
  readonly cpuNs: bigint;
  readonly memory: MemoryUsage;
  /** Bytes; undefined without swap accounting. The limit is for swap alone, undefined: none. */
  readonly swap: { readonly usageBytes: number; readonly limitBytes: number | undefined } | undefined;
  /** undefined if the kernel does not account for pressure per group (v1; PSI disabled). */
  readonly pressure: { readonly cpu: Pressure; readonly memory: Pressure; readonly io: Pressure } | undefined;
}

/** Bytes, except for the faults. */
export interface MemoryUsage {
  readonly usageBytes: number;
  /**
   * Usage without the page cache that the kernel would drop first (inactive_file): the value for the
   * kubelet's evictions.
   */
  readonly workingSetBytes: number;
  /** Anonymous memory. */
  readonly rssBytes: number;
  readonly cacheBytes: number;
  readonly mappedFileBytes: number;
  /** undefined: no limit. v1 reports the lowest limit of the group and its ancestors, v2 the group's own. */
  readonly limitBytes: number | undefined;
  readonly pageFaults: number;
  readonly majorPageFaults: number;
}

/** The values for cAdvisor's metrics that are not in Usage. */
export interface Details {
  readonly cpu: {
    readonly userNs: bigint;
    readonly systemNs: bigint;
    readonly periods: number;
    readonly throttledPeriods: number;
    readonly throttledNs: bigint;
  };
  readonly memory: {
    readonly kernelBytes: number;
    /** undefined before Linux 5.19 on v2. */
    readonly maxUsageBytes: number | undefined;
    /** How often the limit was hit. */
    readonly limitHits: number;
    readonly oomKills: number;
  };
  readonly tasks: { readonly current: number; readonly max: number | undefined };
  readonly devices: readonly DeviceIo[];
  /** Per page size ("2MB"), if the controller exists. */
  readonly hugePages: readonly {
    readonly pageSize: string;
    readonly usageBytes: number;
    readonly maxUsageBytes: number | undefined;
  }[];
}

export interface DeviceIo {
  readonly major: number;
  readonly minor: number;
  readonly readBytes: number;
  readonly writeBytes: number;
  readonly reads: number;
  readonly writes: number;
}

/** undefined if the group is gone. @param name the group's name in the CRI or OCI */
export function readUsage(name: string, layout = cgroupLayout()): Usage | undefined {
  return ifThere(() =>
    layout.version === 'v2' ? unifiedUsage(folder(layout, 'memory', name)) : perControllerUsage(layout, name),
  );
}

/** The further statistics of a cgroup, for metrics; undefined if the group does not exist. */
export function readDetails(name: string, layout = cgroupLayout()): Details | undefined {
  return ifThere(() =>
    layout.version === 'v2'
      ? unifiedDetails(folder(layout, 'memory', name))
      : perControllerDetails(layout, name),
  );
}

/**
 * The number of OOM kills in the group and the groups below it; undefined on v1, which counts each group
 * separately.
 */
export function readOomKills(name: string, layout = cgroupLayout()): number | undefined {
  return layout.version === 'v1'
    ? undefined
    : ifThere(() => readTable(folder(layout, 'memory', name), 'memory.events')['oom_kill']);
}

/** The pids of the group and the groups below it; empty if it is gone. */
export function readProcesses(name: string, layout = cgroupLayout()): number[] {
  return ifThere(() => processesBelow(folder(layout, 'pids', name))) ?? [];
}

function processesBelow(at: string): number[] {
  const own = read(at, 'cgroup.procs').split('\n').filter(Boolean).map(Number);
  const groups = readdirSync(at, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return groups.length === 0
    ? own
    : [...own, ...groups.flatMap((group) => ifThere(() => processesBelow(join(at, group.name))) ?? [])];
}

// v1: each controller in its own tree.

function perControllerUsage(layout: CgroupLayout, name: string): Usage {
  const memory = folder(layout, 'memory', name);
  const stat = readTable(memory, 'memory.stat');
  const usageBytes = readNumber(memory, 'memory.usage_in_bytes');
  return {
    cpuNs: BigInt(read(folder(layout, 'cpuacct', name), 'cpuacct.usage').trim()),
    memory: {
      usageBytes,
      workingSetBytes: Math.max(0, usageBytes - (stat['total_inactive_file'] ?? 0)),
      rssBytes: stat['total_rss'] ?? 0,
      cacheBytes: stat['total_cache'] ?? 0,
      mappedFileBytes: stat['total_mapped_file'] ?? 0,
      limitBytes: limit(stat['hierarchical_memory_limit'] ?? Infinity),
      pageFaults: stat['total_pgfault'] ?? 0,
      majorPageFaults: stat['total_pgmajfault'] ?? 0,
    },
    swap:
      stat['total_swap'] === undefined
        ? undefined
        : { usageBytes: stat['total_swap'], limitBytes: swapLimit(stat) },
    pressure: undefined,
  };
}

/** v1 limits memory and swap together; both limits are in memory.stat, including those of ancestors. */
function swapLimit(stat: Record<string, number>): number | undefined {
  const both = limit(stat['hierarchical_memsw_limit'] ?? Infinity);
  return both === undefined ? undefined : Math.max(0, both - (stat['hierarchical_memory_limit'] ?? 0));
}

function perControllerDetails(layout: CgroupLayout, name: string): Details {
  const memory = folder(layout, 'memory', name);
  const accounting = folder(layout, 'cpuacct', name);
  const throttling = readTable(folder(layout, 'cpu', name), 'cpu.stat');
  return {
    cpu: {
      userNs: BigInt(readNumber(accounting, 'cpuacct.usage_user')),
      systemNs: BigInt(readNumber(accounting, 'cpuacct.usage_sys')),
      periods: throttling['nr_periods'] ?? 0,
      throttledPeriods: throttling['nr_throttled'] ?? 0,
      throttledNs: BigInt(throttling['throttled_time'] ?? 0),
    },
    memory: {
      kernelBytes: readNumber(memory, 'memory.kmem.usage_in_bytes'),
      maxUsageBytes: readNumber(memory, 'memory.max_usage_in_bytes'),
      limitHits: readNumber(memory, 'memory.failcnt'),
      oomKills: readTable(memory, 'memory.oom_control')['oom_kill'] ?? 0,
    },
    tasks: readTasks(cgroupFolder(layout, 'pids', name)),
    devices: readBlkio(cgroupFolder(layout, 'blkio', name)),
    hugePages: readHugePages(cgroupFolder(layout, 'hugetlb', name), 'usage_in_bytes', 'max_usage_in_bytes'),
  };
}

/** Lines "MAJOR:MINOR Read 4096", one file of bytes and one of operations. */
function readBlkio(at: string | undefined): DeviceIo[] {
  if (at === undefined) return [];
  const devices = new Map<string, Record<string, number>>();
  for (const [file, unit] of [
    ['blkio.throttle.io_service_bytes_recursive', 'Bytes'],
    ['blkio.throttle.io_serviced_recursive', 's'],
  ] as const) {
    for (const line of readOptional(at, file)?.split('\n') ?? []) {
      const [device = '', operation, count] = line.split(' ');
      if (operation !== 'Read' && operation !== 'Write') continue;
      devices.set(device, { ...devices.get(device), [`${operation.toLowerCase()}${unit}`]: Number(count) });
    }
  }
  return [...devices].map(([device, counts]) => deviceIo(device, counts));
}

// v2: one folder has all files.

function unifiedUsage(at: string): Usage {
  const stat = readTable(at, 'memory.stat');
  const usageBytes = readNumber(at, 'memory.current');
  const swapBytes = readOptional(at, 'memory.swap.current');
  return {
    cpuNs: nanoseconds(readTable(at, 'cpu.stat')['usage_usec']),
    memory: {
      usageBytes,
      workingSetBytes: Math.max(0, usageBytes - (stat['inactive_file'] ?? 0)),
      rssBytes: stat['anon'] ?? 0,
      cacheBytes: stat['file'] ?? 0,
      mappedFileBytes: stat['file_mapped'] ?? 0,
      limitBytes: limit(readNumber(at, 'memory.max')),
      pageFaults: stat['pgfault'] ?? 0,
      majorPageFaults: stat['pgmajfault'] ?? 0,
    },
    swap:
      swapBytes === undefined
        ? undefined
        : { usageBytes: Number(swapBytes), limitBytes: limit(readNumber(at, 'memory.swap.max')) },
    pressure: readPressures(at),
  };
}

function readPressures(at: string): Usage['pressure'] {
  const cpu = readPressure(at, 'cpu.pressure');
  const memory = readPressure(at, 'memory.pressure');
  const io = readPressure(at, 'io.pressure');
  return cpu && memory && io ? { cpu, memory, io } : undefined;
}

/** "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", then the same for full. */
function readPressure(at: string, file: string): Pressure | undefined {
  const text = readOptional(at, file);
  if (text === undefined) return undefined;
  const line = (kind: string): PressureLine => {
    const values = readPairs(new RegExp(`^${kind} (.*)$`, 'm').exec(text)?.[1] ?? '');
    return {
      totalUs: values['total'] ?? 0,
      avg10: values['avg10'] ?? 0,
      avg60: values['avg60'] ?? 0,
      avg300: values['avg300'] ?? 0,
    };
  };
  return { some: line('some'), full: line('full') };
}

function unifiedDetails(at: string): Details {
  const cpu = readTable(at, 'cpu.stat');
  const memory = readTable(at, 'memory.stat');
  const events = readTable(at, 'memory.events');
  const peak = readOptional(at, 'memory.peak');
  return {
    cpu: {
      userNs: nanoseconds(cpu['user_usec']),
      systemNs: nanoseconds(cpu['system_usec']),
      periods: cpu['nr_periods'] ?? 0,
      throttledPeriods: cpu['nr_throttled'] ?? 0,
      throttledNs: nanoseconds(cpu['throttled_usec']),
    },
    memory: {
      kernelBytes: memory['kernel'] ?? memory['kernel_stack'] ?? 0, // "kernel" since Linux 5.18
      maxUsageBytes: peak === undefined ? undefined : Number(peak),
      limitHits: events['max'] ?? 0,
      oomKills: events['oom_kill'] ?? 0,
    },
    tasks: readTasks(at),
    devices: readIoStat(at),
    hugePages: readHugePages(at, 'current', undefined),
  };
}

/** "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6". */
function readIoStat(at: string): DeviceIo[] {
  return (readOptional(at, 'io.stat') ?? '')
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const { rbytes = 0, wbytes = 0, rios = 0, wios = 0 } = readPairs(line);
      return deviceIo(line.split(' ')[0] ?? '', {
        readBytes: rbytes,
        writeBytes: wbytes,
        reads: rios,
        writes: wios,
      });
    });
}

// Both.

function deviceIo(device: string, counts: Record<string, number>): DeviceIo {
  const [major, minor] = device.split(':').map(Number);
  return {
    major: major ?? 0,
    minor: minor ?? 0,
    readBytes: counts['readBytes'] ?? 0,
    writeBytes: counts['writeBytes'] ?? 0,
    reads: counts['reads'] ?? 0,
    writes: counts['writes'] ?? 0,
  };
}

function readTasks(at: string | undefined): Details['tasks'] {
  const current = at === undefined ? undefined : readOptional(at, 'pids.current');
  if (at === undefined || current === undefined) return { current: 0, max: undefined };
  return { current: Number(current), max: limit(readNumber(at, 'pids.max')) };
}

function readHugePages(
  at: string | undefined,
  usage: string,
  maxUsage: string | undefined,
): Details['hugePages'] {
  if (at === undefined) return [];
  return hugePageSizes()
    .filter((pageSize) => existsSync(join(at, `hugetlb.${pageSize}.${usage}`)))
    .map((pageSize) => ({
      pageSize,
      usageBytes: readNumber(at, `hugetlb.${pageSize}.${usage}`),
      maxUsageBytes: maxUsage === undefined ? undefined : readNumber(at, `hugetlb.${pageSize}.${maxUsage}`),
    }));
}

/** "hugepages-2048kB" of sysfs is "2MB" in the names of cgroup files. */
export function hugePageSizes(): string[] {
  const names = ifThere(() => readdirSync('/sys/kernel/mm/hugepages')) ?? [];
  return names
    .map((name) => Number(/(\d+)kB/.exec(name)?.[1] ?? 0))
    .map((kb) => (kb >= 1 << 20 ? `${kb >> 20}GB` : kb >= 1024 ? `${kb >> 10}MB` : `${kb}KB`));
}

function folder(layout: CgroupLayout, controller: string, name: string): string {
  const path = cgroupFolder(layout, controller, name);
  if (path === undefined) throw Object.assign(new Error(`no ${controller} controller`), { code: 'ENOENT' });
  return path;
}

function read(at: string, file: string): string {
  return readFileSync(`${at}/${file}`, 'utf8');
}

function readOptional(at: string, file: string): string | undefined {
  return ifThere(() => read(at, file));
}

/** "max" reads as Infinity. */
function readNumber(at: string, file: string): number {
  const text = read(at, file).trim();
  return text === 'max' ? Infinity : Number(text);
}

/** Lines "key value". */
function readTable(at: string, file: string): Record<string, number> {
  const table: Record<string, number> = {};
  for (const line of read(at, file).split('\n')) {
    const space = line.indexOf(' ');
    if (space > 0) table[line.slice(0, space)] = Number(line.slice(space + 1));
  }
  return table;
}

/** "key=1 other=2.5"; words that are not a pair are ignored. */
function readPairs(line: string): Record<string, number> {
  return Object.fromEntries(
    [...line.matchAll(/(\w+)=(\S+)/g)].map(([, key = '', value]) => [key, Number(value)]),
  );
}

/** v1 represents "no limit" by the greatest multiple of a page below 2^63. */
function limit(value: number): number | undefined {
  return value >= 2 ** 62 ? undefined : value;
}

function nanoseconds(microseconds: number | undefined): bigint {
  return BigInt(microseconds ?? 0) * 1000n;
}

function ifThere<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

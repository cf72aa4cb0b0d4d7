// CRI resources -> resources of the runtime-spec. Pure; used for create and update.
import type { LinuxContainerResources__Output } from '../cri/generated/runtime/v1/LinuxContainerResources.js';
import { CrispError } from '../errors.js';
import { parseNumberList, type HostFacts } from './host-facts.js';
import type { Resources } from '../shapes/spec.js';

type Host = Pick<HostFacts, 'cgroup' | 'swapAccounting' | 'hugepageSizes' | 'cpus' | 'memoryNodes'>;

/**
 * The kernel's limits (kernel/sched/core.c and Documentation/admin-guide/cgroup-v1); a runtime does not check
 * them and fails late.
 */
const sharesRange = [2, 262_144] as const;
const periodMicroseconds = [1_000, 1_000_000] as const;
const smallestQuotaMicroseconds = 1_000;
/** With less than a page no process can start. */
const smallestMemoryBytes = 4096;

/**
 * Zero and empty mean "not set", in an update "unchanged". -1 is "no limit". Without a swap limit in
 * the request it is set to the memory limit: with a memory limit alone a container could swap
 * without limit (containerd and CRI-O do the same; OCI's swap includes memory, so an equal value
 * means no swap).
 * @throws InvalidArgument for invalid values, UnsupportedField for unified on cgroup v1
 */
export function containerResources(wanted: LinuxContainerResources__Output, host: Host): Resources {
  const shares = whole(wanted.cpu_shares, 'cpu_shares', 0, sharesRange);
  const period = whole(wanted.cpu_period, 'cpu_period', 0, periodMicroseconds);
  const quota = whole(wanted.cpu_quota, 'cpu_quota', -1, [
    smallestQuotaMicroseconds,
    Number.MAX_SAFE_INTEGER,
  ]);
  const limit = whole(wanted.memory_limit_in_bytes, 'memory_limit_in_bytes', -1, [
    smallestMemoryBytes,
    Number.MAX_SAFE_INTEGER,
  ]);
  const asked = whole(wanted.memory_swap_limit_in_bytes, 'memory_swap_limit_in_bytes', -1);
  const swap = asked || limit;
  if (asked > 0 && limit <= 0)
    throw refused(
      'memory_swap_limit_in_bytes',
      `${asked} counts memory and swap together, so it needs a memory limit`,
    );
  if (asked > 0 && asked < limit)
    throw refused(
      'memory_swap_limit_in_bytes',
      `${asked} counts memory and swap together, so it cannot be below the memory limit of ${limit}`,
    );
  checkSet(wanted.cpuset_cpus, 'cpuset_cpus', host.cpus);
  checkSet(wanted.cpuset_mems, 'cpuset_mems', host.memoryNodes);
  const unified = Object.keys(wanted.unified).length > 0 ? wanted.unified : undefined;
  if (unified && host.cgroup === 'v1')
    throw new CrispError('UnsupportedField', 'resources.unified needs cgroup v2, and this host has v1');
  for (const name of Object.keys(unified ?? {}))
    if (!/^[a-z]\w*(\.\w+)+$/.test(name)) throw refused('unified', `"${name}" is not a file of a cgroup`);
  const hugepageLimits = hugepages(wanted, host);
  const cpu = {
    ...(shares ? { shares } : {}),
    ...(period ? { period } : {}),
    ...(quota ? { quota } : {}),
    ...(wanted.cpuset_cpus ? { cpus: wanted.cpuset_cpus } : {}),
    ...(wanted.cpuset_mems ? { mems: wanted.cpuset_mems } : {}),
  };
  const memory = { ...(limit ? { limit } : {}), ...(swap && host.swapAccounting ? { swap } : {}) };
  return {
    ...(Object.keys(cpu).length ? { cpu } : {}),
    ...(Object.keys(memory).length ? { memory } : {}),
    ...(hugepageLimits.length ? { hugepageLimits } : {}),
    ...(unified ? { unified } : {}),
  };
}

/** Fields that containerResources() had to leave out because this host cannot apply them. */
export function resourcesNotHonoured(wanted: LinuxContainerResources__Output, host: Host): string[] {
  const swapIsLimited = Number(wanted.memory_swap_limit_in_bytes) > 0;
  const hugepages = wanted.hugepage_limits.some(
    ({ page_size: size, limit }) => Number(limit) > 0 && !host.hugepageSizes.includes(size),
  );
  return [
    ...(swapIsLimited && !host.swapAccounting ? ['memory_swap_limit_in_bytes'] : []),
    ...(hugepages ? ['hugepage_limits'] : []),
  ];
}

/**
 * The kubelet sends a limit of zero for each page size of the node, even without a controller to enforce it.
 */
function hugepages(
  wanted: LinuxContainerResources__Output,
  host: Host,
): { pageSize: string; limit: number }[] {
  return wanted.hugepage_limits.flatMap(({ page_size: pageSize, limit }) => {
    if (!/^[1-9]\d*[KMG]B$/.test(pageSize))
      throw refused('hugepage_limits', `"${pageSize}" is not a page size like 2MB`);
    return host.hugepageSizes.includes(pageSize)
      ? [{ pageSize, limit: whole(limit, 'hugepage_limits') }]
      : [];
  });
}

function checkSet(text: string, field: 'cpuset_cpus' | 'cpuset_mems', online: readonly number[]): void {
  if (!text) return;
  const numbers = parseNumberList(text);
  if (!numbers) throw refused(field, `"${text}" is not a list of numbers and ranges`);
  const missing = numbers.filter((number) => !online.includes(number));
  if (missing.length) throw refused(field, `"${text}": this host has no ${missing.join(', ')}`);
}

/** 0 is always valid; other values must be `lowest` (-1: "no limit") or in the range. */
function whole(
  text: string,
  field: string,
  lowest = 0,
  [from, to]: readonly [number, number] = [1, Number.MAX_SAFE_INTEGER],
): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < lowest) throw refused(field, `${text} is out of range`);
  if (value > 0 && (value < from || value > to))
    throw refused(field, `${text} is not between ${from} and ${to}`);
  return value;
}

function refused(field: string, why: string): CrispError {
  return new CrispError('InvalidArgument', `resources.${field}: ${why}`);
}

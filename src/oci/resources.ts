// CRI resources -> the runtime-spec's. Pure; used at create and at update.
import type { LinuxContainerResources__Output } from '../cri/generated/runtime/v1/LinuxContainerResources.js';
import { CrispError } from '../errors.js';
import type { HostFacts } from './host-facts.js';
import type { Resources } from './spec.js';

/** The kernel's smallest memory limit that a runtime can start in is far above this; below it the value is a mistake. */
const smallestMemoryBytes = 4096;

/**
 * Zero and empty mean "not set".
 * @throws InvalidArgument for values that cannot be meant, UnsupportedField for unified on cgroup v1
 */
export function containerResources(wanted: LinuxContainerResources__Output, host: Pick<HostFacts, 'cgroup' | 'swapAccounting'>): Resources {
  const shares = whole(wanted.cpu_shares, 'cpu_shares');
  const period = whole(wanted.cpu_period, 'cpu_period');
  const quota = whole(wanted.cpu_quota, 'cpu_quota', -1);
  const limit = whole(wanted.memory_limit_in_bytes, 'memory_limit_in_bytes', -1);
  const swap = whole(wanted.memory_swap_limit_in_bytes, 'memory_swap_limit_in_bytes', -1);
  if (limit > 0 && limit < smallestMemoryBytes) throw new CrispError('InvalidArgument', `resources.memory_limit_in_bytes: ${limit} is less than a page`);
  if (swap > 0 && limit > 0 && swap < limit) throw new CrispError('InvalidArgument', `resources.memory_swap_limit_in_bytes: ${swap} is memory and swap together, so it cannot be below the memory limit of ${limit}`);
  for (const field of ['cpuset_cpus', 'cpuset_mems'] as const) {
    if (wanted[field] && !/^\d+(-\d+)?(,\d+(-\d+)?)*$/.test(wanted[field])) throw new CrispError('InvalidArgument', `resources.${field}: "${wanted[field]}" is no list of numbers and ranges`);
  }
  const unified = Object.keys(wanted.unified).length > 0 ? wanted.unified : undefined;
  if (unified && host.cgroup === 'v1') throw new CrispError('UnsupportedField', 'resources.unified needs cgroup v2, and this host has v1');
  const cpu = {
    ...(shares ? { shares } : {}), ...(period ? { period } : {}), ...(quota ? { quota } : {}),
    ...(wanted.cpuset_cpus ? { cpus: wanted.cpuset_cpus } : {}), ...(wanted.cpuset_mems ? { mems: wanted.cpuset_mems } : {}),
  };
  const memory = { ...(limit ? { limit } : {}), ...(swap && host.swapAccounting ? { swap } : {}) };
  return {
    ...(Object.keys(cpu).length ? { cpu } : {}),
    ...(Object.keys(memory).length ? { memory } : {}),
    ...(wanted.hugepage_limits.length ? { hugepageLimits: wanted.hugepage_limits.map(({ page_size: pageSize, limit: bytes }) => ({ pageSize, limit: Number(bytes) })) } : {}),
    ...(unified ? { unified } : {}),
  };
}

function whole(text: string, field: string, lowest = 0): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < lowest) throw new CrispError('InvalidArgument', `resources.${field}: ${text} is out of range`);
  return value;
}

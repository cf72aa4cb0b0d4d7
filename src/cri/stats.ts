// ContainerStats, PodSandboxStats and their List and Stream forms.  The kubelet
// calls them about every 10 s; its evictions, `kubectl top` and `crictl stats`
// use the answers. An unknown value is null: 0 would be treated as real.
import { cgroupPath } from '../host/cgroup.js';
import {
  readProcesses,
  readUsage,
  type MemoryUsage as GroupMemory,
  type Pressure,
  type PressureLine,
  type Usage,
} from '../host/cgroup-stats.js';
import { readInterfaces, type InterfaceCounters } from '../host/net-dev.js';
import { isPodsOwnCgroup, onHostNetwork } from '../oci/namespaces.js';
import {
  containerState,
  now,
  sandboxState,
  type ContainerRecord,
  type SandboxRecord,
} from '../records/records.js';
import { matches } from './convert.js';
import { ofRecordAnd } from './encoded.js';
import type { ContainerStats } from './generated/runtime/v1/ContainerStats.js';
import type { ContainerStatsFilter__Output } from './generated/runtime/v1/ContainerStatsFilter.js';
import type { ContainerStatsRequest__Output } from './generated/runtime/v1/ContainerStatsRequest.js';
import type { ContainerStatsResponse } from './generated/runtime/v1/ContainerStatsResponse.js';
import type { CpuUsage } from './generated/runtime/v1/CpuUsage.js';
import type { FilesystemUsage } from './generated/runtime/v1/FilesystemUsage.js';
import type { ListContainerStatsRequest__Output } from './generated/runtime/v1/ListContainerStatsRequest.js';
import type { ListContainerStatsResponse } from './generated/runtime/v1/ListContainerStatsResponse.js';
import type { ListPodSandboxStatsRequest__Output } from './generated/runtime/v1/ListPodSandboxStatsRequest.js';
import type { ListPodSandboxStatsResponse } from './generated/runtime/v1/ListPodSandboxStatsResponse.js';
import type { MemoryUsage } from './generated/runtime/v1/MemoryUsage.js';
import type { NetworkInterfaceUsage } from './generated/runtime/v1/NetworkInterfaceUsage.js';
import type { NetworkUsage } from './generated/runtime/v1/NetworkUsage.js';
import type { PodSandboxStats } from './generated/runtime/v1/PodSandboxStats.js';
import type { PodSandboxStatsFilter__Output } from './generated/runtime/v1/PodSandboxStatsFilter.js';
import type { PodSandboxStatsRequest__Output } from './generated/runtime/v1/PodSandboxStatsRequest.js';
import type { PodSandboxStatsResponse } from './generated/runtime/v1/PodSandboxStatsResponse.js';
import type { PsiStats } from './generated/runtime/v1/PsiStats.js';
import type { StreamContainerStatsRequest__Output } from './generated/runtime/v1/StreamContainerStatsRequest.js';
import type { StreamContainerStatsResponse } from './generated/runtime/v1/StreamContainerStatsResponse.js';
import type { StreamPodSandboxStatsRequest__Output } from './generated/runtime/v1/StreamPodSandboxStatsRequest.js';
import type { StreamPodSandboxStatsResponse } from './generated/runtime/v1/StreamPodSandboxStatsResponse.js';
import { containerOf, refOf, sandboxOf, wholeId, wholeIds } from './lookup.js';
import type { Services } from './services.js';
import { isShown, shownContainersOf } from './shown.js';
import { paginate } from './paginate.js';
import type { MeasuredLayer } from './usage-cache.js';

/** What these calls use. */
type Used = Pick<Services, 'config' | 'store' | 'creations' | 'handlers' | 'usageCache'>;

/** How long a call waits for the sizes of layers that have not been measured yet. */
const newLayersWaitMs = 250;

/** ContainerStats. @throws ContainerNotFound */
export async function containerStats(
  services: Used,
  request: ContainerStatsRequest__Output,
): Promise<ContainerStatsResponse> {
  const record = containerOf(services, request.container_id);
  await services.usageCache.layersMeasured([record.id], newLayersWaitMs);
  return { stats: statsOf(services, record) };
}

/** ListContainerStats, also of exited containers. */
export async function listContainerStats(
  services: Used,
  request: ListContainerStatsRequest__Output,
): Promise<ListContainerStatsResponse> {
  const records = await containersToCount(services, request.filter);
  return { stats: records.map((record) => statsOf(services, record)) };
}

/** StreamContainerStats (KEP-5825): as ListContainerStats, in pages. */
export async function* streamContainerStats(
  services: Used,
  request: StreamContainerStatsRequest__Output,
): AsyncGenerator<StreamContainerStatsResponse> {
  for (const page of paginate(await containersToCount(services, request.filter)))
    yield { container_stats: page.map((record) => statsOf(services, record)) };
}

/** PodSandboxStats. @throws SandboxNotFound */
export async function podSandboxStats(
  services: Used,
  request: PodSandboxStatsRequest__Output,
): Promise<PodSandboxStatsResponse> {
  const record = sandboxOf(services, request.pod_sandbox_id);
  await services.usageCache.layersMeasured(
    shownContainersOf(services, record.id).map(({ id }) => id),
    newLayersWaitMs,
  );
  return { stats: podStatsOf(services, record) };
}

/** ListPodSandboxStats. */
export async function listPodSandboxStats(
  services: Used,
  request: ListPodSandboxStatsRequest__Output,
): Promise<ListPodSandboxStatsResponse> {
  const records = await sandboxesToCount(services, request.filter);
  return { stats: records.map((record) => podStatsOf(services, record)) };
}

/** StreamPodSandboxStats (KEP-5825): as ListPodSandboxStats, in pages. */
export async function* streamPodSandboxStats(
  services: Used,
  request: StreamPodSandboxStatsRequest__Output,
): AsyncGenerator<StreamPodSandboxStatsResponse> {
  for (const page of paginate(await sandboxesToCount(services, request.filter)))
    yield { pod_sandbox_stats: page.map((record) => podStatsOf(services, record)) };
}

/** Exited ones too: their writable layers still use disk space. */
async function containersToCount(
  services: Used,
  given: ContainerStatsFilter__Output | null,
): Promise<ContainerRecord[]> {
  forgetRemoved(services);
  const filter = given && wholeIds(services, given);
  const records = services.store.containers
    .all()
    .filter(
      (record) =>
        isShown(services, record) &&
        matches({ id: record.id, labels: record.config.labels }, filter) &&
        (!filter?.pod_sandbox_id || record.sandboxId === filter.pod_sandbox_id),
    );
  await services.usageCache.layersMeasured(
    records.map(({ id }) => id),
    newLayersWaitMs,
  );
  return records;
}

async function sandboxesToCount(
  services: Used,
  given: PodSandboxStatsFilter__Output | null,
): Promise<SandboxRecord[]> {
  forgetRemoved(services);
  const filter = given && {
    ...given,
    id: wholeId(services, services.store.sandboxes, given.id, 'filter.id'),
  };
  const records = services.store.sandboxes
    .all()
    .filter(
      (record) =>
        isShown(services, record) &&
        sandboxState(record) === 'SANDBOX_READY' &&
        matches({ id: record.id, labels: record.config.labels }, filter),
    );
  await services.usageCache.layersMeasured(
    records.flatMap(({ id }) => shownContainersOf(services, id).map((container) => container.id)),
    newLayersWaitMs,
  );
  return records;
}

function forgetRemoved({ usageCache, store }: Used): void {
  usageCache.keepOnly(
    (id) => store.containers.get(id) !== undefined || store.sandboxes.get(id) !== undefined,
  );
}

/** The cgroup of a container, while it has one. */
export function cgroupOf(services: Used, record: ContainerRecord): string | undefined {
  if (!record.complete || containerState(record) === 'CONTAINER_EXITED') return undefined;
  return services.handlers.get(record.handler)?.backend.cgroup(refOf(record));
}

function usageOf(services: Used, record: ContainerRecord): Usage | undefined {
  const cgroup = cgroupOf(services, record);
  return cgroup === undefined ? undefined : readUsage(cgroup);
}

/** The statistics of a container: CPU in nanoseconds, memory in bytes; null if it does not run. */
export function statsOf(
  services: Used,
  record: ContainerRecord,
  usage = usageOf(services, record),
): ContainerStats {
  const stored = storedStats(record, services.usageCache.layer(record.id), services.config.root);
  if (!usage) return stored;
  const timestamp = now();
  return {
    ...stored,
    cpu: cpu(services, record.id, usage, timestamp),
    memory: memory(usage.memory, usage.pressure?.memory, timestamp),
    swap: usage.swap
      ? {
          timestamp,
          swap_usage_bytes: value(usage.swap.usageBytes),
          swap_available_bytes: left(usage.swap.limitBytes, usage.swap.usageBytes),
        }
      : null,
    io: usage.pressure ? { timestamp, psi: psi(usage.pressure.io) } : null,
  };
}

/** The statistics of a container that does not run. */
const storedStats = ofRecordAnd(
  (record: ContainerRecord, layer: MeasuredLayer | undefined, root: string): ContainerStats => {
    const { metadata, labels, annotations } = record.config;
    return {
      attributes: { id: record.id, metadata, labels, annotations },
      writable_layer: writableLayer(layer, root),
    };
  },
);

function writableLayer(layer: MeasuredLayer | undefined, root: string): FilesystemUsage | null {
  if (!layer) return null;
  // The kubelet looks up the filesystem of this path, so it must still exist after the container's removal.
  return {
    timestamp: `${layer.measuredAtMs}000000`,
    fs_id: { mountpoint: root },
    used_bytes: value(layer.usedBytes),
    inodes_used: value(layer.inodesUsed),
  };
}

function podStatsOf(services: Used, record: SandboxRecord): PodSandboxStats {
  const timestamp = now();
  const { metadata, labels, annotations } = record.config;
  const containers = shownContainersOf(services, record.id).map((container) => ({
    container,
    usage: usageOf(services, container),
  }));
  const groups = containers
    .filter((one) => one.usage)
    .flatMap(({ container }) => cgroupOf(services, container) ?? []);
  const usage = podUsage(
    record,
    groups,
    containers.flatMap((one) => one.usage ?? []),
  );
  return {
    attributes: { id: record.id, metadata, labels, annotations },
    linux: {
      ...(usage
        ? {
            cpu: cpu(services, record.id, usage, timestamp),
            memory: memory(usage.memory, usage.pressure?.memory, timestamp),
            io: usage.pressure ? { timestamp, psi: psi(usage.pressure.io) } : null,
          }
        : {}),
      network: network(
        podInterfaces(services, record),
        record.attachment?.interfaceName ?? ownInterface,
        timestamp,
      ),
      process: {
        timestamp,
        process_count: value(groups.reduce((sum, group) => sum + readProcesses(group).length, 0)),
      },
      containers: containers.map((one) => statsOf(services, one.container, one.usage)),
    },
  };
}

/**
 * The pod's own group includes the usage of ended containers. It cannot be used if
 * several pods share it as parent, or for CTs, which are not in it.
 * @param groups the groups of its containers
 */
export function podUsage(
  { plan }: SandboxRecord,
  groups: readonly string[],
  containers: readonly Usage[],
): Usage | undefined {
  const holdsAll = groups.every((group) => cgroupPath(group).startsWith(`${cgroupPath(plan.cgroupParent)}/`));
  const own = isPodsOwnCgroup(plan) && holdsAll ? readUsage(plan.cgroupParent) : undefined;
  if (own || containers.length === 0) return own;
  const sum = (of: (usage: Usage) => number): number =>
    containers.reduce((total, usage) => total + of(usage), 0);
  return {
    cpuNs: containers.reduce((total, usage) => total + usage.cpuNs, 0n),
    memory: {
      usageBytes: sum(({ memory: { usageBytes } }) => usageBytes),
      workingSetBytes: sum(({ memory: { workingSetBytes } }) => workingSetBytes),
      rssBytes: sum(({ memory: { rssBytes } }) => rssBytes),
      cacheBytes: sum(({ memory: { cacheBytes } }) => cacheBytes),
      mappedFileBytes: sum(({ memory: { mappedFileBytes } }) => mappedFileBytes),
      limitBytes: undefined,
      pageFaults: sum(({ memory: { pageFaults } }) => pageFaults),
      majorPageFaults: sum(({ memory: { majorPageFaults } }) => majorPageFaults),
    },
    swap: undefined,
    pressure: undefined,
  };
}

/** The backend's name for a container's own interface. */
const ownInterface = 'eth0';

/** Read through a process of the pod; undefined on the host's network, and while no process runs. */
export function podInterfaces(services: Used, record: SandboxRecord): InterfaceCounters[] | undefined {
  if (onHostNetwork(record.plan)) return undefined;
  for (const { pid, exit } of services.store.containersOf(record.id)) {
    const interfaces =
      pid !== undefined && exit === undefined
        ? readInterfaces(pid, record.plan.namespaces.network ?? `/proc/${pid}/ns/net`)
        : undefined;
    if (interfaces) return interfaces;
  }
  return undefined;
}

/**
 * The network statistics of a pod; null if they cannot be read.
 * @param defaultName the interface with the pod's address
 * @param timestamp nanoseconds since the epoch
 */
export function network(
  interfaces: InterfaceCounters[] | undefined,
  defaultName: string | undefined,
  timestamp: string,
): NetworkUsage | null {
  if (!interfaces) return null;
  const isDefault = ({ name }: InterfaceCounters): boolean => name === defaultName;
  const main = interfaces.find(isDefault);
  return {
    timestamp,
    default_interface: main ? interfaceUsage(main) : null,
    interfaces: interfaces.filter((one) => !isDefault(one)).map(interfaceUsage),
  };
}

function interfaceUsage({ name, receive, transmit }: InterfaceCounters): NetworkInterfaceUsage {
  return {
    name,
    rx_bytes: value(receive.bytes),
    rx_errors: value(receive.errors),
    tx_bytes: value(transmit.bytes),
    tx_errors: value(transmit.errors),
  };
}

function cpu(services: Used, id: string, usage: Usage, timestamp: string): CpuUsage {
  const rate = services.usageCache.nanoCores(id, usage.cpuNs);
  return {
    timestamp,
    usage_core_nano_seconds: value(usage.cpuNs),
    usage_nano_cores: rate === undefined ? null : value(rate),
    psi: usage.pressure ? psi(usage.pressure.cpu) : null,
  };
}

function memory(usage: GroupMemory, pressure: Pressure | undefined, timestamp: string): MemoryUsage {
  return {
    timestamp,
    usage_bytes: value(usage.usageBytes),
    working_set_bytes: value(usage.workingSetBytes),
    rss_bytes: value(usage.rssBytes),
    available_bytes: left(usage.limitBytes, usage.workingSetBytes),
    page_faults: value(usage.pageFaults),
    major_page_faults: value(usage.majorPageFaults),
    psi: pressure ? psi(pressure) : null,
  };
}

/** The rest of a limit; null without a limit. */
function left(limitBytes: number | undefined, usedBytes: number): { value: string } | null {
  return limitBytes === undefined ? null : value(Math.max(0, limitBytes - usedBytes));
}

/** The kernel counts microseconds, the CRI nanoseconds. */
function psi({ some, full }: Pressure): PsiStats {
  const line = ({ totalUs, avg10, avg60, avg300 }: PressureLine) => ({
    Total: String(BigInt(totalUs) * 1000n),
    Avg10: avg10,
    Avg60: avg60,
    Avg300: avg300,
  });
  return { Some: line(some), Full: line(full) };
}

function value(count: number | bigint): { value: string } {
  return { value: String(count) };
}

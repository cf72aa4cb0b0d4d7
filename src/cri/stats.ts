// ContainerStats, PodSandboxStats and their List and Stream forms.  The kubelet
// asks about every 10 s; its evictions, `kubectl top` and `crictl stats` rest on
// the answers.  A value that is not known is null: 0 would be believed.
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
import { wholeIds } from './container-read.js';
import { containerOf, refOf, sandboxOf, wholeId, type Parts } from './parts.js';
import { isShown, shownContainersOf } from './shown.js';
import { inPages } from './pages.js';

/** How long a call waits for the sizes of layers that nobody has measured yet. */
const newLayersWaitMs = 250;

export async function containerStats(
  parts: Parts,
  request: ContainerStatsRequest__Output,
): Promise<ContainerStatsResponse> {
  const record = containerOf(parts, request.container_id);
  await parts.samples.layersMeasured([record.id], newLayersWaitMs);
  return { stats: statsOf(parts, record) };
}

export async function listContainerStats(
  parts: Parts,
  request: ListContainerStatsRequest__Output,
): Promise<ListContainerStatsResponse> {
  const records = await containersToCount(parts, request.filter);
  return { stats: records.map((record) => statsOf(parts, record)) };
}

export async function* streamContainerStats(
  parts: Parts,
  request: StreamContainerStatsRequest__Output,
): AsyncGenerator<StreamContainerStatsResponse> {
  for (const page of inPages(await containersToCount(parts, request.filter)))
    yield { container_stats: page.map((record) => statsOf(parts, record)) };
}

export async function podSandboxStats(
  parts: Parts,
  request: PodSandboxStatsRequest__Output,
): Promise<PodSandboxStatsResponse> {
  const record = sandboxOf(parts, request.pod_sandbox_id);
  await parts.samples.layersMeasured(
    shownContainersOf(parts, record.id).map(({ id }) => id),
    newLayersWaitMs,
  );
  return { stats: podStatsOf(parts, record) };
}

export async function listPodSandboxStats(
  parts: Parts,
  request: ListPodSandboxStatsRequest__Output,
): Promise<ListPodSandboxStatsResponse> {
  const records = await sandboxesToCount(parts, request.filter);
  return { stats: records.map((record) => podStatsOf(parts, record)) };
}

export async function* streamPodSandboxStats(
  parts: Parts,
  request: StreamPodSandboxStatsRequest__Output,
): AsyncGenerator<StreamPodSandboxStatsResponse> {
  for (const page of inPages(await sandboxesToCount(parts, request.filter)))
    yield { pod_sandbox_stats: page.map((record) => podStatsOf(parts, record)) };
}

/** Exited ones too: what they have written still takes room. */
async function containersToCount(
  parts: Parts,
  given: ContainerStatsFilter__Output | null,
): Promise<ContainerRecord[]> {
  forgetRemoved(parts);
  const filter = given && wholeIds(parts, given);
  const records = parts.store.containers
    .all()
    .filter(
      (record) =>
        isShown(parts, record) &&
        matches({ id: record.id, labels: record.config.labels }, filter) &&
        (!filter?.pod_sandbox_id || record.sandboxId === filter.pod_sandbox_id),
    );
  await parts.samples.layersMeasured(
    records.map(({ id }) => id),
    newLayersWaitMs,
  );
  return records;
}

async function sandboxesToCount(
  parts: Parts,
  given: PodSandboxStatsFilter__Output | null,
): Promise<SandboxRecord[]> {
  forgetRemoved(parts);
  const filter = given && { ...given, id: wholeId(parts, parts.store.sandboxes, given.id, 'filter.id') };
  const records = parts.store.sandboxes
    .all()
    .filter(
      (record) =>
        isShown(parts, record) &&
        sandboxState(record) === 'SANDBOX_READY' &&
        matches({ id: record.id, labels: record.config.labels }, filter),
    );
  await parts.samples.layersMeasured(
    records.flatMap(({ id }) => shownContainersOf(parts, id).map((container) => container.id)),
    newLayersWaitMs,
  );
  return records;
}

function forgetRemoved({ samples, store }: Parts): void {
  samples.keepOnly((id) => store.containers.get(id) !== undefined || store.sandboxes.get(id) !== undefined);
}

/** The cgroup of a container, while it has one. */
export function cgroupOf(parts: Parts, record: ContainerRecord): string | undefined {
  if (!record.complete || containerState(record) === 'CONTAINER_EXITED') return undefined;
  return parts.handlers.get(record.handler)?.backend.cgroup(refOf(record));
}

function usageOf(parts: Parts, record: ContainerRecord): Usage | undefined {
  const cgroup = cgroupOf(parts, record);
  return cgroup === undefined ? undefined : readUsage(cgroup);
}

function statsOf(parts: Parts, record: ContainerRecord, usage = usageOf(parts, record)): ContainerStats {
  const timestamp = now();
  const { metadata, labels, annotations } = record.config;
  return {
    attributes: { id: record.id, metadata, labels, annotations },
    writable_layer: writableLayer(parts, record),
    ...(usage
      ? {
          cpu: cpu(parts, record.id, usage, timestamp),
          memory: memory(usage.memory, usage.pressure?.memory, timestamp),
          swap: usage.swap
            ? {
                timestamp,
                swap_usage_bytes: value(usage.swap.usageBytes),
                swap_available_bytes: left(usage.swap.limitBytes, usage.swap.usageBytes),
              }
            : null,
          io: usage.pressure ? { timestamp, psi: psi(usage.pressure.io) } : null,
        }
      : {}),
  };
}

function writableLayer(parts: Parts, record: ContainerRecord): FilesystemUsage | null {
  const layer = parts.samples.layer(record.id);
  if (!layer) return null;
  // The kubelet looks up the filesystem of this path, so it must outlive the container.
  return {
    timestamp: `${layer.measuredAtMs}000000`,
    fs_id: { mountpoint: parts.config.root },
    used_bytes: value(layer.usedBytes),
    inodes_used: value(layer.inodesUsed),
  };
}

function podStatsOf(parts: Parts, record: SandboxRecord): PodSandboxStats {
  const timestamp = now();
  const { metadata, labels, annotations } = record.config;
  const containers = shownContainersOf(parts, record.id).map((container) => ({
    container,
    usage: usageOf(parts, container),
  }));
  const groups = containers
    .filter((one) => one.usage)
    .flatMap(({ container }) => cgroupOf(parts, container) ?? []);
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
            cpu: cpu(parts, record.id, usage, timestamp),
            memory: memory(usage.memory, usage.pressure?.memory, timestamp),
            io: usage.pressure ? { timestamp, psi: psi(usage.pressure.io) } : null,
          }
        : {}),
      network: network(
        podInterfaces(parts, record),
        record.attachment?.interfaceName ?? ownInterface,
        timestamp,
      ),
      process: {
        timestamp,
        process_count: value(groups.reduce((sum, group) => sum + readProcesses(group).length, 0)),
      },
      containers: containers.map((one) => statsOf(parts, one.container, one.usage)),
    },
  };
}

/**
 * The pod's own group knows also what ended containers have used.  It says nothing
 * where it is a parent that several pods share, and of CTs, which are not in it.
 * @param groups those of its containers
 */
function podUsage(
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

/** What a backend calls the interface that a container brings itself. */
const ownInterface = 'eth0';

/** Read through one of the pod's processes; undefined on the host's network and while none runs. */
export function podInterfaces(parts: Parts, record: SandboxRecord): InterfaceCounters[] | undefined {
  if (onHostNetwork(record.plan)) return undefined;
  for (const { pid, exit } of parts.store.containersOf(record.id)) {
    const interfaces =
      pid !== undefined && exit === undefined
        ? readInterfaces(pid, record.plan.namespaces.network ?? `/proc/${pid}/ns/net`)
        : undefined;
    if (interfaces) return interfaces;
  }
  return undefined;
}

function network(
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

function cpu(parts: Parts, id: string, usage: Usage, timestamp: string): CpuUsage {
  const rate = parts.samples.nanoCores(id, usage.cpuNs);
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

/** What a limit leaves; null without one. */
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

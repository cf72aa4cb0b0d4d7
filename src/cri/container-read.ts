// ContainerStatus and ListContainers. Reads take no lock.
import type { ContainerFilter__Output } from './generated/runtime/v1/ContainerFilter.js';
import type { ContainerStatusRequest__Output } from './generated/runtime/v1/ContainerStatusRequest.js';
import type { ContainerStatusResponse } from './generated/runtime/v1/ContainerStatusResponse.js';
import type { ListContainersRequest__Output } from './generated/runtime/v1/ListContainersRequest.js';
import type { ListContainersResponse } from './generated/runtime/v1/ListContainersResponse.js';
import type { StreamContainersRequest__Output } from './generated/runtime/v1/StreamContainersRequest.js';
import type { StreamContainersResponse } from './generated/runtime/v1/StreamContainersResponse.js';
import { join } from 'node:path';
import { readFileIfThere } from '../host/files.js';
import { compareTimes, containerState, type ContainerRecord } from '../records/records.js';
import type { HostFacts } from '../oci/host-facts.js';
import { containerResources } from '../oci/resources.js';
import type { Spec } from '../shapes/spec.js';
import { containerItem, containerStatus, matches } from './convert.js';
import { containerOf, wholeId, type Parts } from './parts.js';
import { isShown } from './shown.js';
import { inPages } from './pages.js';

export async function containerStatusOf(
  parts: Parts,
  request: ContainerStatusRequest__Output,
): Promise<ContainerStatusResponse> {
  const record = containerOf(parts, request.container_id);
  return {
    status: containerStatus(record),
    info: request.verbose ? { info: JSON.stringify(await verbose(parts, record)) } : {},
  };
}

/** "pid", "runtimeSpec" and "config" are what people's scripts look for in `crictl inspect`, under containerd's names. */
async function verbose({ host }: Parts, record: ContainerRecord) {
  const { sandboxId, pid, handler, backendState, folder, notHonoured, madeMountSources, config } = record;
  const spec = await readFileIfThere(join(folder, 'config.json'));
  return {
    sandboxID: sandboxId,
    pid: record.exit ? 0 : (pid ?? 0),
    handler,
    backendState,
    bundle: folder,
    notHonoured,
    ...(madeMountSources ? { madeMountSources } : {}),
    config,
    runtimeSpec: spec ? currentSpec(JSON.parse(spec) as Spec, record, host) : undefined,
  };
}

/** The spec that the container was made from, with the limits that it has now (UpdateContainerResources). */
function currentSpec(spec: Spec, { resources }: ContainerRecord, host: HostFacts): Spec {
  if (!resources) return spec;
  const made = spec.linux.resources ?? {};
  const now = containerResources(resources, host);
  return {
    ...spec,
    linux: {
      ...spec.linux,
      resources: {
        ...made,
        ...now,
        ...(made.memory || now.memory ? { memory: { ...made.memory, ...now.memory } } : {}),
        ...(made.cpu || now.cpu ? { cpu: { ...made.cpu, ...now.cpu } } : {}),
        ...(made.unified || now.unified ? { unified: { ...made.unified, ...now.unified } } : {}),
      },
    },
  };
}

/** A filter with whole ids. @throws InvalidArgument for an ambiguous one */
export function wholeIds<T extends { readonly id: string; readonly pod_sandbox_id: string }>(
  parts: Parts,
  filter: T,
): T {
  const { containers, sandboxes } = parts.store;
  return {
    ...filter,
    id: wholeId(parts, containers, filter.id, 'filter.id'),
    pod_sandbox_id: wholeId(parts, sandboxes, filter.pod_sandbox_id, 'filter.pod_sandbox_id'),
  };
}

export async function listContainers(
  parts: Parts,
  request: ListContainersRequest__Output,
): Promise<ListContainersResponse> {
  return { containers: filtered(parts, request.filter).map(containerItem) };
}

export async function* streamContainers(
  parts: Parts,
  request: StreamContainersRequest__Output,
): AsyncGenerator<StreamContainersResponse> {
  for (const page of inPages(filtered(parts, request.filter))) yield { containers: page.map(containerItem) };
}

/** A container in the making is not listed: it may yet be undone. @throws InvalidArgument for an ambiguous id */
function filtered(parts: Parts, given: ContainerFilter__Output | null): ContainerRecord[] {
  const { containers } = parts.store;
  const filter = given && wholeIds(parts, given);
  return containers
    .all()
    .filter(
      (record) => isShown(parts, record) && matches({ id: record.id, labels: record.config.labels }, filter),
    )
    .filter((record) => !filter?.state || containerState(record) === filter.state.state)
    .filter((record) => !filter?.pod_sandbox_id || record.sandboxId === filter.pod_sandbox_id)
    .sort((one, other) => compareTimes(one.createdAt, other.createdAt));
}

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
import { containerState, type ContainerRecord } from '../records/records.js';
import { containerItem, containerStatus, matches } from './convert.js';
import { containerOf, type Parts } from './parts.js';
import { inPages } from './pages.js';

export async function containerStatusOf(
  parts: Parts,
  request: ContainerStatusRequest__Output,
): Promise<ContainerStatusResponse> {
  const record = containerOf(parts, request.container_id);
  return {
    status: containerStatus(record),
    info: request.verbose ? { info: JSON.stringify(await verbose(record)) } : {},
  };
}

/** "pid" and "runtimeSpec" are what people's scripts look for in `crictl inspect`. */
async function verbose(record: ContainerRecord) {
  const { sandboxId, pid, backend, backendState, folder, notHonoured, madeMountSources, config } = record;
  const spec = await readFileIfThere(join(folder, 'config.json'));
  return {
    sandboxID: sandboxId,
    pid: pid ?? 0,
    backend,
    backendState,
    bundle: folder,
    notHonoured,
    ...(madeMountSources ? { madeMountSources } : {}),
    config,
    runtimeSpec: spec ? (JSON.parse(spec) as unknown) : undefined,
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

/** A container in the making is not listed: it may yet be undone. */
function filtered(parts: Parts, filter: ContainerFilter__Output | null): ContainerRecord[] {
  return parts.store.containers
    .all()
    .filter((record) => record.complete && matches({ id: record.id, labels: record.config.labels }, filter))
    .filter((record) => !filter?.state || containerState(record) === filter.state.state)
    .filter((record) => record.sandboxId.startsWith(filter?.pod_sandbox_id ?? ''))
    .sort((one, other) => (BigInt(one.createdAt) < BigInt(other.createdAt) ? -1 : 1));
}

// ContainerStatus and ListContainers. Reads take no lock.
import type { ContainerFilter__Output } from './generated/runtime/v1/ContainerFilter.js';
import type { ContainerStatusRequest__Output } from './generated/runtime/v1/ContainerStatusRequest.js';
import type { ContainerStatusResponse } from './generated/runtime/v1/ContainerStatusResponse.js';
import type { ListContainersRequest__Output } from './generated/runtime/v1/ListContainersRequest.js';
import type { ListContainersResponse } from './generated/runtime/v1/ListContainersResponse.js';
import type { StreamContainersRequest__Output } from './generated/runtime/v1/StreamContainersRequest.js';
import type { StreamContainersResponse } from './generated/runtime/v1/StreamContainersResponse.js';
import { compareTimes, containerState, type ContainerRecord } from '../records/records.js';
import { readBundle } from '../oci/bundle.js';
import type { HostFacts } from '../oci/host-facts.js';
import { containerResources } from '../oci/resources.js';
import type { Spec } from '../shapes/spec.js';
import { containerItem, containerStatus, matches } from './convert.js';
import { containerOf, wholeIds } from './lookup.js';
import type { Services } from './services.js';
import { isShown } from './shown.js';
import { paginate } from './paginate.js';

/** What these calls use. */
type Used = Pick<Services, 'host' | 'store' | 'creations'>;

/** ContainerStatus; the verbose status has the spec with the present limits. @throws ContainerNotFound */
export async function containerStatusOf(
  services: Used,
  request: ContainerStatusRequest__Output,
): Promise<ContainerStatusResponse> {
  const record = containerOf(services, request.container_id);
  return {
    status: containerStatus(record),
    info: request.verbose ? { info: JSON.stringify(await verbose(services, record)) } : {},
  };
}

/** "pid", "runtimeSpec" and "config" have containerd's names: scripts read them from `crictl inspect`. */
async function verbose({ host }: Used, record: ContainerRecord) {
  const { sandboxId, pid, handler, backendState, folder, notHonoured, madeMountSources, config } = record;
  const spec = await readBundle(folder);
  return {
    sandboxID: sandboxId,
    pid: record.exit ? 0 : (pid ?? 0),
    handler,
    backendState,
    bundle: folder,
    notHonoured,
    ...(madeMountSources ? { madeMountSources } : {}),
    config,
    runtimeSpec: spec ? currentSpec(spec, record, host) : undefined,
  };
}

/** The spec of the container, with its current limits (UpdateContainerResources). */
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

/** ListContainers, the oldest first. @throws InvalidArgument for an ambiguous id in the filter */
export async function listContainers(
  services: Used,
  request: ListContainersRequest__Output,
): Promise<ListContainersResponse> {
  return { containers: filtered(services, request.filter).map(containerItem) };
}

/** StreamContainers (KEP-5825): as ListContainers, in pages. */
export async function* streamContainers(
  services: Used,
  request: StreamContainersRequest__Output,
): AsyncGenerator<StreamContainersResponse> {
  for (const page of paginate(filtered(services, request.filter)))
    yield { containers: page.map(containerItem) };
}

/**
 * A container that is being made is not listed: it may still be undone.
 * @throws InvalidArgument for an ambiguous id
 */
function filtered(services: Used, given: ContainerFilter__Output | null): ContainerRecord[] {
  const { containers } = services.store;
  const filter = given && wholeIds(services, given);
  return containers
    .all()
    .filter(
      (record) =>
        isShown(services, record) && matches({ id: record.id, labels: record.config.labels }, filter),
    )
    .filter((record) => !filter?.state || containerState(record) === filter.state.state)
    .filter((record) => !filter?.pod_sandbox_id || record.sandboxId === filter.pod_sandbox_id)
    .sort((one, other) => compareTimes(one.createdAt, other.createdAt));
}

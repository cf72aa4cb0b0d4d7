// UpdateContainerResources, UpdatePodSandboxResources and ReopenContainerLog:
// changes to running containers and pods.
import { CrispError } from '../errors.js';
import { log } from '../log.js';
import { step } from '../steps.js';
import { containerResources } from '../oci/resources.js';
import { containerState } from '../records/records.js';
import type { LinuxContainerResources__Output } from './generated/runtime/v1/LinuxContainerResources.js';
import type { ReopenContainerLogRequest__Output } from './generated/runtime/v1/ReopenContainerLogRequest.js';
import type { ReopenContainerLogResponse } from './generated/runtime/v1/ReopenContainerLogResponse.js';
import type { UpdateContainerResourcesRequest__Output } from './generated/runtime/v1/UpdateContainerResourcesRequest.js';
import type { UpdateContainerResourcesResponse } from './generated/runtime/v1/UpdateContainerResourcesResponse.js';
import type { UpdatePodSandboxResourcesRequest__Output } from './generated/runtime/v1/UpdatePodSandboxResourcesRequest.js';
import type { UpdatePodSandboxResourcesResponse } from './generated/runtime/v1/UpdatePodSandboxResourcesResponse.js';
import { backendOf, containerOf, readySandboxOf, refOf, runningContainerOf } from './lookup.js';
import type { Services } from './services.js';
import { ownsCgroup } from '../pod/plan.js';
import { limitPod } from '../pod/pod.js';

/** What these calls use. */
type Used = Pick<Services, 'host' | 'store' | 'creations' | 'locks' | 'handlers' | 'events'>;

/**
 * UpdateContainerResources: fields that are 0 or empty are not changed.
 * @throws InvalidArgument, WrongContainerState, ContainerNotFound
 */
export async function updateContainerResources(
  services: Used,
  request: UpdateContainerResourcesRequest__Output,
): Promise<UpdateContainerResourcesResponse> {
  const { id, sandboxId } = containerOf(services, request.container_id);
  if (!request.linux) throw new CrispError('InvalidArgument', 'linux is missing: there is nothing to update');
  const asked = request.linux;
  await services.locks.with(sandboxId, async () => {
    const record = containerOf(services, id);
    if (containerState(record) === 'CONTAINER_EXITED')
      throw new CrispError('WrongContainerState', `container ${id} has exited`);
    const wanted = record.resources ? withBothMemoryLimits(record.resources, asked) : asked;
    await step('update container: limits', () =>
      backendOf(services, record).update(refOf(record), containerResources(wanted, services.host)),
    );
    await step('update container: record', () =>
      services.store.containers.change(id, { resources: merged(record.resources, wanted) }),
    );
    log.info({ resources: wanted }, 'container resources updated');
  });
  return {};
}

/**
 * The update with both memory limits, if it has only one of them: the limit of swap counts memory as well (OCI
 * runtime specification, "Memory"), so the container keeps its amount of swap, and neither limit contradicts
 * the other.
 */
function withBothMemoryLimits(
  old: LinuxContainerResources__Output,
  update: LinuxContainerResources__Output,
): LinuxContainerResources__Output {
  const [limit, swap] = memoryLimitsOf(update);
  const [oldLimit, oldSwap] = memoryLimitsOf(old);
  if (swap > 0 && limit === 0) return { ...update, memory_limit_in_bytes: old.memory_limit_in_bytes };
  if (limit === 0 || swap !== 0 || oldSwap === 0) return update;
  const both = limit < 0 || oldSwap < 0 ? -1 : limit + oldSwap - oldLimit;
  return { ...update, memory_swap_limit_in_bytes: String(both) };
}

function memoryLimitsOf(resources: LinuxContainerResources__Output): [limit: number, withSwap: number] {
  return [Number(resources.memory_limit_in_bytes), Number(resources.memory_swap_limit_in_bytes)];
}

/** A zero or empty value in an update means "unchanged". */
function merged(
  old: LinuxContainerResources__Output | undefined,
  update: LinuxContainerResources__Output,
): LinuxContainerResources__Output {
  if (!old) return update;
  const set = Object.entries(update).filter(([, value]) =>
    Array.isArray(value)
      ? value.length > 0
      : typeof value === 'object'
        ? Object.keys(value as object).length > 0
        : value !== '0' && value !== '',
  );
  return { ...old, ...Object.fromEntries(set) };
}

/**
 * The kubelet itself resizes its pods' cgroups and then makes this call; crisp resizes cgroups that it made
 * itself.
 */
export async function updatePodSandboxResources(
  services: Used,
  request: UpdatePodSandboxResourcesRequest__Output,
): Promise<UpdatePodSandboxResourcesResponse> {
  const { id } = await readySandboxOf(services, request.pod_sandbox_id);
  await services.locks.with(id, async () => {
    const record = await readySandboxOf(services, id);
    if (request.resources && ownsCgroup(record.config))
      await limitPod(record.plan, containerResources(request.resources, services.host));
    await services.store.sandboxes.change(id, {
      ...(request.resources ? { resources: request.resources } : {}),
      ...(request.overhead ? { overhead: request.overhead } : {}),
    });
  });
  return {};
}

/**
 * ReopenContainerLog, after the kubelet has renamed the log.
 * @throws WrongContainerState, ContainerNotFound
 */
export async function reopenContainerLog(
  services: Used,
  request: ReopenContainerLogRequest__Output,
): Promise<ReopenContainerLogResponse> {
  const record = runningContainerOf(services, request.container_id);
  await backendOf(services, record).reopenLog(refOf(record));
  return {};
}

// UpdateContainerResources, UpdatePodSandboxResources, ReopenContainerLog and
// CheckpointContainer: changes to what runs.
import { CrispError } from '../errors.js';
import { writeResources } from '../host/cgroup.js';
import { log } from '../log.js';
import { containerResources } from '../oci/resources.js';
import { containerState } from '../pods/records.js';
import type { CheckpointContainerRequest__Output } from './generated/runtime/v1/CheckpointContainerRequest.js';
import type { CheckpointContainerResponse } from './generated/runtime/v1/CheckpointContainerResponse.js';
import type { CheckpointPodRequest__Output } from './generated/runtime/v1/CheckpointPodRequest.js';
import type { CheckpointPodResponse } from './generated/runtime/v1/CheckpointPodResponse.js';
import type { LinuxContainerResources__Output } from './generated/runtime/v1/LinuxContainerResources.js';
import type { ReopenContainerLogRequest__Output } from './generated/runtime/v1/ReopenContainerLogRequest.js';
import type { ReopenContainerLogResponse } from './generated/runtime/v1/ReopenContainerLogResponse.js';
import type { RestorePodRequest__Output } from './generated/runtime/v1/RestorePodRequest.js';
import type { RestorePodResponse } from './generated/runtime/v1/RestorePodResponse.js';
import type { UpdateContainerResourcesRequest__Output } from './generated/runtime/v1/UpdateContainerResourcesRequest.js';
import type { UpdateContainerResourcesResponse } from './generated/runtime/v1/UpdateContainerResourcesResponse.js';
import type { UpdatePodSandboxResourcesRequest__Output } from './generated/runtime/v1/UpdatePodSandboxResourcesRequest.js';
import type { UpdatePodSandboxResourcesResponse } from './generated/runtime/v1/UpdatePodSandboxResourcesResponse.js';
import { backendOf, containerOf, readySandboxOf, refOf, runningContainerOf, type Parts } from './parts.js';
import { ownsCgroup } from './sandbox-plan.js';

export async function updateContainerResources(parts: Parts, request: UpdateContainerResourcesRequest__Output): Promise<UpdateContainerResourcesResponse> {
  const { id, sandboxId } = containerOf(parts, request.container_id);
  if (!request.linux) throw new CrispError('InvalidArgument', 'linux is missing: there is nothing to update');
  const wanted = request.linux;
  await parts.locks.with(sandboxId, async () => {
    const record = containerOf(parts, id);
    if (containerState(record) === 'CONTAINER_EXITED') throw new CrispError('WrongContainerState', `container ${id} has exited`);
    await backendOf(parts, record).update(refOf(record), containerResources(wanted, parts.host));
    await parts.store.containers.change(id, { resources: merged(record.resources, wanted) });
    log.info({ resources: wanted }, 'container resources updated');
  });
  return {};
}

/** A zero or empty value of an update means "as it is". */
function merged(old: LinuxContainerResources__Output | undefined, update: LinuxContainerResources__Output): LinuxContainerResources__Output {
  if (!old) return update;
  const set = Object.entries(update).filter(([, value]) => (Array.isArray(value) ? value.length > 0 : typeof value === 'object' ? Object.keys(value as object).length > 0 : value !== '0' && value !== ''));
  return { ...old, ...Object.fromEntries(set) };
}

/** The kubelet resizes the pod's cgroup itself and tells us; a pod whose cgroup is ours is resized by us. */
export async function updatePodSandboxResources(parts: Parts, request: UpdatePodSandboxResourcesRequest__Output): Promise<UpdatePodSandboxResourcesResponse> {
  const { id } = readySandboxOf(parts, request.pod_sandbox_id);
  await parts.locks.with(id, async () => {
    const record = readySandboxOf(parts, id);
    if (request.resources && ownsCgroup(record.config)) {
      await writeResources(record.plan.cgroupParent, containerResources(request.resources, parts.host));
    }
    await parts.store.sandboxes.change(id, {
      ...(request.resources ? { resources: request.resources } : {}), ...(request.overhead ? { overhead: request.overhead } : {}),
    });
  });
  return {};
}

export async function reopenContainerLog(parts: Parts, request: ReopenContainerLogRequest__Output): Promise<ReopenContainerLogResponse> {
  const record = runningContainerOf(parts, request.container_id);
  await backendOf(parts, record).reopenLog(refOf(record));
  return {};
}

export async function checkpointContainer(parts: Parts, request: CheckpointContainerRequest__Output): Promise<CheckpointContainerResponse> {
  const record = runningContainerOf(parts, request.container_id);
  if (!request.location.startsWith('/')) throw new CrispError('InvalidArgument', 'location must be an absolute path');
  await backendOf(parts, record).checkpoint(refOf(record), request.location, Number(request.timeout) * 1000);
  return {};
}

export async function checkpointPod(_parts: Parts, _request: CheckpointPodRequest__Output): Promise<CheckpointPodResponse> {
  throw new CrispError('Unsupported', 'checkpoints of whole pods are not supported: criu freezes one container at a time, so its members would disagree');
}

export async function restorePod(_parts: Parts, _request: RestorePodRequest__Output): Promise<RestorePodResponse> {
  throw new CrispError('Unsupported', 'there are no pod checkpoints to restore: see CheckpointPod');
}

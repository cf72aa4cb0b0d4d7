// StopPodSandbox and RemovePodSandbox: both idempotent, both finish what an
// earlier attempt has begun.
import { log } from '../log.js';
import { ownsCgroup } from '../pod/plan.js';
import { releasePod, removePod } from '../pod/pod.js';
import { step } from '../steps.js';
import { now, type SandboxRecord } from '../records/records.js';
import type { RemovePodSandboxRequest__Output } from './generated/runtime/v1/RemovePodSandboxRequest.js';
import type { RemovePodSandboxResponse } from './generated/runtime/v1/RemovePodSandboxResponse.js';
import type { StopPodSandboxRequest__Output } from './generated/runtime/v1/StopPodSandboxRequest.js';
import type { StopPodSandboxResponse } from './generated/runtime/v1/StopPodSandboxResponse.js';
import { removeContainerRecord, stopContainerRecord } from './container-stop.js';
import { backendOf, sandboxIfThere } from './lookup.js';
import type { Services } from './services.js';
import { isShown } from './shown.js';

/**
 * StopPodSandbox: kills the containers and releases the network. No error if the pod does not exist or is
 * stopped.
 */
export async function stopPodSandbox(
  services: Services,
  request: StopPodSandboxRequest__Output,
): Promise<StopPodSandboxResponse> {
  const known = sandboxIfThere(services, request.pod_sandbox_id);
  if (!known) return {}; // removed already: counts as stopped
  await services.locks.with(known.id, () => stopSandbox(services, known.id));
  return {};
}

/** RemovePodSandbox: also stops it, and removes its containers. No error if it does not exist. */
export async function removePodSandbox(
  services: Services,
  request: RemovePodSandboxRequest__Output,
): Promise<RemovePodSandboxResponse> {
  const known = sandboxIfThere(services, request.pod_sandbox_id);
  if (!known) return {};
  await removeSandbox(services, known.id);
  return {};
}

/** Stops the sandbox of this id; the caller has its lock. No error if it is stopped already. */
async function stopSandbox(services: Services, id: string): Promise<void> {
  const record = services.store.sandboxes.get(id);
  if (!record) return;
  services.store.checkContainersReadable(id);
  if (record.stoppedAt !== undefined) return;
  // 1. Its containers, killed at once: only StopContainer has a grace period.
  await Promise.all(
    services.store.containersOf(id).map((container) => stopContainerRecord(services, container.id, 0)),
  );
  // 2. Its resources on the host.
  await releaseSandbox(services, record);
  // 3. The record: the pod is not ready any more.
  const stopped = await step('stop pod: record', () =>
    services.store.sandboxes.change(id, { stoppedAt: now() }),
  );
  log.info('pod sandbox stopped');
  if (isShown(services, record)) services.events.emit('CONTAINER_STOPPED_EVENT', id, stopped);
}

/**
 * Releases the network, the namespaces and the holder of a pod; also after a crash while they were being
 * made.
 */
export async function releaseSandbox(services: Services, record: SandboxRecord): Promise<void> {
  const { config, attachment } = record;
  await releasePod(record, backendOf(services, record), { of: services.network, config, attachment });
}

/**
 * Stops and removes the sandbox and all its containers; no error if it does not exist. @param still called
 * with the lock; false leaves it unchanged
 */
export async function removeSandbox(
  services: Services,
  id: string,
  still: () => boolean = () => true,
): Promise<void> {
  await services.locks.with(id, async () => {
    if (!still()) return;
    await stopSandbox(services, id);
    const record = services.store.sandboxes.get(id);
    if (!record) return;
    // A container that cannot be removed keeps the pod, but not the other containers.
    const failures: unknown[] = [];
    for (const container of services.store.containersOf(id))
      await removeContainerRecord(services, container.id).catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw failures[0];
    await removePod(record.plan.folder, ownsCgroup(record.config) ? record.plan.cgroupParent : undefined);
    await step('remove pod: record', () => services.store.sandboxes.delete(id)); // last: until here a retry finds the rest
    log.info('pod sandbox removed');
    if (isShown(services, record)) services.events.emit('CONTAINER_DELETED_EVENT', id, record);
  });
}

// StopPodSandbox and RemovePodSandbox: both idempotent, both finish what an
// earlier try has begun.
import { removePodCgroup } from '../host/cgroup.js';
import { remove } from '../host/files.js';
import { unmountBelow } from '../host/mounts.js';
import { addLogContext, log } from '../log.js';
import { namespaceFiles, unpinNamespaces } from '../pod/namespaces.js';
import { holderFolder, stopPidHolder } from '../pod/pid-holder.js';
import { now, type SandboxRecord } from '../records/records.js';
import type { RemovePodSandboxRequest__Output } from './generated/runtime/v1/RemovePodSandboxRequest.js';
import type { RemovePodSandboxResponse } from './generated/runtime/v1/RemovePodSandboxResponse.js';
import type { StopPodSandboxRequest__Output } from './generated/runtime/v1/StopPodSandboxRequest.js';
import type { StopPodSandboxResponse } from './generated/runtime/v1/StopPodSandboxResponse.js';
import { removeContainerRecord, stopContainerRecord } from './container-stop.js';
import { backendOf, recordOf, type Parts } from './parts.js';
import { isShown } from './shown.js';
import { namespacesFolder, ownsCgroup, podNetwork, sharesPids } from './sandbox-plan.js';

export async function stopPodSandbox(
  parts: Parts,
  request: StopPodSandboxRequest__Output,
): Promise<StopPodSandboxResponse> {
  const known = recordOf(parts, parts.store.sandboxes, request.pod_sandbox_id, 'pod_sandbox_id');
  if (!known) return {}; // gone already: as good as stopped
  const { id } = known;
  addLogContext({ podId: id });
  await parts.locks.with(id, () => stopSandbox(parts, id));
  return {};
}

export async function removePodSandbox(
  parts: Parts,
  request: RemovePodSandboxRequest__Output,
): Promise<RemovePodSandboxResponse> {
  const known = recordOf(parts, parts.store.sandboxes, request.pod_sandbox_id, 'pod_sandbox_id');
  if (!known) return {};
  addLogContext({ podId: known.id });
  await removeSandbox(parts, known.id);
  return {};
}

/** Stops the sandbox of this id, whose lock the caller holds; done already is fine. */
async function stopSandbox(parts: Parts, id: string): Promise<void> {
  const record = parts.store.sandboxes.get(id);
  if (!record) return;
  parts.store.checkContainersReadable(id);
  if (record.stoppedAt !== undefined) return;
  // 1. Its containers, at once and by force: the grace period is StopContainer's.
  await Promise.all(
    parts.store.containersOf(id).map((container) => stopContainerRecord(parts, container.id, 0)),
  );
  // 2. What it holds of the host.
  await releaseSandbox(parts, record);
  // 3. It is not ready any more.
  const stopped = await parts.store.sandboxes.change(id, { stoppedAt: now() });
  log.info('pod sandbox stopped');
  if (isShown(parts, record)) parts.events.emit('CONTAINER_STOPPED_EVENT', id, stopped);
}

/** Gives back the network, the namespaces and the holder of a pod; also after a crash in the middle of making them. */
export async function releaseSandbox(parts: Parts, record: SandboxRecord): Promise<void> {
  const { plan, config } = record;
  await backendOf(parts, record).stopSandbox(plan, record.backendState);
  if (config.linux?.security_context?.namespace_options?.network !== 'NODE' && !plan.ownNetwork) {
    await parts.network.detach(
      podNetwork(plan, config, namespaceFiles(namespacesFolder(plan)).network),
      record.attachment,
    );
  }
  if (sharesPids(config)) await stopPidHolder(holderFolder(plan.folder), record.holder);
  await unpinNamespaces(namespacesFolder(plan));
  await unmountBelow(plan.folder); // its memory
}

/** Stops and removes the sandbox and all its containers; absent is fine. @param still asked when nobody else works on it: false leaves it as it is */
export async function removeSandbox(
  parts: Parts,
  id: string,
  still: () => boolean = () => true,
): Promise<void> {
  await parts.locks.with(id, async () => {
    if (!still()) return;
    await stopSandbox(parts, id);
    const record = parts.store.sandboxes.get(id);
    if (!record) return;
    for (const container of parts.store.containersOf(id)) await removeContainerRecord(parts, container.id);
    if (ownsCgroup(record.config)) await removePodCgroup(record.plan.cgroupParent);
    await remove(record.plan.folder);
    await parts.store.sandboxes.delete(id); // last: until here a retry finds what is left to do
    log.info('pod sandbox removed');
    if (isShown(parts, record)) parts.events.emit('CONTAINER_DELETED_EVENT', id, record);
  });
}

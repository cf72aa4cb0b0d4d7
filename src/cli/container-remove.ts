// Removes standalone containers: for `crisp delete` and `crisp run --rm`, and if one cannot
// be started.
import { toCrispError } from '../errors.js';
import { removePodCgroup } from '../host/cgroup.js';
import { remove } from '../host/files.js';
import { namespaceFiles } from '../pod/namespaces.js';
import { namespacesFolder } from '../pod/plan.js';
import { releasePod, removePod, takeApart } from '../pod/pod.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import { stateOf } from './container-state.js';
import type { Services } from './services.js';

/** Removes a container with everything that was made for it; every step is idempotent. */
export async function removeAll(services: Services, record: StandaloneRecord): Promise<void> {
  const { id, plan, podState } = record;
  const backend = services.backendOf(record);
  await backend.delete(refOf(record));
  await services.rootfs.unmount(id);
  if (record.addresses || !record.complete)
    // an incomplete container may have addresses too
    await (
      await services.network
    ).detach({
      ...{ id, name: plan.name, namespace: plan.namespace, uid: plan.uid },
      netns: namespaceFiles(namespacesFolder(plan)).network,
    });
  await releasePod({ plan, backendState: podState }, backend);
  await removePod(plan.folder, undefined);
  await takeApart(record.folder, undefined); // older versions kept the pod in this folder
  await removeCgroupOf(plan);
  await remove(record.logPath);
  await services.records.delete(record);
}

/** Removes the containers of `crisp run --rm` that have ended with no command beside them. */
export async function removeEnded(services: Services): Promise<void> {
  for (const record of await services.records.all()) {
    if (!record.removeAtEnd) continue;
    try {
      if ((await stateOf(services, record)).status === 'stopped') await removeAll(services, record);
    } catch (error) {
      process.stderr.write(`container ${record.name} is not removed: ${toCrispError(error).report}\n`);
    }
  }
}

/** Removes the parent cgroup of the container, which contains no other containers. */
export async function removeCgroupOf({ cgroupParent }: SandboxPlan): Promise<void> {
  if (!cgroupParent.endsWith('.slice')) await removePodCgroup(cgroupParent);
}

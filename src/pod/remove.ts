// What a pod and a container have in the state folder, taken apart by what lies
// there: for recovery and `crisp gc`, which find them without a record, and for
// the removal of a standalone container.
import { CrispError } from '../errors.js';
import { removePodCgroup } from '../host/cgroup.js';
import { remove } from '../host/files.js';
import { unmountBelow } from '../host/mounts.js';
import { waitUntilIdle } from '../host/proc.js';
import { holderFolder, stopPidHolder } from './pid-holder.js';

/** How long a monitor may take to end after its container. */
const monitorPatienceMs = 2_000;

/** A pod without a record, whose containers and network are gone. @param cgroup the one that crisp makes for it */
export async function removePod(folder: string, cgroup: string | undefined): Promise<void> {
  await stopPidHolder(holderFolder(folder));
  await takeApart(folder, cgroup);
}

/**
 * A bundle without a record; that of a standalone container has its pod in it.
 * @throws WrongContainerState while its container runs, which no backend told of: its runtime is gone, or not configured any more
 */
export async function removeBundle(folder: string, cgroup?: string): Promise<void> {
  const monitors = await waitUntilIdle(folder, monitorPatienceMs);
  if (monitors.length > 0) {
    throw new CrispError(
      'WrongContainerState',
      `${folder} is in use: its container runs, and no handler knows of it`,
      {
        hint: `configure its handler again, or end what process ${monitors.map(({ pid }) => pid).join(', ')} watches`,
      },
    );
  }
  await takeApart(folder, cgroup);
}

/** A folder with all that is mounted in it (namespaces are), and the cgroup beside it. Idempotent; the folder goes last, so that a retry finds it. */
export async function takeApart(folder: string, cgroup: string | undefined): Promise<void> {
  await unmountBelow(folder);
  if (cgroup !== undefined) await removePodCgroup(cgroup);
  await remove(folder);
}

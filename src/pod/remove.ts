// What a pod and a container have in the state folder, taken apart by what lies
// there: for recovery and `crisp gc`, which find them without a record, and for
// the removal of a standalone container.
import { CrispError } from '../errors.js';
import { waitUntilIdle } from '../host/proc.js';
import { takeApart } from './pod.js';

/** How long a monitor may take to end after its container. */
const monitorPatienceMs = 2_000;

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

// Signals to the processes of a CT.
import { killCgroup, signalCgroup } from '../../host/cgroup.js';
import { writeFileAtomic } from '../../host/files.js';
import { identify, signalProcess } from '../../host/proc.js';
import type { ContainerRef } from '../backend.js';
import { cgroupOf } from './cgroups.js';
import type { PctContext } from './context.js';
import { find, initPid } from './find.js';
import { wasStarted } from './start.js';

const SIGKILL = 9;

/** Signals the first process directly: pct can only send SIGKILL, and takes a second. */
export async function kill(
  ctx: PctContext,
  container: ContainerRef,
  signal: number,
  all = false,
): Promise<void> {
  const found = await find(ctx, container);
  if (!found) return;
  const pid = await initPid(ctx, found.vmid);
  if (all && signal === SIGKILL) await killCgroup(cgroupOf(found.vmid));
  else if (all) await signalCgroup(cgroupOf(found.vmid), signal);
  else if (pid !== undefined) {
    const process = await identify(pid);
    if (process) await signalProcess(process, signal);
  } else if (signal === SIGKILL && !(await wasStarted(container))) {
    // No process is running, so no other exit will be reported.
    await writeFileAtomic(ctx.exits.path(container.id), String(128 + SIGKILL));
  }
}

// Overlaps a wait in the kernel with crisp's own work, before a runtime moves
// a process into its cgroup. For container-create and exec.
import { closeSync, openSync, readFileSync, write } from 'node:fs';
import { join } from 'node:path';
import { cgroupLayout } from './cgroup.js';

/**
 * Prepares the kernel for the move of a process into another cgroup.
 *
 * The first move after some 10 ms without a move waits for an RCU grace period (5
 * to 15 ms: cgroup_threadgroup_rwsem, kernel/cgroup/cgroup.c); moves right after it
 * do not. So crisp moves itself into its own group, which changes nothing, while the
 * runtime is still being prepared. Returns at once. Never fails; at worst it has no
 * effect.
 */
export function expectCgroupMove(path = ownProcessesFile()): void {
  if (path === undefined) return;
  try {
    const file = openSync(path, 'w');
    write(file, '0', () => closeSync(file)); // "0" is the writing process; only the write takes long, so only it runs on another thread
  } catch {
    /* no permission to write to the tree */
  }
}

/** cgroup.procs of crisp's current group, in any tree; undefined if it cannot be determined. */
export function ownProcessesFile(): string | undefined {
  const { version, controllers, unified } = cgroupLayout();
  for (const line of readFileSync('/proc/self/cgroup', 'utf8').split('\n')) {
    const [, names = '', path] = line.split(':'); // "9:pids:/a/b"; v2's line is "0::/a/b" (cgroups(7))
    const tree = version === 'v2' ? unified : controllers[names.split(',')[0] ?? ''];
    if (tree !== undefined && path !== undefined) return join(tree, path, 'cgroup.procs');
  }
  return undefined;
}

// Overlaps a wait of the kernel with our own work, before a runtime moves a
// process into its cgroup.  For container-create and exec.
import { closeSync, openSync, readFileSync, write } from 'node:fs';
import { join } from 'node:path';
import { cgroupLayout } from './cgroup.js';

/**
 * Says that a process is about to be moved into another cgroup.
 *
 * The first move after some 10 ms without one waits for an RCU grace period (5
 * to 15 ms: cgroup_threadgroup_rwsem, kernel/cgroup/cgroup.c), those right after
 * it do not.  So we move ourselves to where we are, which changes nothing, while
 * the runtime is still being prepared.  Returns at once; it cannot fail, only be
 * of no use.
 */
export function expectCgroupMove(path = ownProcessesFile()): void {
  if (path === undefined) return;
  try {
    const file = openSync(path, 'w');
    write(file, '0', () => closeSync(file)); // "0" is whoever writes; only the write takes long, so only it leaves the thread
  } catch {
    /* a tree that we may not write to */
  }
}

/** cgroup.procs of the group that we are in now, of any tree; undefined where it cannot be told. */
export function ownProcessesFile(): string | undefined {
  const { version, controllers, unified } = cgroupLayout();
  for (const line of readFileSync('/proc/self/cgroup', 'utf8').split('\n')) {
    const [, names = '', path] = line.split(':'); // "9:pids:/a/b"; v2's line is "0::/a/b" (cgroups(7))
    const tree = version === 'v2' ? unified : controllers[names.split(',')[0] ?? ''];
    if (tree !== undefined && path !== undefined) return join(tree, path, 'cgroup.procs');
  }
  return undefined;
}

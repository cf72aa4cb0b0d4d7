// Overlaps a wait of the kernel with our own work, before a runtime moves a
// process into its cgroup.  For container-create and exec.
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
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
export function expectCgroupMove(): void {
  ownProcesses ??= ownProcessesFile();
  if (ownProcesses) void writeFile(ownProcesses, '0').catch(() => undefined); // "0" is whoever writes
}
let ownProcesses: string | undefined;

/** cgroup.procs of the group that we are in, of any tree; "" where it cannot be told. */
function ownProcessesFile(): string {
  const { version, controllers, unified } = cgroupLayout();
  for (const line of readFileSync('/proc/self/cgroup', 'utf8').split('\n')) {
    const [, names = '', path] = line.split(':'); // "9:pids:/a/b"; v2's line is "0::/a/b" (cgroups(7))
    const tree = version === 'v2' ? unified : controllers[names.split(',')[0] ?? ''];
    if (tree !== undefined && path !== undefined) return join(tree, path, 'cgroup.procs');
  }
  return '';
}

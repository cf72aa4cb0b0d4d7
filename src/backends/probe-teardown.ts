// Removes the leftovers of probes that a crash interrupted: temporary
// containers with their mounts, folders and cgroups. Each probe does this
// first.
import { join } from 'node:path';
import { removePodCgroup } from '../host/cgroup.js';
import { namesIn, remove } from '../host/files.js';
import { unmountBelow } from '../host/mounts.js';
import { pidExists } from '../host/proc.js';
import { probeIdPattern } from '../shapes/id.js';
import type { Backend } from './backend.js';

/**
 * The cgroup of a probe without systemd. It shares no parent with those of other probes, here or in another process:
 * the parent would be removed with the last of them, perhaps while a runtime makes the next one in it.
 */
export function probeCgroup(id: string): string {
  return `/${id}`;
}

let counter = 0;
/** Contains the pid of the probing process, so that a running probe of another process is not touched. */
export function probeId({ name }: Pick<Backend, 'name'>): string {
  return `crisp-probe-${name}-${process.pid}-${counter++}`;
}

/** @param parent contains a folder for each probe, named by its id */
export async function clearProbes(backend: Pick<Backend, 'name' | 'delete'>, parent: string): Promise<void> {
  for (const id of await namesIn(parent)) {
    const [, name, pid] = probeIdPattern.exec(id) ?? [];
    if (name !== backend.name || pid === undefined || pidExists(pid)) continue;
    const folder = join(parent, id);
    await backend.delete({ id, folder, logPath: '', state: undefined });
    await unmountBelow(folder);
    await removePodCgroup(probeCgroup(id));
    await remove(folder);
  }
}

// What probes leave that a crash of the daemon cut off: throw-away containers
// with their mounts, folders and cgroups.  Each probe clears those before it.
import { join } from 'node:path';
import { removePodCgroup } from '../host/cgroup.js';
import { namesIn, remove } from '../host/files.js';
import { unmountBelow } from '../host/mounts.js';
import { pidExists } from '../host/proc.js';
import { probeIdPattern } from '../shapes/id.js';
import type { Backend } from './backend.js';

/** The cgroup that probes have theirs in, where no systemd keeps them. */
export const probeCgroup = '/crisp-probe';

let counter = 0;
/** Names the process that probes, so that what another one is at is left alone. */
export function probeId({ name }: Pick<Backend, 'name'>): string {
  return `crisp-probe-${name}-${process.pid}-${counter++}`;
}

/** @param parent holds a folder for each probe, called after its id */
export async function clearProbes(backend: Pick<Backend, 'name' | 'delete'>, parent: string): Promise<void> {
  for (const id of await namesIn(parent)) {
    const [, name, pid] = probeIdPattern.exec(id) ?? [];
    if (name !== backend.name || pid === undefined || pidExists(pid)) continue;
    const folder = join(parent, id);
    await backend.delete({ id, folder, logPath: '', state: undefined });
    await unmountBelow(folder);
    await removePodCgroup(`${probeCgroup}/${id}`);
    await remove(folder);
  }
}

// The list of places in which crisp makes files, mounts and cgroups, to find
// orphans: objects without a record after a crash, the loss of the state folder or a
// reboot. Used by recovery (cri/recover.ts), which has the records of the daemon,
// and by `crisp gc` (cli/gc.ts), which reads their files and those of standalone
// containers.
import { join } from 'node:path';
import type { Backend, FoundContainer } from './backends/backend.js';
import { namesIn, readFileIfThere, remove } from './host/files.js';
import { pidExists } from './host/proc.js';
import type { Rootfs } from './images/rootfs.js';
import { removeBundle } from './pod/container.js';
import { removePod } from './pod/pod.js';
import { probeIdPattern } from './shapes/id.js';

/** An object that crisp made, found by its place. */
export interface Thing {
  readonly kind:
    | 'container'
    | 'remnant'
    | 'rootfs'
    | 'image volume'
    | 'image layer'
    | 'image blobs'
    | 'image folder'
    | 'bundle'
    | 'pod folder'
    | 'name'
    | 'address'
    | 'log';
  readonly name: string;
  /** The id of the record that it belongs to. */
  readonly owner: string;
  readonly remove: () => Promise<unknown>;
}

/** The folders of the daemon, or of the command line. */
export interface Place {
  readonly root: string;
  readonly state: string;
  readonly rootfs: Pick<Rootfs, 'list' | 'unmount' | 'images' | 'unmountImage'>;
  /**
   * The cgroup that crisp makes for an id, which remains after the containers have ended; undefined: none.
   */
  readonly cgroup: (id: string) => string | undefined;
}

/**
 * All objects of a place except its containers, in the order in which orphans
 * are removed. The view that a running `crisp bundle` copies from is not
 * included.
 */
export async function thingsIn({ root, state, rootfs, cgroup }: Place): Promise<Thing[]> {
  const named = (folder: string): Promise<string[]> => namesIn(join(state, folder));
  const things: Thing[] = [];
  const add = (kind: Thing['kind'], name: string, owner: string, removeIt: Thing['remove']): void => {
    things.push({ kind, name, owner, remove: removeIt });
  };
  for (const id of await named('bundles'))
    add('bundle', id, id, () => removeBundle(join(state, 'bundles', id), cgroup(id)));
  for (const id of await rootfs.list()) add('rootfs', id, id, () => rootfs.unmount(id));
  for (const name of await rootfs.images())
    if (!isBeingCopied(name))
      add('image volume', name, name.replace(/-\d+$/, ''), () => rootfs.unmountImage(name));
  for (const file of await namesIn(join(root, 'logs')))
    add('log', file, file.replace(/\.log$/, ''), () => remove(join(root, 'logs', file)));
  for (const name of await named('names')) things.push(await takenName(join(state, 'names', name), name));
  for (const id of await named('pods'))
    add('pod folder', id, id, () => removePod(join(state, 'pods', id), cgroup(id)));
  return things;
}

/**
 * A container that a backend lists. Its other objects are in thingsIn(), and are kept while it cannot be
 * removed.
 */
export function containerThing(backend: Backend, container: FoundContainer): Thing {
  return {
    kind: 'container',
    name: `${container.id} (${backend.name})`,
    owner: container.id,
    remove: () => backend.delete(container),
  };
}

/**
 * Removes orphans, except those of a running probe, each by `removing`, which
 * returns whether it succeeded: an object that could not be removed may be
 * running, and needs the other objects of the same id.
 */
export async function removeOrphans(
  things: readonly Thing[],
  isKnown: (owner: string) => boolean,
  removing: (thing: Thing) => Promise<boolean>,
): Promise<void> {
  const staying = new Set<string>();
  for (const thing of things) {
    if (isKnown(thing.owner) || isBeingProbed(thing.owner) || staying.has(thing.owner)) continue;
    if (!(await removing(thing))) staying.add(thing.owner);
  }
}

/** The container of a probe has no record, but its name contains the pid of the probing process. */
function isBeingProbed(owner: string): boolean {
  return livesOn(probeIdPattern.exec(owner)?.[2]);
}

/** The view from which a `crisp bundle` copies. */
function isBeingCopied(name: string): boolean {
  return livesOn(/^bundle-(\d+)$/.exec(name)?.[1]);
}

function livesOn(pid: string | undefined): boolean {
  return pid !== undefined && pidExists(pid);
}

/** A name is a file with the id of its container; while it is being made, it is empty for a moment. */
async function takenName(path: string, name: string): Promise<Thing> {
  const owner = (await readFileIfThere(path).catch(() => undefined)) ?? '';
  return {
    kind: 'name',
    name,
    owner,
    remove: async () => {
      if ((await readFileIfThere(path)) === owner) await remove(path);
    },
  };
}

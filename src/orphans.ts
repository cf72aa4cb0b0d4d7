// The list of places where crisp makes things, for what a crash, a lost state
// folder or a reboot has left without a record. Walked by recovery (cri/recover.ts),
// which knows the records of the daemon, and by `crisp gc` (cli/gc.ts), which knows
// their files and those of standalone containers.
import { join } from 'node:path';
import type { Backend, FoundContainer } from './backends/backend.js';
import { namesIn, readFileIfThere, remove } from './host/files.js';
import { pidExists } from './host/proc.js';
import type { Rootfs } from './images/rootfs.js';
import { removeBundle } from './pod/container.js';
import { removePod } from './pod/pod.js';
import { probeIdPattern } from './shapes/id.js';

/** One thing that crisp made, found by where it lies. */
export interface Thing {
  readonly kind:
    | 'container'
    | 'remnant'
    | 'rootfs'
    | 'image volume'
    | 'image layer'
    | 'image blobs'
    | 'bundle'
    | 'pod folder'
    | 'name'
    | 'log';
  readonly name: string;
  /** The id of the record that should be there. */
  readonly owner: string;
  readonly remove: () => Promise<unknown>;
}

/** The folders of the daemon, or those of the command line. */
export interface Place {
  readonly root: string;
  readonly state: string;
  readonly rootfs: Pick<Rootfs, 'list' | 'unmount' | 'images' | 'unmountImage'>;
  /** The cgroup that crisp makes for an id, which outlives the containers; undefined: none. */
  readonly cgroup: (id: string) => string | undefined;
}

/**
 * All things of a place but its containers, in the order in which orphans are
 * removed. The view that a `crisp bundle` is copying from is not among them.
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

/** A container that a backend knows. Its other things are in thingsIn(), and stay while it cannot be removed. */
export function containerThing(backend: Backend, container: FoundContainer): Thing {
  return {
    kind: 'container',
    name: `${container.id} (${backend.name})`,
    owner: container.id,
    remove: () => backend.delete(container),
  };
}

/**
 * Removes those that belong to nobody, and to no probe that is under way, each by
 * `removing`, which tells whether it could: what could not be removed may run, and
 * needs the other things of its owner.
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

/** The container of a probe has no record, but the pid of its process in its name. */
function isBeingProbed(owner: string): boolean {
  return livesOn(probeIdPattern.exec(owner)?.[2]);
}

/** The view that a `crisp bundle` copies from. */
function isBeingCopied(name: string): boolean {
  return livesOn(/^bundle-(\d+)$/.exec(name)?.[1]);
}

function livesOn(pid: string | undefined): boolean {
  return pid !== undefined && pidExists(pid);
}

/** A name is a file that holds the id of its container; for a moment, when it is made, it holds none. */
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

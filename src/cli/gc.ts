// `crisp gc`: removes what bears our mark and has no record, of the daemon and
// of standalone containers.  Safe while the daemon works: it writes a record
// before it makes anything, and removes the record last; so what is found first
// and then has no record belongs to nobody.
import { join } from 'node:path';
import type { Backend, FoundContainer } from '../backends/backend.js';
import { loadConfig, type Config } from '../config/config.js';
import { toCrispError } from '../errors.js';
import { cgroupDriver } from '../host/cgroup.js';
import { namesIn, readFileIfThere, remove } from '../host/files.js';
import { pidExists } from '../host/proc.js';
import { Images, imagesOptionsOf } from '../images/store.js';
import { Rootfs } from '../images/rootfs.js';
import { ownCgroupParent } from '../oci/namespaces.js';
import { recoveryLabelOf } from '../records/recovery-label.js';
import { removeBundle } from '../pod/container.js';
import { removePod } from '../pod/pod.js';
import { mayHaveContainers, open } from './backend.js';
import { printJson } from './output.js';
import type { PlaceFlags } from './services.js';

export interface GcFlags extends PlaceFlags {
  readonly 'dry-run': boolean;
  readonly json: boolean;
}

/** One thing that crisp made, found by where it lies. */
interface Thing {
  readonly kind:
    'container' | 'remnant' | 'rootfs' | 'image volume' | 'bundle' | 'pod folder' | 'name' | 'log';
  readonly name: string;
  /** The id of the record that should be there. */
  readonly owner: string;
  readonly remove: () => Promise<unknown>;
}

interface Place {
  readonly root: string;
  readonly state: string;
  /** The cgroup that it makes for an id, which outlives the containers; undefined: none. */
  readonly cgroup: (id: string) => string | undefined;
}

/** @returns 1 when something could not be removed */
export async function gcCommand(flags: GcFlags): Promise<number> {
  const config = loadConfig(flags.config, { root: flags.root, cli_state: flags.state });
  const systemd = cgroupDriver(config.runtime.cgroup_driver) === 'systemd';
  const places: Place[] = [
    { root: config.root, state: config.state, cgroup: (id) => ownCgroupParent(id, systemd) },
    {
      root: join(config.root, 'cli'),
      state: config.cli_state,
      cgroup: (id) => (systemd ? undefined : `/crisp-cli/${id}`),
    },
  ];
  const results: { kind: string; name: string; error?: string }[] = [];
  const orphans: Thing[] = [];
  for (const place of places) {
    try {
      orphans.push(...(await orphansOf(config, place)));
    } catch (error) {
      results.push({ kind: 'folder', name: place.state, error: toCrispError(error).report }); // what a backend does not tell of is in use
    }
  }
  const staying = new Set<string>();
  for (const { kind, name, owner, remove: removeIt } of orphans) {
    if (staying.has(owner)) continue; // what runs on needs the rest of it
    try {
      if (!flags['dry-run']) await removeIt();
      results.push({ kind, name });
    } catch (error) {
      staying.add(owner);
      results.push({ kind, name, error: toCrispError(error).report });
    }
  }
  if (flags.json) printJson({ dryRun: flags['dry-run'], orphans: results });
  else {
    const verb = flags['dry-run'] ? 'would remove' : 'removed';
    process.stdout.write(
      results
        .map(({ kind, name, error }) =>
          error ? `NOT removed ${kind} ${name}: ${error}\n` : `${verb} ${kind} ${name}\n`,
        )
        .join('') || 'nothing to remove\n',
    );
  }
  return results.some(({ error }) => error) ? 1 : 0;
}

async function orphansOf(config: Config, place: Place): Promise<Thing[]> {
  const remnants = await remnantsOf(config, place); // first: where pct is at work on one, it has come to its end meanwhile
  const found = await containers(config, place);
  const things = [...found.map(thingOf), ...(await folders(place)), ...(await layers(config, place))]; // first the things, then the records
  const known = new Set([...(await recordIds(place)), ...found.flatMap(lostAndKept)]);
  return [...remnants, ...things.filter(({ owner }) => !known.has(owner) && !isBeingProbed(owner))];
}

/** The container of a probe has no record, but the name of its process. */
function isBeingProbed(owner: string): boolean {
  return livesOn(/^crisp-probe-.*-(\d+)-\d+$/.exec(owner)?.[1]);
}

/** Ids of the records, by the names of their files: what cannot be read is a record all the same. */
async function recordIds({ state }: Place): Promise<Set<string>> {
  const files = [...(await namesIn(join(state, 'containers'))), ...(await namesIn(join(state, 'sandboxes')))];
  return new Set(
    files
      .filter((file) => /\.json(\.unreadable)?$/.test(file))
      .map((file) => file.replace(/\.json(\.unreadable)?$/, '').replace(/^\./, '')),
  );
}

interface Found {
  readonly backend: Backend;
  readonly container: FoundContainer;
}

/** What the backends know: processes may still run. */
async function containers(config: Config, { state }: Place): Promise<Found[]> {
  const found = Object.keys(config.handlers).map(async (name): Promise<[string, Found][]> => {
    if (!(await mayHaveContainers(config, state, name))) return [];
    const backend = open(config, state, name);
    return (await backend.list()).map((container) => [container.id, { backend, container }]);
  });
  return [...new Map((await Promise.all(found)).flat()).values()]; // each handler of type pct knows the CTs of all
}

/** Containers that were cut off half made or half removed: they go, whether there is a record or not. */
async function remnantsOf(config: Config, { state }: Place): Promise<Thing[]> {
  const things = new Map<string, Thing>(); // each handler of type pct knows those of all
  for (const handler of Object.keys(config.handlers)) {
    if (!(await mayHaveContainers(config, state, handler))) continue;
    for (const { name, end } of (await open(config, state, handler).remnants?.()) ?? [])
      things.set(name, { kind: 'remnant', name, owner: name, remove: end });
  }
  return [...things.values()];
}

function thingOf({ backend, container }: Found): Thing {
  return {
    kind: 'container',
    name: `${container.id} (${backend.name})`,
    owner: container.id,
    remove: () => backend.delete(container),
  };
}

/** The ids of a container that carries its own record, and of its pod: a daemon that starts takes it back, or removes it. One that carries what cannot be believed is left as it is. */
function lostAndKept({ container }: Found): string[] {
  const kept = recoveryLabelOf(container);
  return kept === undefined
    ? []
    : kept === 'unreadable'
      ? [container.id]
      : [kept.container.id, kept.sandbox.id];
}

async function layers(config: Config, place: Place): Promise<Thing[]> {
  const rootfs = new Rootfs({ ...place, images: new Images(imagesOptionsOf(config)) });
  return [
    ...(await rootfs.list()).map((id): Thing => ({
      kind: 'rootfs',
      name: id,
      owner: id,
      remove: () => rootfs.unmount(id),
    })),
    ...(await Promise.all(['views', 'image-volumes'].map((name) => namesIn(join(place.state, name)))))
      .flat()
      .filter((name) => !isBeingCopied(name))
      .map((name): Thing => ({
        kind: 'image volume',
        name,
        owner: name.replace(/-\d+$/, ''),
        remove: () => rootfs.unmountImage(name),
      })),
  ];
}

/** So has the view that a `crisp bundle` copies from. */
function isBeingCopied(name: string): boolean {
  return livesOn(/^bundle-(\d+)$/.exec(name)?.[1]);
}

function livesOn(pid: string | undefined): boolean {
  return pid !== undefined && pidExists(pid);
}

async function folders({ root, state, cgroup }: Place): Promise<Thing[]> {
  const folder = async (
    kind: Thing['kind'],
    parent: string,
    removeIt: (path: string, cgroup: string | undefined) => Promise<void>,
  ): Promise<Thing[]> =>
    (await namesIn(join(state, parent))).map((id) => ({
      kind,
      name: id,
      owner: id,
      remove: () => removeIt(join(state, parent, id), cgroup(id)),
    }));
  return [
    ...(await folder('bundle', 'bundles', removeBundle)),
    ...(await folder('pod folder', 'pods', removePod)),
    ...(await namesIn(join(root, 'logs'))).map((file): Thing => ({
      kind: 'log',
      name: file,
      owner: file.replace(/\.log$/, ''),
      remove: () => remove(join(root, 'logs', file)),
    })),
    ...(await Promise.all((await namesIn(join(state, 'names'))).map((name) => takenName(state, name)))),
  ];
}

/** A name is a file that holds the id of its container; for a moment, when it is made, it holds none. */
async function takenName(state: string, name: string): Promise<Thing> {
  const path = join(state, 'names', name);
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

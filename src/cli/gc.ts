// `crisp gc`: removes orphans, which have crisp's mark but no record, of the
// daemon and of standalone containers. Safe while the daemon is running: it
// writes a record before it makes anything, and removes the record last; so an
// object that is found first and then has no record is an orphan.
import { join } from 'node:path';
import type { Backend, FoundContainer } from '../backends/backend.js';
import { loadConfig, type Config } from '../config/config.js';
import { toCrispError } from '../errors.js';
import { cgroupDriver } from '../host/cgroup.js';
import { namesIn } from '../host/files.js';
import { Images, imagesOptionsOf } from '../images/store.js';
import { Rootfs } from '../images/rootfs.js';
import { ownCgroupParent } from '../oci/namespaces.js';
import { containerThing, removeOrphans, thingsIn, type Place, type Thing } from '../orphans.js';
import type { Network } from '../network/cni.js';
import { recoveryLabelOf } from '../records/recovery-label.js';
import { mayHaveContainers, open } from './backend.js';
import { printJson } from './output.js';
import { checkPlaces, startNetwork, type PlaceFlags } from './services.js';

export interface GcFlags extends PlaceFlags {
  readonly 'dry-run': boolean;
  readonly json: boolean;
}

/** @returns 1 if something could not be removed */
export async function gcCommand(flags: GcFlags): Promise<number> {
  const config = loadConfig(flags.config, { root: flags.root, cli_state: flags.state });
  checkPlaces(flags, config, 'ignore'); // a lost state folder is a reason to run it
  const systemd = cgroupDriver(config.runtime.cgroup_driver) === 'systemd';
  const place = (root: string, state: string, cgroup: Place['cgroup']): Place => ({
    root,
    state,
    rootfs: new Rootfs({ root, state, images: new Images(imagesOptionsOf(config)) }),
    cgroup,
  });
  const places = [
    place(config.root, config.state, (id) => ownCgroupParent(id, systemd)),
    place(join(config.root, 'cli'), config.cli_state, (id) => (systemd ? undefined : `/crisp-cli/${id}`)),
  ];
  const results: { kind: string; name: string; error?: string }[] = [];
  const removing = async ({ kind, name, remove }: Thing): Promise<boolean> => {
    try {
      if (!flags['dry-run']) await remove();
      results.push({ kind, name });
      return true;
    } catch (error) {
      results.push({ kind, name, error: toCrispError(error).report });
      return false;
    }
  };
  for (const each of places) {
    const network = each.state === config.cli_state ? await startNetwork(config, each.root) : undefined;
    try {
      const { things, known } = await lookAt(config, each, network);
      await removeOrphans(things, (owner) => known.has(owner), removing);
    } catch (error) {
      // Without the list of containers it is unknown what is in use.
      results.push({ kind: 'folder', name: each.state, error: toCrispError(error).report });
    } finally {
      network?.close();
    }
  }
  for (const leftover of await leftoversOfPulls(config)) await removing(leftover);
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

/** @param network to also find its addresses; undefined for the daemon, which releases them at its start */
async function lookAt(
  config: Config,
  place: Place,
  network: Network | undefined,
): Promise<{ things: Thing[]; known: Set<string> }> {
  // First: a CT that pct is still making may be complete when the containers are listed.
  const remnants = await remnantsOf(config, place);
  const found = await containers(config, place);
  const things = [
    ...remnants,
    ...found.map(({ backend, container }) => containerThing(backend, container)),
    ...(await thingsIn(place)),
    ...(network ? await addressesOf(network) : []),
  ];
  const known = new Set([...(await recordIds(place)), ...found.flatMap(lostAndKept)]); // after the objects
  return { things, known };
}

/** The addresses of standalone containers on the pod network. */
async function addressesOf(network: Network): Promise<Thing[]> {
  return (await network.noted()).map((id) => ({
    kind: 'address',
    name: id,
    owner: id,
    remove: () => network.detach({ id, name: '', namespace: '', uid: '', netns: '' }),
  }));
}

/** The partial downloads of failed pulls, kept for the next attempt. */
async function leftoversOfPulls(config: Config): Promise<Thing[]> {
  const leftovers = await new Images(imagesOptionsOf(config)).leftovers();
  return leftovers.map(({ kind, ...leftover }) => ({
    kind: `image ${kind}`,
    owner: leftover.name,
    ...leftover,
  }));
}

/** Ids of the records, by the names of their files: an unreadable record also counts. */
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

/** The containers that the backends list: their processes may still be running. */
async function containers(config: Config, { state }: Place): Promise<Found[]> {
  const found = Object.keys(config.handlers).map(async (name): Promise<[string, Found][]> => {
    if (!(await mayHaveContainers(config, state, name))) return [];
    const backend = open(config, state, name);
    return (await backend.list()).map((container) => [container.id, { backend, container }]);
  });
  // By id, since every handler of type pct lists the CTs of all such handlers.
  return [...new Map((await Promise.all(found)).flat()).values()];
}

/** Containers with an interrupted creation or removal: they are removed, with or without a record. */
async function remnantsOf(config: Config, { state }: Place): Promise<Thing[]> {
  const things = new Map<string, Thing>(); // by name: handlers of type pct list each other's remnants
  for (const handler of Object.keys(config.handlers)) {
    if (!(await mayHaveContainers(config, state, handler))) continue;
    for (const { name, end } of (await open(config, state, handler).remnants?.()) ?? [])
      things.set(name, { kind: 'remnant', name, owner: name, remove: end });
  }
  return [...things.values()];
}

/**
 * The ids of a container with a recovery label, and of its pod: the daemon reclaims or removes it at its
 * start. A container with an invalid label is left as it is.
 */
function lostAndKept({ container }: Found): string[] {
  const kept = recoveryLabelOf(container);
  return kept === undefined
    ? []
    : kept === 'unreadable'
      ? [container.id]
      : [kept.container.id, kept.sandbox.id];
}

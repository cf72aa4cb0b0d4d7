// The services of the standalone commands, made once per command. The daemon
// may be running: the images are shared and only read, everything else has
// folders of its own (STATE, /run/crisp-cli by default, and ROOT/cli).
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../backends/backend.js';
import { loadConfig, type Config } from '../config/config.js';
import { CrispError } from '../errors.js';
import { makeFolder, takeFrom, tightenState } from '../host/files.js';
import { Images, imagesOptionsOf } from '../images/store.js';
import { Rootfs } from '../images/rootfs.js';
import { Network, networkOptionsOf } from '../network/cni.js';
import { readHostFacts, type HostFacts } from '../oci/host-facts.js';
import { rootGroupOf } from '../oci/namespaces.js';
import { StandaloneRecords, type StandaloneRecord } from '../records/standalone.js';
import { open } from './backend.js';

/** The flags of all these commands. */
export interface PlaceFlags {
  readonly config: string | undefined;
  readonly root: string | undefined;
  readonly state: string | undefined;
}

export class Services {
  readonly config: Config;
  readonly state: string;
  /** For data that does not fit on a tmpfs: writable layers and logs. */
  readonly root: string;
  readonly records: StandaloneRecords;
  readonly images: Images;
  readonly rootfs: Rootfs;
  private readonly backends = new Map<string, Backend>();
  private facts: HostFacts | undefined;
  private started: Promise<Network> | undefined;

  constructor(flags: PlaceFlags) {
    this.config = loadConfig(flags.config, { root: flags.root, cli_state: flags.state });
    this.state = this.config.cli_state;
    this.root = join(this.config.root, 'cli');
    this.records = new StandaloneRecords(this.state, this.root);
    // With the daemon's state folder, since an image store has only one runtime folder.
    this.images = new Images(imagesOptionsOf(this.config));
    this.rootfs = new Rootfs({ root: this.root, state: this.state, images: this.images });
  }

  /** The pod network, for containers with an address. */
  get network(): Promise<Network> {
    return (this.started ??= startNetwork(this.config, this.root));
  }

  get host(): HostFacts {
    return (this.facts ??= readHostFacts(this.config));
  }

  /** Also removes the permissions for all users of the host from folders of older versions. */
  async makeFolders(): Promise<void> {
    makeFolder(this.state, 0o711);
    makeFolder(join(this.root, 'logs'));
    for (const folder of [this.config.root, this.root]) takeFrom(folder, 0o700);
    const plans = new Map((await this.records.all()).map(({ id, plan }) => [id, plan]));
    tightenState(this.state, (id) => rootGroupOf(plans.get(id)?.idMaps));
  }

  backendOf(record: StandaloneRecord): Backend {
    let backend = this.backends.get(record.handler);
    if (!backend)
      this.backends.set(record.handler, (backend = open(this.config, this.state, record.handler)));
    return backend;
  }

  /** Stops watching, so that the process can end. */
  async close(): Promise<void> {
    await Promise.all([...this.backends.values()].map((backend) => backend.close()));
    (await this.started)?.close();
  }
}

/** With its own notes, separate from the daemon's. */
export async function startNetwork(config: Config, root: string): Promise<Network> {
  const network = new Network(networkOptionsOf(config, root));
  await network.start();
  return network;
}

/**
 * The folders of a command are folders, and those that a flag names are crisp's: otherwise the command would
 * find nothing there and say so as if that were the answer.
 * @param absent what it does about a folder that is not there
 * @throws InvalidArgument
 */
export function checkPlaces(
  flags: Omit<PlaceFlags, 'config'>,
  config: Config,
  absent: 'refuse' | 'make' | 'ignore',
): void {
  const places = [
    { name: 'root', flag: flags.root, folder: config.root, part: 'storage', mode: 0o700 },
    {
      name: flags.state === undefined ? 'cli_state' : 'state',
      flag: flags.state,
      folder: config.cli_state,
      part: 'names',
      mode: 0o711,
    },
  ];
  for (const { name, flag, folder, part, mode } of places) {
    const refused = (why: string): CrispError =>
      new CrispError(
        'InvalidArgument',
        `${flag === undefined ? `the key ${name}` : `--${name}`}: ${folder} ${why}`,
      );
    const found = statSync(folder, { throwIfNoEntry: false });
    if (found && !found.isDirectory()) throw refused('is not a folder');
    if (flag === undefined) continue;
    if (absent === 'make') makeFolder(folder, mode);
    else if (!found) {
      if (absent === 'refuse') throw refused('does not exist');
    } else {
      const names = readdirSync(folder);
      if (names.length > 0 && !names.includes(part))
        throw refused(`holds nothing of crisp: there is no folder "${part}" in it`);
    }
  }
}

/**
 * Runs a command with its services, and closes them at the end, also after an error.
 * @param flags with `makes`: the command makes its folders if they are not there
 */
export async function withParts<T>(
  flags: PlaceFlags & { readonly makes?: boolean },
  command: (services: Services) => Promise<T>,
): Promise<T> {
  if (process.geteuid?.() !== 0)
    throw new CrispError(
      'PermissionDenied',
      'this requires root: it makes namespaces, mounts and control groups',
      { hint: 'run it with sudo' },
    );
  const services = new Services(flags);
  checkPlaces(flags, services.config, flags.makes ? 'make' : 'refuse');
  // Images have their locks below it. The daemon expects the mode with which it makes it itself.
  if (flags.makes) makeFolder(services.config.state, 0o711);
  try {
    return await command(services);
  } finally {
    await services.close();
  }
}

// An image store and a Rootfs in this process: for the tests of src/images, which need
// no daemon.
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { stringify } from 'yaml';
import { configSchema, type Config } from '../../src/config/config.js';
import { unmountBelow } from '../../src/host/mounts.js';
import { StorageLayout } from '../../src/images/layout.js';
import { Rootfs } from '../../src/images/rootfs.js';
import { Images } from '../../src/images/store.js';
import { startRegistry, type Registry, type RegistryOptions } from './registry.js';

const run = promisify(execFile);
export const noAuth = {
  username: '',
  password: '',
  auth: '',
  serverAddress: '',
  identityToken: '',
  registryToken: '',
};

/** The ids of the images that containers use, for images.remove(). */
export const noneUsed = async (): Promise<readonly string[]> => [];

export class TestStore {
  private readonly registries: Registry[] = [];
  private constructor(
    readonly folder: string,
    readonly images: Images,
    readonly rootfs: Rootfs,
  ) {}

  get root(): string {
    return join(this.folder, 'root');
  }
  get state(): string {
    return join(this.folder, 'state');
  }
  get storage(): string {
    return join(this.root, 'storage');
  }

  /** @param config keys of the section "images"; FOLDER in a value stands for the store's folder */
  static async open(config: Partial<Config['images']> = {}, folder?: string): Promise<TestStore> {
    folder ??= await mkdtemp(join(tmpdir(), 'crisp-'));
    await writeFile(
      join(folder, 'policy.json'),
      JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }),
    );
    const given = JSON.parse(JSON.stringify(config).replaceAll('FOLDER', folder)) as Partial<
      Config['images']
    >;
    const images = new Images({
      root: join(folder, 'root'),
      state: join(folder, 'state'),
      config: configSchema.parse({
        images: {
          signature_policy: join(folder, 'policy.json'),
          registries_conf: join(folder, 'registries.conf'),
          ...given,
        },
      }).images,
      pvesm: 'pvesm',
    });
    const store = new TestStore(
      folder,
      images,
      new Rootfs({ root: join(folder, 'root'), state: join(folder, 'state'), images }),
    );
    await store.trust([]);
    await images.open();
    return store;
  }

  /** A configuration file with these folders, for the command line. @returns its path */
  async writeConfig(): Promise<string> {
    const file = join(this.folder, 'config.yaml');
    await writeFile(
      file,
      stringify({
        root: this.root,
        state: this.state,
        cli_state: join(this.folder, 'cli'),
        images: {
          signature_policy: join(this.folder, 'policy.json'),
          registries_conf: join(this.folder, 'registries.conf'),
        },
      }),
    );
    return file;
  }

  /** The same folders with another config, as after a restart. */
  reopened(config: Partial<Config['images']> = {}): Promise<TestStore> {
    return TestStore.open(config, this.folder);
  }

  /** A registry that ends with the store. */
  async registry(options?: RegistryOptions): Promise<Registry> {
    const folder = await mkdtemp(join(this.folder, 'registry-'));
    const registry = await startRegistry(folder, options);
    this.registries.push(registry);
    return registry;
  }

  /** Registries without TLS, and mirrors: "name" -> "address". */
  async trust(addresses: readonly string[], mirrors: Readonly<Record<string, string>> = {}): Promise<void> {
    await writeFile(
      join(this.folder, 'registries.conf'),
      [
        ...addresses.map((address) => `[[registry]]\nlocation = "${address}"\ninsecure = true\n`),
        ...Object.entries(mirrors).map(
          ([name, address]) =>
            `[[registry]]\nlocation = "${name}"\n[[registry.mirror]]\nlocation = "${address}"\ninsecure = true\n`,
        ),
      ].join(''),
    );
  }

  /** The number of layers that are unpacked completely. */
  async wholeLayers(): Promise<number> {
    const layers = await new StorageLayout(this.storage).readLayers();
    return [...layers.values()].filter(({ flags }) => !flags?.incomplete).length;
  }

  /** All that lies below the root folder, but for the files that containers-storage makes once. */
  async kept(): Promise<string[]> {
    const names = await readdir(this.root, { recursive: true });
    return names
      .filter(
        (name) =>
          !/(\.lock|\.json|\.has-mount-program)$|^storage(\/(overlay|overlay-\w+|overlay\/l|mounts|tmp))?$|^(pulls|staged|containers)$/.test(
            name,
          ),
      )
      .sort();
  }

  /** Removes what failed pulls left for the next try, as `crisp gc` does. */
  async removeLeftovers(): Promise<void> {
    for (const { remove } of await this.images.leftovers()) await remove();
  }

  /** As du(1) counts the store. */
  async du(): Promise<{ usedBytes: number; inodesUsed: number }> {
    const count = async (unit: string): Promise<number> =>
      Number((await run('du', ['--summarize', unit, this.storage])).stdout.split('\t')[0]);
    return { usedBytes: await count('--block-size=1'), inodesUsed: await count('--inodes') };
  }

  async makeFolder(name: string): Promise<string> {
    await mkdir(join(this.folder, name), { recursive: true });
    return join(this.folder, name);
  }

  async destroy(): Promise<void> {
    for (const registry of this.registries) await registry.close();
    await unmountBelow(this.folder);
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }
}

/** Pids of the commands whose argv names a folder. */
export async function commandsIn(folder: string): Promise<{ pid: number; argv: string }[]> {
  const { stdout } = await run('ps', ['-e', '-ww', '-o', 'pid=,args=']);
  return stdout
    .split('\n')
    .map((line) => /^\s*(\d+) (.*)$/.exec(line))
    .flatMap((match) => (match?.[2]?.includes(folder) ? [{ pid: Number(match[1]), argv: match[2] }] : []));
}

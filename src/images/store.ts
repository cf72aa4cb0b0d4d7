// The images of this node: found, listed, pulled, removed and measured.
// Called by cri/images.ts, container-create and the command line.
//
// skopeo and containers-storage write the store, which CRI-O and podman share
// as a format; we read its files (layout.ts) and mount its layers (rootfs.ts).
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config.js';
import { CrispError } from '../errors.js';
import { makeFolder, readFileIfThere, writeFileAtomic } from '../host/files.js';
import { run } from '../host/run.js';
import { log } from '../log.js';
import type { ImageConfig } from '../oci/image-config.js';
import { StorageLayout, type StoredImage } from './layout.js';
import { Pulls, type RegistryAuth } from './pull.js';
import { looksLikeId, parseReference } from './references.js';
import { Usage } from './usage.js';

export type { RegistryAuth } from './pull.js';

export interface Image {
  /** "sha256:…", the digest of its config. */
  readonly id: string;
  /** Full names with tag. */
  readonly tags: readonly string[];
  /** REPOSITORY@sha256:… */
  readonly digests: readonly string[];
  readonly sizeBytes: number;
  /** Its config's User, as the CRI wants it: by number or by name. */
  readonly user: { readonly uid?: number; readonly name?: string };
  /** Not to be garbage-collected. */
  readonly pinned: boolean;
  readonly config: ImageConfig;
}

export interface ImagesOptions {
  readonly root: string;
  readonly state: string;
  readonly config: Config['images'];
}

const deleteTimeoutMs = 120_000;

export class Images {
  readonly layout: StorageLayout;
  /** containers-storage's name of our store, for skopeo. */
  private readonly storage: string;
  private readonly pulls: Pulls;
  private readonly usageOfStore: Usage;
  private readonly removals = new Map<string, Promise<void>>();
  private readonly preloaded = new Set<string>();
  private listed: { readonly key: string; readonly images: readonly Image[] } | undefined;

  constructor(private readonly options: ImagesOptions) {
    const root = join(options.root, 'storage');
    this.layout = new StorageLayout(root);
    // skip_mount_home: else the driver would leave a bind mount of its folder on itself
    this.storage = `[overlay@${root}+${join(options.state, 'storage')}:overlay.skip_mount_home=true]`;
    this.pulls = new Pulls({ storage: this.storage, folder: join(options.root, 'pulls'), config: options.config });
    this.usageOfStore = new Usage(this.layout);
  }

  /** Removes what an interrupted pull left, and imports the archives of preload_dir. */
  async open(): Promise<void> {
    await makeFolder(this.layout.root);
    await this.pulls.clean();
    if (this.options.config.preload_dir) await this.preload(this.options.config.preload_dir);
  }

  async list(): Promise<readonly Image[]> {
    const key = await this.layout.version();
    if (this.listed?.key !== key) {
      const stored = await this.layout.readImages();
      this.listed = { key, images: await Promise.all(stored.map((image) => this.describe(image))) };
    }
    return this.listed.images;
  }

  /** By id (whole, or a unique beginning), tag or digest. undefined: not here. @throws InvalidArgument for a malformed reference */
  async find(reference: string): Promise<Image | undefined> {
    const images = await this.list();
    if (looksLikeId(reference)) {
      const wanted = images.filter((image) => image.id.startsWith(reference.startsWith('sha256:') ? reference : `sha256:${reference}`));
      if (wanted.length === 1) return wanted[0];
      if (reference.startsWith('sha256:')) return undefined;
    }
    const { name, digest } = parseReference(reference);
    return images.find((image) => (digest ? image.digests : image.tags).includes(name));
  }

  /**
   * Pulls an image; pulls of the same reference with the same credentials are one.
   * @throws RegistryUnavailable, NotFoundInRegistry, RegistryDenied, SignatureValidationFailed, ImageCorrupt, PullStalled, DiskFull, InvalidArgument
   */
  async pull(reference: string, auth: RegistryAuth | undefined, signal?: AbortSignal): Promise<Image> {
    const { name } = parseReference(reference);
    await this.pulls.pull(name, auth, signal);
    const image = await this.find(name);
    if (!image) throw new CrispError('Internal', `${name} was pulled but is not in the store`);
    return image;
  }

  /**
   * Removes an image with all its names; absent is fine.
   * @param usedIds the ids of images that containers use
   * @throws ImageInUse
   */
  async remove(reference: string, usedIds: readonly string[]): Promise<void> {
    const image = await this.find(reference);
    if (!image) return;
    const removing = this.removals.get(image.id);
    if (removing) return removing;
    if (usedIds.includes(image.id)) throw new CrispError('ImageInUse', `image ${reference} is used by a container`);
    const removal = this.delete(image.id).finally(() => this.removals.delete(image.id));
    this.removals.set(image.id, removal);
    await removal;
  }

  private async delete(id: string): Promise<void> {
    await run(['skopeo', 'delete', `containers-storage:${this.storage}@${id.replace('sha256:', '')}`], { timeoutMs: deleteTimeoutMs, stage: 'remove image', errorId: 'StorageFailed' });
  }

  /** The folders of the image's unpacked layers, topmost first. */
  async layers(image: Image): Promise<readonly string[]> {
    return (await this.layerIds(image)).map((id) => this.layout.diff(id));
  }

  async layerIds(image: Image): Promise<readonly string[]> {
    const stored = (await this.layout.readImages()).find((candidate) => `sha256:${candidate.id}` === image.id);
    if (!stored) throw new CrispError('RootfsMissing', `image ${image.id} is not in the store any more`);
    return (await this.layout.layersOf(stored)).map((layer) => layer.id);
  }

  /** What the store takes on disk, as du(1) counts. */
  usage(): Promise<{ mountpoint: string; usedBytes: number; inodesUsed: number }> { return this.usageOfStore.read(); }

  /** Imports an OCI archive (a .tar) or an OCI layout folder under `name`. */
  async importArchive(path: string, name: string): Promise<Image> {
    const reference = parseReference(name);
    await this.pulls.copy(`${path.endsWith('.tar') ? 'oci-archive' : 'oci'}:${path}`, reference.name, undefined);
    const image = await this.find(reference.name);
    if (!image) throw new CrispError('Internal', `${path} was imported but is not in the store`);
    return image;
  }

  /**
   * Imports each archive of a folder once (it is noted by name, size and time)
   * and pins what it holds. The image's name is the archive's own annotation,
   * else the file's name.
   */
  private async preload(folder: string): Promise<void> {
    const notes = join(this.options.root, 'preloaded.json');
    const known = JSON.parse(await readFileIfThere(notes) ?? '{}') as Record<string, string>;
    for (const file of (await readdir(folder)).filter((name) => name.endsWith('.tar')).sort()) {
      const path = join(folder, file);
      const present = known[file] !== undefined && await this.find(known[file]);
      if (!present) {
        const name = await archiveName(path) ?? `localhost/${file.replace(/\.tar$/, '').toLowerCase().replace(/[^a-z0-9._-]+/g, '-')}:latest`;
        try {
          const image = await this.importArchive(path, name);
          known[file] = name;
          log.info({ archive: path, image: name, id: image.id }, 'archive imported');
        } catch (error) {
          log.error({ err: error, archive: path }, 'archive not imported');
          continue;
        }
      }
      this.preloaded.add(known[file] ?? '');
    }
    await writeFileAtomic(notes, JSON.stringify(known));
    this.listed = undefined;
  }

  private async describe(stored: StoredImage): Promise<Image> {
    const config = await this.layout.configOf(stored);
    const layers = await this.layout.layersOf(stored);
    const names = stored.names ?? [];
    const tags = names.filter((name) => !name.includes('@'));
    const repositories = new Set([...names, ...stored['names-history'] ?? []].map((name) => parseReference(name).repository));
    const digests = new Set([
      ...(stored.digest ? [...repositories].map((repository) => `${repository}@${stored.digest}`) : []),
      ...names.filter((name) => name.includes('@')),
    ]);
    const [user = ''] = (config.User ?? '').split(':');
    return {
      id: `sha256:${stored.id}`, tags, digests: [...digests], config,
      sizeBytes: layers.reduce((sum, layer) => sum + (layer['diff-size'] ?? 0), 0),
      user: user === '' ? {} : /^\d+$/.test(user) ? { uid: Number(user) } : { name: user },
      pinned: [...tags, ...digests].some((name) => this.isPinned(name)),
    };
  }

  private isPinned(name: string): boolean {
    return this.preloaded.has(name) || this.options.config.pinned.some((pattern) => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : parseReference(pattern).name === name));
  }
}

/** The name that an OCI archive gives its image (org.opencontainers.image.ref.name), where it is a whole reference. */
async function archiveName(path: string): Promise<string | undefined> {
  const { stdout } = await run(['tar', '-xOf', path, 'index.json'], { timeoutMs: 60_000, okExitCodes: 'any' });
  try {
    const index = JSON.parse(stdout) as { manifests?: { annotations?: Record<string, string> }[] };
    const annotations = index.manifests?.[0]?.annotations ?? {};
    const name = annotations['io.containerd.image.name'] ?? annotations['org.opencontainers.image.ref.name'];
    return name?.includes('/') ? parseReference(name).name : undefined;
  } catch { return undefined; }
}

// The images of this node: found, listed, pulled, removed and measured.
// Called by cri/images.ts, container-create and the command line.
//
// skopeo and containers-storage write the store, which CRI-O and podman share
// as a format; we read its files (layout.ts) and mount its layers (rootfs.ts).
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { CrispError } from '../errors.js';
import { makeFolder } from '../host/files.js';
import { run } from '../host/run.js';
import type { ImageConfig } from '../oci/image-config.js';
import type { RegistryAuth } from './credentials.js';
import { StorageLayout, type StoredImage } from './layout.js';
import { Preload } from './preload.js';
import { Pulls } from './pull.js';
import { looksLikeId, parseReference, pinPattern } from './references.js';
import { templateOf, Templates } from './templates.js';
import { Usage } from './usage.js';

export type { RegistryAuth } from './credentials.js';

export interface Image {
  /** "sha256:…", the digest of its config. */
  readonly id: string;
  /** Full names with tag. */
  readonly tags: readonly string[];
  /** REPOSITORY@sha256:…, first what it was pulled by. */
  readonly digests: readonly string[];
  readonly sizeBytes: number;
  /** Its config's User, as the CRI wants it: by number or by name. */
  readonly user: { readonly uid?: number; readonly name?: string };
  /** Not to be garbage-collected. */
  readonly pinned: boolean;
  readonly config: ImageConfig;
  /** It is this template of Proxmox, and no OCI image: it has no layers. */
  readonly template?: string;
}

export interface ImagesOptions {
  readonly root: string;
  readonly state: string;
  readonly config: Config['images'];
  /** The program that knows the storages of Proxmox. */
  readonly pvesm: string;
}

export function imagesOptionsOf(config: Config): ImagesOptions {
  return { root: config.root, state: config.state, config: config.images, pvesm: config.lxc.tools.pvesm };
}

const deleteTimeoutMs = 120_000;

export class Images {
  readonly layout: StorageLayout;
  private readonly pulls: Pulls;
  private readonly usageOfStore: Usage;
  private readonly removals = new Map<string, Promise<void>>();
  /** holder -> image id, see hold(). */
  private readonly held = new Map<string, string>();
  private readonly pinned: readonly ((name: string) => boolean)[];
  private readonly preload: Preload;
  private readonly templates: Templates;
  private listed: { readonly key: string; readonly images: readonly Image[] } | undefined;

  /** @throws InvalidConfigFile */
  constructor(private readonly options: ImagesOptions) {
    this.layout = new StorageLayout(join(options.root, 'storage'));
    this.pulls = new Pulls({
      layout: this.layout,
      runRoot: join(options.state, 'storage'),
      folder: join(options.root, 'pulls'),
      config: options.config,
    });
    this.usageOfStore = new Usage(this.layout);
    this.pinned = options.config.pinned.map(pinPattern);
    this.templates = new Templates(join(options.root, 'templates.json'), options.pvesm);
    this.preload = new Preload(join(options.root, 'preloaded.json'), this);
  }

  /** Removes what interrupted pulls left, and imports the archives of preload_dir. */
  async open(): Promise<void> {
    makeFolder(this.layout.root);
    await this.pulls.clean();
    if (this.options.config.preload_dir) await this.preload.read(this.options.config.preload_dir);
    this.listed = undefined; // what was preloaded is pinned
  }

  async list(): Promise<readonly Image[]> {
    const key = this.layout.version();
    if (this.listed?.key !== key) {
      const stored = await this.layout.readImages();
      this.listed = {
        key,
        images: (await Promise.all(stored.map((image) => this.describe(image)))).filter(
          (image) => image !== undefined,
        ),
      };
    }
    const templates = await this.templates.list();
    return templates.length ? [...this.listed.images, ...templates] : this.listed.images;
  }

  /** By id (whole, or a unique beginning of 12 digits or more), tag or digest. undefined: not here. @throws InvalidArgument for a malformed reference */
  async find(reference: string): Promise<Image | undefined> {
    const images = await this.list();
    if (looksLikeId(reference)) {
      const wanted = images.filter((image) =>
        image.id.startsWith(reference.startsWith('sha256:') ? reference : `sha256:${reference}`),
      );
      if (wanted.length > 1)
        throw new CrispError(
          'InvalidArgument',
          `image "${reference}" is the beginning of ${wanted.length} ids: ${wanted
            .slice(0, 10)
            .map(({ id }) => id)
            .join(', ')}`,
          { hint: 'give more digits of the id' },
        );
      if (wanted[0]) return wanted[0];
      if (reference.startsWith('sha256:')) return undefined;
    }
    const template = templateOf(reference);
    if (template !== undefined) return images.find((image) => image.template === template);
    const { name, digest } = parseReference(reference);
    if (!digest) return images.find((image) => image.tags.includes(name));
    return images.find((image) => image.digests.includes(name)) ?? this.findManifest(name, digest, images);
  }

  /** A template of Proxmox, which only its storage has to have; undefined: the reference means no such thing. @throws NotFoundInRegistry, StorageFailed */
  async findTemplate(reference: string): Promise<Image | undefined> {
    const template = templateOf(reference);
    return template === undefined ? undefined : this.templates.find(template);
  }

  /** An image that came by the name of its index is also found by the digest of its own manifest. */
  private async findManifest(
    name: string,
    digest: string,
    images: readonly Image[],
  ): Promise<Image | undefined> {
    const stored = (await this.layout.readImages()).find(
      (image) =>
        image['big-data-names']?.includes(`manifest-${digest}`) &&
        repositoriesOf(image).some((repository) => `${repository}@${digest}` === name),
    );
    return stored && images.find((image) => image.id === `sha256:${stored.id}`);
  }

  /**
   * Pulls an image; pulls of the same reference with the same credentials are one.
   * @throws RegistryUnavailable, NotFoundInRegistry, RegistryDenied, SignatureValidationFailed, ImageCorrupt, PullStalled,
   *   DiskFull, InvalidArgument, UnsupportedField, Cancelled
   */
  async pull(reference: string, auth: RegistryAuth | undefined, signal?: AbortSignal): Promise<Image> {
    const template = templateOf(reference);
    if (template !== undefined) return this.templates.pull(template);
    const { name } = parseReference(reference);
    await this.pulls.pull(name, auth, signal);
    const image = await this.find(name);
    if (!image)
      throw new CrispError('ImageNotFound', `${name} was removed while it was pulled`, {
        hint: 'pull it again',
      });
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
    if (usedIds.includes(image.id) || [...this.held.values()].includes(image.id))
      throw new CrispError('ImageInUse', `image ${reference} is used by a container`);
    const removal = (
      image.template === undefined ? this.delete(image.id) : this.templates.forget(image.template)
    ).finally(() => this.removals.delete(image.id));
    this.removals.set(image.id, removal);
    await removal;
  }

  private async delete(id: string): Promise<void> {
    await run(['skopeo', 'delete', `containers-storage:${this.pulls.storage}@${id.replace('sha256:', '')}`], {
      timeoutMs: deleteTimeoutMs,
      stage: 'remove image',
      errorId: 'StorageFailed',
    });
  }

  /**
   * Keeps an image from removal until `holder` is released: a container's record
   * and its mount are made in several steps, and a removal may fall between them.
   * @throws ImageNotFound while it is being removed
   */
  hold(image: Image, holder: string): void {
    if (this.removals.has(image.id))
      throw new CrispError('ImageNotFound', `image ${image.id} is being removed`);
    this.held.set(holder, image.id);
  }

  release(holder: string): void {
    this.held.delete(holder);
  }

  /** The folders of the image's unpacked layers, topmost first. */
  async layers(image: Image): Promise<readonly string[]> {
    if (image.template !== undefined) return [];
    return (await this.layerIds(image)).map((id) => this.layout.diff(id));
  }

  async layerIds(image: Image): Promise<readonly string[]> {
    const stored = (await this.layout.readImages()).find(
      (candidate) => `sha256:${candidate.id}` === image.id,
    );
    if (!stored) throw new CrispError('RootfsMissing', `image ${image.id} is not in the store any more`);
    return (await this.layout.layersOf(stored)).map((layer) => layer.id);
  }

  /** What the store takes on disk, as du(1) counts. */
  usage(): Promise<{ mountpoint: string; usedBytes: number; inodesUsed: number }> {
    return this.usageOfStore.read();
  }

  /**
   * Imports an OCI archive or an OCI layout folder under `name`.
   * @param imageName which one (org.opencontainers.image.ref.name), where it holds several
   */
  async importArchive(path: string, name: string, imageName?: string): Promise<Image> {
    const reference = parseReference(name);
    await this.pulls.import(path, reference.name, imageName);
    const image = await this.find(reference.name);
    if (!image) throw new CrispError('Internal', `${path} was imported but is not in the store`);
    return image;
  }

  /** undefined: the image is being written, or damaged; to pull it again mends it. */
  private async describe(stored: StoredImage): Promise<Image | undefined> {
    const config = await this.layout.configOf(stored);
    const layers = await this.layout.layersOf(stored).catch((error: unknown) => {
      if (error instanceof CrispError) return undefined;
      throw error;
    });
    if (!config || !layers) return undefined;
    const names = stored.names ?? [];
    const tags = names.filter((name) => !name.includes('@'));
    const pulledBy = names.filter((name) => name.includes('@'));
    const known = new Set(pulledBy.map((name) => name.replace(/@.*/, '')));
    const more = stored.digest
      ? repositoriesOf(stored)
          .filter((repository) => !known.has(repository))
          .map((repository) => `${repository}@${stored.digest}`)
      : [];
    const [user = ''] = (config.User ?? '').split(':');
    return {
      id: `sha256:${stored.id}`,
      tags,
      digests: [...pulledBy, ...more],
      config,
      sizeBytes: layers.reduce((sum, layer) => sum + (layer['diff-size'] ?? 0), 0),
      user: user === '' ? {} : /^\d+$/.test(user) ? { uid: Number(user) } : { name: user },
      pinned: [...tags, ...pulledBy, ...more].some(
        (name) => this.preload.names.has(name) || this.pinned.some((matches) => matches(name)),
      ),
    };
  }
}

/** Where an image came from, tags that have moved on to other images included. */
function repositoriesOf(image: StoredImage): string[] {
  return [
    ...new Set(
      [...(image.names ?? []), ...(image['names-history'] ?? [])].map(
        (name) => parseReference(name).repository,
      ),
    ),
  ];
}

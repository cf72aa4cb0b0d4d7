// The images of this node: finds, lists, pulls, removes and measures them.
// Called by cri/images.ts, container-create and the command line.
//
// skopeo and containers-storage write the store, in the same format as CRI-O
// and podman; crisp reads its files (layout.ts) and mounts its layers
// (rootfs.ts).
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { CrispError, toCrispError } from '../errors.js';
import { makeFolder } from '../host/files.js';
import { run } from '../host/run.js';
import { log } from '../log.js';
import { setAside } from '../set-aside.js';
import { step } from '../steps.js';
import type { Image } from '../shapes/image.js';
import { ociReference } from './archives.js';
import type { RegistryAuth } from './credentials.js';
import type { PullProgress } from './download.js';
import { StorageLayout, type StoredImage } from './layout.js';
import { removeDetached, removeLost } from './lost-layers.js';
import { Preload } from './preload.js';
import { Pulls, type Leftover, type PullsOptions } from './pull.js';
import { RemovalMarks } from './removal-marks.js';
import { looksLikeId, parseReference, pinPattern } from './references.js';
import { templateOf, Templates } from './templates.js';
import { Usage } from './usage.js';

export type { RegistryAuth } from './credentials.js';
export type { Leftover } from './pull.js';

export interface ImagesOptions {
  readonly root: string;
  readonly state: string;
  readonly config: Config['images'];
  /** The program that manages the storages of Proxmox. */
  readonly pvesm: string;
}

interface Listed {
  readonly stored: StoredImage;
  /** undefined: the image is set aside. */
  readonly image: Image | undefined;
  /** The reason. */
  readonly wrong: string | undefined;
}

/** The part of the configuration that Images needs. */
export function imagesOptionsOf(config: Config): ImagesOptions {
  return { root: config.root, state: config.state, config: config.images, pvesm: config.lxc.tools.pvesm };
}

/** The pulls into the store of these options. */
export function pullsOptionsOf(
  { root, state, config }: ImagesOptions,
  layout = new StorageLayout(join(root, 'storage')),
): PullsOptions {
  return {
    layout,
    runRoot: join(state, 'storage'),
    folder: join(root, 'pulls'),
    staged: join(root, 'staged'),
    synced: join(root, 'synced-layers.json'),
    config,
  };
}

const deleteTimeoutMs = 120_000;

/** The images of a node: those of the store and the templates of Proxmox VE. */
export class Images {
  readonly layout: StorageLayout;
  private readonly pulls: Pulls;
  private readonly usageOfStore: Usage;
  private readonly removals = new Map<string, Promise<void>>();
  private readonly marks: RemovalMarks;
  /** holder -> image id, see hold(). */
  private readonly held = new Map<string, string>();
  private readonly pinned: readonly ((name: string) => boolean)[];
  private readonly preload: Preload;
  private readonly templates: Templates;
  private listed: { readonly key: string; readonly images: readonly Listed[] } | undefined;
  private repairing: Promise<void> | undefined;
  private settling: Promise<void> | undefined;

  /** @throws InvalidConfigFile */
  constructor(private readonly options: ImagesOptions) {
    this.layout = new StorageLayout(join(options.root, 'storage'));
    this.pulls = new Pulls(pullsOptionsOf(options, this.layout));
    this.usageOfStore = new Usage(this.layout);
    this.marks = new RemovalMarks(join(options.state, 'image-removals'));
    this.pinned = options.config.pinned.map(pinPattern);
    this.templates = new Templates(join(options.root, 'templates.json'), options.pvesm);
    this.preload = new Preload(join(options.root, 'preloaded.json'), this);
  }

  /** Removes the leftovers of interrupted pulls and removals, and imports the archives of preload_dir. */
  async open(): Promise<void> {
    makeFolder(this.layout.root);
    await this.pulls.clean();
    await this.marks.clean();
    await this.settle();
    await removeDetached(this.options.root);
    await this.list(); // logs the images that cannot be used
    if (this.options.config.preload_dir) await this.preload.read(this.options.config.preload_dir);
    this.listed = undefined; // preloaded images are pinned
  }

  /** See Pulls. */
  pullsUnderWay(): ReturnType<Pulls['underWay']> {
    return this.pulls.underWay();
  }

  /** Images that can be used: their config is valid, and all their layers exist. */
  async list(): Promise<readonly Image[]> {
    const templates = await this.templates.list();
    return [...(await this.examined()).flatMap(({ image }) => image ?? []), ...templates];
  }

  /** Images in the store that cannot be used: they are not listed, and the next pull replaces them. */
  private async unusable(): Promise<{ id: string; names: readonly string[]; reason: string }[]> {
    return (await this.examined()).flatMap(({ stored, wrong }) =>
      wrong === undefined ? [] : [{ id: `sha256:${stored.id}`, names: stored.names ?? [], reason: wrong }],
    );
  }

  private async examined(): Promise<readonly Listed[]> {
    const key = this.layout.version();
    if (this.listed?.key !== key) {
      const stored = await this.layout.readImages();
      this.listed = { key, images: await Promise.all(stored.map((image) => this.examine(image))) };
    }
    // A folder may be lost at any time without a change in the lists of the store.
    const now = await Promise.all(this.listed.images.map((listed) => this.withLayers(listed)));
    this.report(now);
    return now;
  }

  private async examine(stored: StoredImage): Promise<Listed> {
    try {
      return { stored, image: await this.describe(stored), wrong: undefined };
    } catch (error) {
      return { stored, image: undefined, wrong: toCrispError(error).message };
    }
  }

  private async withLayers(listed: Listed): Promise<Listed> {
    if (!listed.image) return listed;
    const lost = await this.layout.lostLayer(await this.layout.layersOf(listed.stored));
    return lost === undefined
      ? listed
      : { ...listed, image: undefined, wrong: `the folder of its layer ${lost} is lost` };
  }

  /** An image that is being written has no config yet. */
  private report(images: readonly Listed[]): void {
    if (this.pulls.busy) return;
    setAside.replace(
      'image',
      images.flatMap(({ stored, wrong: reason }) =>
        reason ? [{ name: [`sha256:${stored.id}`, ...(stored.names ?? [])].join(' '), reason }] : [],
      ),
    );
  }

  /**
   * The name of an image for users: its first tag, otherwise its first digest reference; undefined: not in
   * the store, or without a name.
   */
  async nameOf(imageId: string): Promise<string | undefined> {
    const image = (await this.list()).find(({ id }) => id === imageId);
    return image?.tags[0] ?? image?.digests[0];
  }

  /**
   * By id (full, or a unique prefix of 12 digits or more), tag or digest. undefined: not in the store.
   * @throws InvalidArgument for a malformed reference
   */
  async find(reference: string): Promise<Image | undefined> {
    const images = await this.list();
    if (looksLikeId(reference)) {
      const wanted = images.filter((image) =>
        image.id.startsWith(reference.startsWith('sha256:') ? reference : `sha256:${reference}`),
      );
      if (wanted.length > 1)
        throw new CrispError(
          'InvalidArgument',
          `image "${reference}" is a prefix of ${wanted.length} ids: ${wanted
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

  /**
   * A template of Proxmox, which only needs to be on its storage; undefined: the reference is not a template.
   * @throws NotFoundInRegistry, StorageFailed
   */
  async findTemplate(reference: string): Promise<Image | undefined> {
    const template = templateOf(reference);
    return template === undefined ? undefined : this.templates.find(template);
  }

  /** An image that was pulled by the name of its index is also found by the digest of its own manifest. */
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
   * Pulls an image; simultaneous pulls of the same reference with the same credentials are joined.
   * @throws RegistryUnavailable, NotFoundInRegistry, RegistryDenied, SignatureValidationFailed, ImageCorrupt, PullStalled,
   *   DiskFull, InvalidArgument, UnsupportedField, Cancelled
   */
  async pull(
    reference: string,
    auth: RegistryAuth | undefined,
    signal?: AbortSignal,
    onProgress?: (progress: PullProgress) => void,
  ): Promise<Image> {
    const template = templateOf(reference);
    if (template !== undefined) return this.templates.pull(template);
    const { name } = parseReference(reference);
    await this.repair();
    await this.pulls.pull(name, auth, signal, onProgress);
    return step('pull image: check', () => this.arrived(name, `pull of ${name}`));
  }

  /** skopeo would not fetch a layer again that is still in its list. */
  private async repair(): Promise<void> {
    await this.settle();
    if ((await this.unusable()).length === 0) return;
    this.repairing ??= removeLost(this.layout, this.options.root, this.pulls.storage).finally(() => {
      this.repairing = undefined;
    });
    await this.repairing;
  }

  /**
   * Once in each process: after a reboot, removes the images with a layer that a power loss has damaged. A
   * failure is only logged: the images that are not damaged can be used.
   */
  private settle(): Promise<void> {
    this.settling ??= this.removeDamagedByPowerLoss().catch((error: unknown) => {
      log.error({ err: error }, 'layers that were being pulled before the reboot not checked');
    });
    return this.settling;
  }

  private async removeDamagedByPowerLoss(): Promise<void> {
    makeFolder(this.layout.root);
    const damaged = await this.pulls.damagedByPowerLoss();
    if (!damaged) return;
    if (damaged.size > 0) await removeLost(this.layout, this.options.root, this.pulls.storage, damaged);
    await this.pulls.noteLayers();
  }

  /** The image of a copy. An image that cannot be used is removed. */
  private async arrived(name: string, what: string): Promise<Image> {
    const image = await this.find(name);
    if (image) return image;
    const bad = await this.findUnusable(name);
    if (!bad)
      throw new CrispError('ImageNotFound', `${name} was removed while it was pulled`, {
        hint: 'pull it again',
      });
    await this.deleteOnce(bad.id);
    throw new CrispError('ImageCorrupt', `${what} failed: ${bad.reason}`, { stage: 'pull image' });
  }

  private async findUnusable(reference: string): Promise<{ id: string; reason: string } | undefined> {
    const bad = await this.unusable();
    if (looksLikeId(reference)) {
      const id = `sha256:${reference.replace('sha256:', '')}`;
      return bad.find((image) => image.id === id);
    }
    const { name } = parseReference(reference);
    return bad.find(({ names }) => names.includes(name));
  }

  /**
   * Removes an image with all its names; no error if it does not exist.
   * @param usedIds reads the ids of images in use by containers of this process and of others
   * @returns whether there was one
   * @throws ImageInUse
   */
  async remove(reference: string, usedIds: () => Promise<readonly string[]>): Promise<boolean> {
    const image = await this.find(reference);
    if (!image) {
      const bad = await this.findUnusable(reference);
      if (bad && !(await usedIds()).includes(bad.id)) await this.deleteOnce(bad.id);
      return bad !== undefined;
    }
    const refuseIfUsed = async (): Promise<void> => {
      if ((await usedIds()).includes(image.id) || [...this.held.values()].includes(image.id))
        throw new CrispError('ImageInUse', `image ${reference} is used by a container`);
    };
    if (!this.removals.has(image.id)) await refuseIfUsed();
    const removal =
      this.removals.get(image.id) ??
      this.marks.while(image.id, async () => {
        // Another process may have written its record before the mark was set; later processes find it.
        await refuseIfUsed();
        await (image.template === undefined ? this.delete(image.id) : this.templates.forget(image.template));
      });
    this.removals.set(
      image.id,
      removal.finally(() => this.removals.delete(image.id)),
    );
    await this.removals.get(image.id);
    return true;
  }

  /** Several callers may remove it at once. */
  private async deleteOnce(id: string): Promise<void> {
    const removal = this.removals.get(id) ?? this.delete(id).finally(() => this.removals.delete(id));
    this.removals.set(id, removal);
    await removal;
  }

  private async delete(id: string): Promise<void> {
    await step('remove image: delete', () =>
      run(['skopeo', 'delete', `containers-storage:${this.pulls.storage}@${id.replace('sha256:', '')}`], {
        timeoutMs: deleteTimeoutMs,
        stage: 'remove image',
        errorId: 'StorageFailed',
      }),
    );
  }

  /**
   * Protects an image from removal by this process until `holder` is released:
   * otherwise it could be removed between the steps that make a container's
   * record and mount.  For another process the record, made first, protects it.
   * @throws ImageNotFound while it is being removed
   */
  hold(image: Image, holder: string): void {
    if (this.removals.has(image.id) || this.marks.has(image.id))
      throw new CrispError('ImageNotFound', `image ${image.id} is being removed`);
    this.held.set(holder, image.id);
  }

  /** Undoes hold(); no effect if this holder holds nothing. */
  release(holder: string): void {
    this.held.delete(holder);
  }

  /** The folders of the image's unpacked layers, topmost first. */
  async layers(image: Image): Promise<readonly string[]> {
    if (image.template !== undefined) return [];
    return (await this.layerIds(image)).map((id) => this.layout.diff(id));
  }

  /**
   * Topmost first. @throws ImageNotFound if the image, or the folder of one of its layers, does not exist any
   * more
   */
  async layerIds(image: Image): Promise<readonly string[]> {
    const stored = (await this.layout.readImages()).find(
      (candidate) => `sha256:${candidate.id}` === image.id,
    );
    if (!stored) throw new CrispError('ImageNotFound', `image ${image.id} is not in the store any more`);
    const layers = await this.layout.layersOf(stored);
    const lost = await this.layout.lostLayer(layers);
    if (lost !== undefined)
      throw new CrispError('ImageNotFound', `the folder of layer ${lost} of image ${image.id} is lost`, {
        hint: 'pull the image again to repair it',
      });
    return layers.map((layer) => layer.id);
  }

  /** Leftovers of failed pulls that are kept for the next attempt; empty during a pull. */
  leftovers(): Promise<readonly Leftover[]> {
    return this.pulls.leftovers();
  }

  /** The disk usage of the store, as counted by du(1). */
  usage(): Promise<{ mountpoint: string; usedBytes: number; inodesUsed: number }> {
    return this.usageOfStore.read();
  }

  /**
   * Imports an image of an archive or an OCI layout folder under `name`.
   * @param source Content.reference; absent: the one image of an OCI archive or layout folder
   */
  async importArchive(path: string, name: string, source?: string): Promise<Image> {
    const reference = parseReference(name);
    await this.repair();
    await this.pulls.import(path, reference.name, source ?? (await ociReference(path)));
    return this.arrived(reference.name, `import of ${path}`);
  }

  /** @throws CrispError: the image is being written, or damaged; pulling it again repairs it */
  private async describe(stored: StoredImage): Promise<Image> {
    const config = await this.layout.configOf(stored);
    const layers = await this.layout.layersOf(stored);
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

/** The repositories from which an image was pulled, including those of tags that have moved to other images. */
export function repositoriesOf(image: StoredImage): string[] {
  return [
    ...new Set(
      [...(image.names ?? []), ...(image['names-history'] ?? [])].map(
        (name) => parseReference(name).repository,
      ),
    ),
  ];
}

// The files of containers-storage on disk (overlay driver), read directly: its command takes 50 ms per call,
// reading the files takes 1 ms.
//
//   overlay-images/images.json         [{id, digest, names, "names-history", layer, "big-data-names"}]
//   overlay-images/ID/=BASE64(name)    the config (named by its digest), manifests
//   overlay-layers/layers.json         [{id, parent, created, "diff-size", "diff-digest", "compressed-diff-digest", flags}]
//   overlay/LAYER/diff, overlay/l/X -> ../LAYER/diff   (X is the content of overlay/LAYER/link)
import { mkdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import * as z from 'zod';
import { CrispError } from '../errors.js';
import { fileVersion, isAbsent, namesIn, readText } from '../host/files.js';
import { log } from '../log.js';
import { imageConfigSchema, type ImageConfig } from '../shapes/image-config.js';

/** Always 64 hex digits. It is used in paths. */
const digits = z.string().regex(/^\w{1,64}$/);
const imageSchema = z.object({
  /** 64 hex digits: the digest of the image's config. */
  id: digits,
  /**
   * The digest that the name has in the registry: of the index of a multi-arch image, otherwise of the
   * manifest.
   */
  digest: z.string().optional(),
  names: z.array(z.string()).nullish(),
  'names-history': z.array(z.string()).nullish(),
  /** Its topmost layer; absent: an image without layers. */
  layer: digits.or(z.literal('')).optional(),
  /** Copies of that layer for user namespaces; other programs that share the store may make them. */
  'mapped-layers': z.array(z.string()).nullish(),
  /** Includes "manifest-DIGEST" for each index and manifest by which it was pulled. */
  'big-data-names': z.array(z.string()).nullish(),
  /** Their digests; that of a manifest of schema 1 is not of its bytes. */
  'big-data-digests': z.record(z.string(), z.string()).nullish(),
});
export type StoredImage = Readonly<z.infer<typeof imageSchema>>;

const layerSchema = z.object({
  id: digits,
  parent: digits.or(z.literal('')).optional(),
  'diff-size': z.number().optional(),
  /** RFC 3339. */
  created: z.string().optional(),
  /** The digest of the layer's archive as pulled. */
  'compressed-diff-digest': z.string().optional(),
  /** The digest of that archive without its compression. */
  'diff-digest': z.string().optional(),
  /** Still being unpacked (or never finished). */
  flags: z.object({ incomplete: z.boolean().optional() }).nullish(),
});
export type StoredLayer = Readonly<z.infer<typeof layerSchema>>;

interface Layers {
  readonly key: string;
  readonly byId: ReadonlyMap<string, StoredLayer>;
  /** Filled on demand; a layer that is removed and pulled again has another link. */
  readonly links: Map<string, string>;
}

/** The lists have about 1 KiB for each image and layer. */
const maxListBytes = 256 << 20;
/** skopeo does not accept a larger config either. */
const maxConfigBytes = 4 << 20;
const hourMs = 3_600_000;
/** overlay supports 500 (OVL_MAX_STACK of the kernel); a longer chain may be circular. */
export const maxLayers = 500;

/** Reads the store; it writes nothing but short names that are missing. */
export class StorageLayout {
  /** The driver's folder: rootfs.ts mounts from here, with relative paths. */
  readonly overlay: string;
  private images: { readonly key: string; readonly value: readonly StoredImage[] } | undefined;
  private known: Layers | undefined;
  private readonly configs = new Map<string, ImageConfig>();

  constructor(readonly root: string) {
    this.overlay = join(root, 'overlay');
  }

  /** The list of images. */
  get imagesFile(): string {
    return join(this.root, 'overlay-images', 'images.json');
  }
  private get layersFile(): string {
    return join(this.root, 'overlay-layers', 'layers.json');
  }

  /** All images of the store, read again if the file has changed. @throws StorageFailed */
  async readImages(): Promise<readonly StoredImage[]> {
    const key = fileVersion(this.imagesFile);
    if (this.images?.key !== key) {
      const value = key ? await readList(this.imagesFile, imageSchema) : [];
      this.images = { key, value };
      for (const id of this.configs.keys())
        if (!value.some((image) => image.id === id)) this.configs.delete(id);
    }
    return this.images.value;
  }

  /** All layers of the store by id, read again if the file has changed. @throws StorageFailed */
  async readLayers(): Promise<ReadonlyMap<string, StoredLayer>> {
    return (await this.layers()).byId;
  }

  private async layers(): Promise<Layers> {
    const key = fileVersion(this.layersFile);
    if (this.known?.key !== key) {
      const list = key ? await readList(this.layersFile, layerSchema) : [];
      this.known = { key, byId: new Map(list.map((layer) => [layer.id, layer])), links: new Map() };
    }
    return this.known;
  }

  /** Changes whenever an image or a layer is added, removed or renamed. */
  version(): string {
    return `${fileVersion(this.imagesFile)} ${fileVersion(this.layersFile)}`;
  }

  /**
   * The layers of an image, topmost first. @throws RootfsMissing if a layer is not in the list: without it
   * the view would be a different image
   */
  async layersOf(image: StoredImage): Promise<StoredLayer[]> {
    const byId = await this.readLayers();
    const chain: StoredLayer[] = [];
    for (let id = image.layer; id;) {
      const layer = byId.get(id);
      if (!layer)
        throw new CrispError('RootfsMissing', `layer ${id} of image ${image.id} is not in the store`);
      if (chain.push(layer) > maxLayers)
        throw new CrispError('RootfsMissing', `image ${image.id} has more than ${maxLayers} layers`);
      id = layer.parent;
    }
    return chain;
  }

  /**
   * The first of these layers without its folder, its files (diff) or its link; undefined: all exist. A
   * missing short name is made anew. Synchronous: two system calls for each layer take less time than a
   * switch to a thread and back.
   */
  async lostLayer(layers: readonly StoredLayer[]): Promise<string | undefined> {
    const { links } = await this.layers();
    return layers.find(({ id }) => {
      try {
        const link = this.link(id, links);
        if (isFolder(join(this.overlay, link))) return false;
        if (isFolder(this.diff(id))) {
          this.makeLink(id, link);
          return false;
        }
      } catch {
        // no usable link
      }
      links.delete(id);
      return true;
    })?.id;
  }

  /**
   * Makes the short name of a layer. containers-storage removes the folder of all short names together with
   * a layer whose link is empty, as after a power loss, and makes them again only when it adds a layer.
   * @param link "l/NAME"
   */
  makeLink(id: string, link: string): void {
    mkdirSync(join(this.overlay, 'l'), { recursive: true });
    try {
      symlinkSync(join('..', id, 'diff'), join(this.overlay, link));
    } catch (error) {
      if (!isFolder(join(this.overlay, link))) throw error; // containers-storage has made it meanwhile
    }
  }

  /** Layers that no image uses, each before its parent. */
  async unusedLayers(): Promise<string[]> {
    // Layers first: an image that is added in between does not use these layers.
    const byId = await this.readLayers();
    const used = new Set<string>();
    for (const image of await this.readImages()) {
      for (const top of [image.layer, ...(image['mapped-layers'] ?? [])]) {
        for (let id = top; id && !used.has(id); id = byId.get(id)?.parent) used.add(id);
      }
    }
    const depth = (top: string): number => {
      let count = 0;
      for (let id: string | undefined = top; id && count <= maxLayers; id = byId.get(id)?.parent) count++;
      return count;
    };
    return [...byId.keys()].filter((id) => !used.has(id)).sort((a, b) => depth(b) - depth(a));
  }

  /**
   * Incomplete files of an interrupted writer: it writes a temporary file (".tmp-" and the name, in
   * containers-storage) and renames it.
   */
  async halfWritten(): Promise<string[]> {
    const folders = await Promise.all(
      ['overlay-layers', 'overlay-images'].map(async (name) => {
        const names = await readdir(join(this.root, name), { recursive: true }).catch((error: unknown) => {
          if (isAbsent(error)) return [];
          throw error;
        });
        return names
          .filter((path) => basename(path).startsWith('.tmp-'))
          .map((path) => join(this.root, name, path));
      }),
    );
    return folders.flat();
  }

  /**
   * The folders in which containers-storage tries what the kernel can do, each time that it opens the store.
   * A killed one leaves mounts in them.
   */
  async trialFolders(): Promise<string[]> {
    return (await namesIn(this.overlay))
      .filter((name) => /^(compat|(metacopy|opaque-bug|volatile)-check)\d+$/.test(name))
      .map((name) => join(this.overlay, name));
  }

  /**
   * The folders of layers that are not in the list, and that were not changed for an hour: another program
   * may be making the others.
   */
  async strayFolders(): Promise<string[]> {
    const names = await namesIn(this.overlay); // before the list: a new layer is then in it
    const byId = await this.readLayers();
    return names
      .filter((name) => /^[0-9a-f]{64}$/.test(name) && !byId.has(name))
      .map((name) => join(this.overlay, name))
      .filter(
        (path) => (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Infinity) < Date.now() - hourMs,
      );
  }

  /**
   * The config of an image: "config" of the OCI image configuration.
   * @throws ImageCorrupt if it does not exist (the image is being written) or is invalid: its
   * content comes from a registry, and skopeo accepts even `null`
   */
  async configOf(image: StoredImage): Promise<ImageConfig> {
    const known = this.configs.get(image.id);
    if (known) return known;
    const corrupt = (why: string): CrispError =>
      new CrispError('ImageCorrupt', `the configuration of image ${image.id} ${why}`);
    try {
      const text = await readText(this.dataFile(image, `sha256:${image.id}`), { maxBytes: maxConfigBytes });
      const { config } = wholeConfigSchema.parse(JSON.parse(text));
      this.configs.set(image.id, config ?? {});
      return config ?? {};
    } catch (error) {
      if (isAbsent(error)) throw corrupt('does not exist');
      if (error instanceof SyntaxError) throw corrupt('is not JSON');
      if (error instanceof z.ZodError) throw corrupt(`is not valid: ${reasonOf(error)}`);
      throw error;
    }
  }

  /** The file of a manifest, config or signature of an image (big-data-names). */
  dataFile(image: StoredImage, name: string): string {
    const file = /^[.0-9a-z]*$/.test(name) ? name : `=${Buffer.from(name).toString('base64')}`;
    return join(this.root, 'overlay-images', image.id, file);
  }

  /** The folder of a layer's files. */
  diff(layerId: string): string {
    return join(this.overlay, layerId, 'diff');
  }

  /** The short names of layers below l/: many of them fit into the one page of mount options. */
  async links(layerIds: readonly string[]): Promise<string[]> {
    const { links } = await this.layers();
    return layerIds.map((id) => this.link(id, links));
  }

  private link(id: string, links: Map<string, string>): string {
    let link = links.get(id);
    if (link === undefined) {
      const name = readFileSync(join(this.overlay, id, 'link'), 'utf8').trim();
      if (!/^\w{1,64}$/.test(name)) throw new CrispError('RootfsMissing', `layer ${id} has no usable link`);
      links.set(id, (link = join('l', name)));
    }
    return link;
  }
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

const wholeConfigSchema = z.object({ config: imageConfigSchema.nullish() });

/**
 * The valid entries of a list; invalid entries are logged and left out, so that they do not affect the
 * others.
 */
async function readList<T>(path: string, schema: z.ZodType<T>): Promise<T[]> {
  const whole = JSON.parse(await readText(path, { maxBytes: maxListBytes })) as unknown;
  if (!Array.isArray(whole)) throw new CrispError('StorageFailed', `${path} is not a list`);
  return whole.flatMap((entry: unknown, index) => {
    const { data, error } = schema.safeParse(entry);
    if (error) log.error({ path, index, error: reasonOf(error) }, 'entry of the image store set aside');
    return error ? [] : [data];
  });
}

function reasonOf(error: z.ZodError): string {
  const [first] = error.issues;
  return first
    ? [first.path.join('.').slice(0, 100), first.message.slice(0, 200)].filter(Boolean).join(': ')
    : '';
}

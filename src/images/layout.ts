// How containers-storage keeps images on disk (overlay driver), read directly:
// its command costs 50 ms a call where these files cost one.
//
//   overlay-images/images.json         [{id, digest, names, "names-history", layer, "big-data-names"}]
//   overlay-images/ID/=BASE64(name)    the config (named by its digest), manifests
//   overlay-layers/layers.json         [{id, parent, "diff-size", flags}]
//   overlay/LAYER/diff, overlay/l/X -> ../LAYER/diff   (X stands in overlay/LAYER/link)
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { CrispError } from '../errors.js';
import { fileVersion, isAbsent } from '../host/files.js';
import type { ImageConfig } from '../oci/image-config.js';

export interface StoredImage {
  /** 64 hex digits: the digest of the image's config. */
  readonly id: string;
  /** The digest of what the registry calls by the name: the index of a multi-arch image, else the manifest. */
  readonly digest?: string;
  readonly names?: readonly string[];
  readonly 'names-history'?: readonly string[];
  /** Its topmost layer; absent: an image without layers. */
  readonly layer?: string;
  /** Copies of that layer for user namespaces; others who share the store may make them. */
  readonly 'mapped-layers'?: readonly string[];
  /** Among them "manifest-DIGEST" for each index and manifest that it was pulled by. */
  readonly 'big-data-names'?: readonly string[];
}
export interface StoredLayer {
  readonly id: string;
  readonly parent?: string;
  readonly 'diff-size'?: number;
  /** Still being unpacked (or never finished). */
  readonly flags?: { readonly incomplete?: boolean };
}

interface Layers {
  readonly key: string;
  readonly byId: ReadonlyMap<string, StoredLayer>;
  /** Filled as needed; a layer that is removed and pulled again has another link. */
  readonly links: Map<string, string>;
}

export class StorageLayout {
  /** The driver's folder: rootfs.ts mounts from here, with relative paths. */
  readonly overlay: string;
  private images: { readonly key: string; readonly value: readonly StoredImage[] } | undefined;
  private known: Layers | undefined;
  private readonly configs = new Map<string, ImageConfig>();

  constructor(readonly root: string) {
    this.overlay = join(root, 'overlay');
  }

  private get imagesFile(): string {
    return join(this.root, 'overlay-images', 'images.json');
  }
  private get layersFile(): string {
    return join(this.root, 'overlay-layers', 'layers.json');
  }

  async readImages(): Promise<readonly StoredImage[]> {
    const key = fileVersion(this.imagesFile);
    if (this.images?.key !== key) {
      const value = key ? (JSON.parse(await readFile(this.imagesFile, 'utf8')) as StoredImage[]) : [];
      this.images = { key, value };
      for (const id of this.configs.keys())
        if (!value.some((image) => image.id === id)) this.configs.delete(id);
    }
    return this.images.value;
  }

  async readLayers(): Promise<ReadonlyMap<string, StoredLayer>> {
    return (await this.layers()).byId;
  }

  private async layers(): Promise<Layers> {
    const key = fileVersion(this.layersFile);
    if (this.known?.key !== key) {
      const list = key ? (JSON.parse(await readFile(this.layersFile, 'utf8')) as StoredLayer[]) : [];
      this.known = { key, byId: new Map(list.map((layer) => [layer.id, layer])), links: new Map() };
    }
    return this.known;
  }

  /** Changes whenever an image or a layer is added, removed or renamed. */
  version(): string {
    return `${fileVersion(this.imagesFile)} ${fileVersion(this.layersFile)}`;
  }

  /** The layers of an image, topmost first. @throws RootfsMissing when one is not there: a view without it would be another image */
  async layersOf(image: StoredImage): Promise<StoredLayer[]> {
    const byId = await this.readLayers();
    const chain: StoredLayer[] = [];
    for (let id = image.layer; id;) {
      const layer = byId.get(id);
      if (!layer)
        throw new CrispError('RootfsMissing', `layer ${id} of image ${image.id} is not in the store`);
      chain.push(layer);
      id = layer.parent;
    }
    return chain;
  }

  /** Layers that no image stands on, each before its parent. */
  async unusedLayers(): Promise<string[]> {
    // Layers first: an image that comes in between stands on none of what was unused.
    const byId = await this.readLayers();
    const used = new Set<string>();
    for (const image of await this.readImages()) {
      for (const top of [image.layer, ...(image['mapped-layers'] ?? [])]) {
        for (let id = top; id && !used.has(id); id = byId.get(id)?.parent) used.add(id);
      }
    }
    const depth = (id: string | undefined): number =>
      id === undefined ? 0 : 1 + depth(byId.get(id)?.parent);
    return [...byId.keys()].filter((id) => !used.has(id)).sort((a, b) => depth(b) - depth(a));
  }

  /** Files that a writer which was cut off left half written: it writes beside, and renames (".tmp-" and the name, in containers-storage). */
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

  /** The config of an image: what is under "config" of the OCI image configuration; undefined while the image is being written, or when it is damaged. */
  async configOf(image: StoredImage): Promise<ImageConfig | undefined> {
    let config = this.configs.get(image.id);
    if (!config) {
      const name = `=${Buffer.from(`sha256:${image.id}`).toString('base64')}`;
      try {
        const whole = JSON.parse(
          await readFile(join(this.root, 'overlay-images', image.id, name), 'utf8'),
        ) as { config?: ImageConfig };
        config = whole.config ?? {};
      } catch (error) {
        if (isAbsent(error) || error instanceof SyntaxError) return undefined;
        throw error;
      }
      this.configs.set(image.id, config);
    }
    return config;
  }

  /** The folder of a layer's files. */
  diff(layerId: string): string {
    return join(this.overlay, layerId, 'diff');
  }

  /** The short names of layers below l/: many of them fit the one page that mount options have. */
  async links(layerIds: readonly string[]): Promise<string[]> {
    const { links } = await this.layers();
    return Promise.all(
      layerIds.map(async (id) => {
        let link = links.get(id);
        if (link === undefined)
          links.set(id, (link = join('l', (await readFile(join(this.overlay, id, 'link'), 'utf8')).trim())));
        return link;
      }),
    );
  }
}

// How containers-storage keeps images on disk (overlay driver), read directly:
// its command costs 50 ms a call where these files cost one.
//
//   overlay-images/images.json         [{id, digest, names, "names-history", layer}]
//   overlay-images/ID/=BASE64(name)    the config (named by its digest), manifests
//   overlay-layers/layers.json         [{id, parent, "diff-size"}]
//   overlay/LAYER/diff, overlay/l/X -> ../LAYER/diff   (X stands in overlay/LAYER/link)
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isAbsent } from '../host/files.js';
import type { ImageConfig } from '../oci/image-config.js';

export interface StoredImage {
  /** 64 hex digits: the digest of the image's config. */
  readonly id: string;
  /** The digest of its manifest. */
  readonly digest?: string;
  readonly names?: readonly string[];
  readonly 'names-history'?: readonly string[];
  /** Its topmost layer; absent: an image without layers. */
  readonly layer?: string;
}
export interface StoredLayer { readonly id: string; readonly parent?: string; readonly 'diff-size'?: number }

export class StorageLayout {
  /** The driver's folder: rootfs.ts mounts from here, with relative paths. */
  readonly overlay: string;
  private images: { readonly key: string; readonly value: readonly StoredImage[] } | undefined;
  private layersById: { readonly key: string; readonly value: ReadonlyMap<string, StoredLayer> } | undefined;
  private readonly configs = new Map<string, ImageConfig>();

  constructor(readonly root: string) { this.overlay = join(root, 'overlay'); }

  async readImages(): Promise<readonly StoredImage[]> {
    const path = join(this.root, 'overlay-images', 'images.json');
    const key = await version(path);
    if (this.images?.key !== key) this.images = { key, value: key ? JSON.parse(await readFile(path, 'utf8')) as StoredImage[] : [] };
    return this.images.value;
  }

  /** Changes whenever an image is added, removed or renamed. */
  async version(): Promise<string> { return version(join(this.root, 'overlay-images', 'images.json')); }

  /** The layers of an image, topmost first. */
  async layersOf(image: StoredImage): Promise<StoredLayer[]> {
    const path = join(this.root, 'overlay-layers', 'layers.json');
    const key = await version(path);
    if (this.layersById?.key !== key) {
      const list = key ? JSON.parse(await readFile(path, 'utf8')) as StoredLayer[] : [];
      this.layersById = { key, value: new Map(list.map((layer) => [layer.id, layer])) };
    }
    const chain: StoredLayer[] = [];
    for (let id = image.layer; id;) {
      const layer = this.layersById.value.get(id);
      if (!layer) break;
      chain.push(layer);
      id = layer.parent;
    }
    return chain;
  }

  /** The config of an image: what is under "config" of the OCI image configuration. */
  async configOf(image: StoredImage): Promise<ImageConfig> {
    let config = this.configs.get(image.id);
    if (!config) {
      const name = `=${Buffer.from(`sha256:${image.id}`).toString('base64')}`;
      const whole = JSON.parse(await readFile(join(this.root, 'overlay-images', image.id, name), 'utf8')) as { config?: ImageConfig };
      config = whole.config ?? {};
      this.configs.set(image.id, config);
    }
    return config;
  }

  /** The folder of a layer's files. */
  diff(layerId: string): string { return join(this.overlay, layerId, 'diff'); }

  /** The short name of a layer below l/: many of them fit the one page that mount options have. */
  async link(layerId: string): Promise<string> {
    return join('l', (await readFile(join(this.overlay, layerId, 'link'), 'utf8')).trim());
  }
}

/** The file is replaced by a rename, so inode, size and time tell versions apart; empty: there is none. */
async function version(path: string): Promise<string> {
  try {
    const { ino, size, mtimeNs } = await stat(path, { bigint: true });
    return `${ino}-${size}-${mtimeNs}`;
  } catch (error) {
    if (isAbsent(error)) return '';
    throw error;
  }
}

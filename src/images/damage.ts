// Damaged images of the store: files of layers that are missing, truncated or
// altered, and manifests and configurations that differ from their digests.
// Called by repair.ts, and by pull.ts after a power loss.
import { createHash } from 'node:crypto';
import { lstat, readFile } from 'node:fs/promises';
import { toCrispError } from '../errors.js';
import { isAbsent } from '../host/files.js';
import { differenceOf } from './layer-content.js';
import type { StorageLayout, StoredImage, StoredLayer } from './layout.js';
import type { StorePlace } from './storage-command.js';

export interface DamagedImage {
  readonly image: StoredImage;
  /** Layer id -> reason. */
  readonly layers: ReadonlyMap<string, string>;
  /** Name of a manifest, configuration or signature -> reason. */
  readonly data: ReadonlyMap<string, string>;
  /** Set if a layer is not in the list of layers. */
  readonly incomplete: string | undefined;
}

export interface Damage {
  readonly images: readonly DamagedImage[];
  /** Damaged layers that no image uses, which the next pull would use: id -> reason. */
  readonly unused: ReadonlyMap<string, string>;
  /** Folders of layers that are not in the list, which only take up space. */
  readonly stray: readonly string[];
  readonly examined: { readonly images: number; readonly layers: number };
}

/** skopeo accepts no larger manifest or configuration (iolimits of its library). */
const maxDataBytes = 4 << 20;

/**
 * Examines all images, and all layers whose unpacking has finished, one after the other: see differenceOf()
 * for what is compared.
 * @throws StorageFailed, ToolMissing, ToolTimeout if a layer cannot be compared
 */
export async function findDamage(place: StorePlace): Promise<Damage> {
  const { layout } = place;
  const layers = [...(await layout.readLayers()).values()].filter(({ flags }) => !flags?.incomplete);
  const bad = new Map<string, string>();
  for (const layer of layers) {
    const isGone = async (): Promise<boolean> => !(await layout.readLayers()).has(layer.id); // removed meanwhile
    const reason = await damageOf(place, layer).catch(async (error: unknown) => {
      if (await isGone()) return undefined;
      throw error;
    });
    if (reason !== undefined && !(await isGone())) bad.set(layer.id, reason);
  }
  const images = await layout.readImages();
  const found = await Promise.all(images.map((image) => examine(layout, image, bad)));
  const unused = new Set(await layout.unusedLayers());
  return {
    images: found.filter(({ layers: its, data, incomplete }) => its.size + data.size > 0 || incomplete),
    unused: new Map([...bad].filter(([id]) => unused.has(id))),
    stray: await layout.strayFolders(),
    examined: { images: images.length, layers: layers.length },
  };
}

/** undefined: the layer is not damaged. @throws as findDamage() */
export async function damageOf(place: StorePlace, layer: StoredLayer): Promise<string | undefined> {
  if ((await place.layout.lostLayer([layer])) !== undefined) return 'its folder is lost';
  return differenceOf(place, layer);
}

async function examine(
  layout: StorageLayout,
  image: StoredImage,
  bad: ReadonlyMap<string, string>,
): Promise<DamagedImage> {
  const data = new Map<string, string>();
  for (const [name, digest] of Object.entries(image['big-data-digests'] ?? {})) {
    const reason = await damageOfData(layout.dataFile(image, name), digest);
    if (reason !== undefined) data.set(name, reason);
  }
  try {
    const chain = await layout.layersOf(image);
    const layers = chain.flatMap(({ id }) => (bad.has(id) ? [[id, bad.get(id) ?? ''] as const] : []));
    return { image, layers: new Map(layers), data, incomplete: undefined };
  } catch (error) {
    return { image, layers: new Map(), data, incomplete: toCrispError(error).message };
  }
}

async function damageOfData(path: string, digest: string): Promise<string | undefined> {
  try {
    const { size } = await lstat(path);
    if (size > maxDataBytes) return 'it is too large';
    const bytes = await readFile(path);
    // The digest of a manifest of schema 1 does not include its signatures.
    if (/"schemaVersion"\s*:\s*1\b/.test(bytes.toString())) return undefined;
    const found = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
    return found === digest ? undefined : 'it differs from its digest';
  } catch (error) {
    return isAbsent(error) ? 'it does not exist' : toCrispError(error).message;
  }
}

// Layers without their folders (after a disk error or a removal by hand), and
// layers that a power loss has damaged: the store's list still has them, so no pull
// would fetch them again. They are removed from the list with the images that use
// them; the next pull fetches both again.  Called by store.ts.
import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFolder, namesIn, readText, remove } from '../host/files.js';
import { bootId } from '../host/proc.js';
import { run } from '../host/run.js';
import { log } from '../log.js';
import type { StorageLayout, StoredLayer } from './layout.js';

const timeoutMs = 120_000;
const stage = 'remove lost layers';

/**
 * Removes the lost layers and the images that use them. The other layers of such
 * an image are removed as well, except the folders that running containers use:
 * these are moved aside, where an overlay still finds them, until the next boot.
 * @param root the root folder of crisp
 * @param storage containers-storage's name of the store
 * @param damaged ids of other layers to remove
 */
export async function removeLost(
  layout: StorageLayout,
  root: string,
  storage: string,
  damaged: ReadonlySet<string> = new Set(),
): Promise<void> {
  const [images, mounted] = [await layout.readImages(), await overlayMounts()];
  const chains = await Promise.all(
    images.map(async (image) => {
      const layers = await layout.layersOf(image).catch((): StoredLayer[] => []);
      const lost = layers.some(({ id }) => damaged.has(id)) || (await layout.lostLayer(layers)) !== undefined;
      return { image, layers, lost };
    }),
  );
  const sound = new Set(chains.flatMap(({ lost, layers }) => (lost ? [] : layers.map(({ id }) => id))));
  for (const { image, layers, lost } of chains) {
    if (!lost) continue;
    for (const { id } of layers) if (!sound.has(id)) await detach(layout, root, id, mounted);
    log.info(
      { image: `sha256:${image.id}`, names: image.names },
      'image with a lost or damaged layer removed',
    );
    await run(['skopeo', 'delete', `containers-storage:${storage}@${image.id}`], {
      timeoutMs,
      stage,
      errorId: 'StorageFailed',
    });
  }
}

/** Moves a layer's folder aside if an overlay uses it. */
async function detach(
  layout: StorageLayout,
  root: string,
  id: string,
  mounted: ReadonlyMap<string, string>,
): Promise<void> {
  const [link] = await layout.links([id]).catch(() => [undefined]);
  if (usersOf(link, mounted).length === 0) return;
  await rename(join(layout.overlay, id), await detachedPath(root, id)).catch(() => undefined); // the folder may be the lost one
  if (link !== undefined) await rm(join(layout.overlay, link), { force: true });
}

/** A new path for the folder of a layer that is moved aside; removeDetached() removes it after a reboot. */
export async function detachedPath(root: string, id: string): Promise<string> {
  const folder = join(root, 'detached', await bootId());
  makeFolder(folder);
  return join(folder, `${id}-${Date.now()}`);
}

/** Overlays: mount point -> options. */
export async function overlayMounts(): Promise<ReadonlyMap<string, string>> {
  const text = await readText('/proc/self/mountinfo');
  const lines = text.split('\n').filter((line) => line.includes(' - overlay '));
  return new Map(lines.map((line) => [line.split(' ')[4] ?? '', line]));
}

/**
 * The mount points of the overlays that use a layer. The short names of an overlay with many layers do not
 * identify them: it is assumed to use this layer.
 * @param link "l/NAME" of the layer; undefined: not known, and all overlays are assumed to use it
 */
export function usersOf(link: string | undefined, mounted: ReadonlyMap<string, string>): string[] {
  return [...mounted].flatMap(([target, options]) =>
    link === undefined || options.includes(link) || shortNames.test(options) ? [target] : [],
  );
}
/** See mountOverlay() of rootfs.ts. */
const shortNames = /lowerdir=[0-9a-z]{1,2}[:,]/;

/** Removes folders that were moved aside before this boot: no container uses them any more. */
export async function removeDetached(root: string): Promise<void> {
  const boot = await bootId();
  for (const name of await namesIn(join(root, 'detached')))
    if (name !== boot) await remove(join(root, 'detached', name));
}

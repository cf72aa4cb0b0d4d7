// Layers without their folders (after a disk error or a removal by hand): the
// store's list still has them, so no pull would fetch them again. They are
// removed from the list with the images that use them; the next pull fetches
// both again.  Called by store.ts.
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
 */
export async function removeLost(layout: StorageLayout, root: string, storage: string): Promise<void> {
  const [images, mounted] = [await layout.readImages(), await overlayMounts()];
  const chains = await Promise.all(
    images.map(async (image) => {
      const layers = await layout.layersOf(image).catch((): StoredLayer[] => []);
      return { image, layers, lost: (await layout.lostLayer(layers)) !== undefined };
    }),
  );
  const sound = new Set(chains.flatMap(({ lost, layers }) => (lost ? [] : layers.map(({ id }) => id))));
  for (const { image, layers, lost } of chains) {
    if (!lost) continue;
    for (const { id } of layers) if (!sound.has(id)) await detach(layout, root, id, mounted);
    log.info({ image: `sha256:${image.id}`, names: image.names }, 'image with a lost layer removed');
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
  mounted: readonly string[],
): Promise<void> {
  const [link] = await layout.links([id]).catch(() => [undefined]);
  // An overlay with many layers has shorter names in its options, which do not identify the layers: it is
  // assumed to use this layer.
  const used = mounted.some(
    (options) => link === undefined || options.includes(link) || !options.includes('lowerdir=l/'),
  );
  if (!used) return;
  const folder = join(root, 'detached', await bootId());
  makeFolder(folder);
  await rename(join(layout.overlay, id), join(folder, `${id}-${Date.now()}`)).catch(() => undefined); // the folder may be the lost one
  if (link !== undefined) await rm(join(layout.overlay, link), { force: true });
}

/** The options of all overlays. */
async function overlayMounts(): Promise<string[]> {
  const text = await readText('/proc/self/mountinfo');
  return text.split('\n').filter((line) => line.includes(' - overlay '));
}

/** Removes folders that were moved aside before this boot: no container uses them any more. */
export async function removeDetached(root: string): Promise<void> {
  const boot = await bootId();
  for (const name of await namesIn(join(root, 'detached')))
    if (name !== boot) await remove(join(root, 'detached', name));
}

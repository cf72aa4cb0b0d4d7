// Finds damaged images and repairs them. Called by cli/check/images.ts.
//
//   registry ──► ROOT/pulls/repair-…/storage ──► ROOT/storage
//                a store of its own              damaged folders and files are replaced
//
// An image is first pulled anew, by its digest, into a store of its own: if this
// fails, nothing has been changed. Then the damaged parts are replaced by rename. The
// files of running containers stay as they are: their overlays keep the folder,
// which is moved aside.
import { mkdtemp, readdir, readlink, rename, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CrispError } from '../errors.js';
import { exists, isAbsent, makeFolder, remove } from '../host/files.js';
import { damageOf, findDamage, type Damage, type DamagedImage } from './damage.js';
import { StorageLayout, type StoredImage, type StoredLayer } from './layout.js';
import { detachedPath, overlayMounts, usersOf } from './lost-layers.js';
import { OverlayAttributes } from './overlay-attributes.js';
import { Pulls, type PullsOptions } from './pull.js';
import { Images, pullsOptionsOf, repositoriesOf, type ImagesOptions } from './store.js';
import { SyncedLayers } from './synced-layers.js';

/** An image that was pulled into a store of its own. */
interface Fresh {
  readonly layout: StorageLayout;
  readonly image: StoredImage;
}

const stage = 'repair image';

/** The check and the repair of the images of a node, beside a running daemon. */
export class Repair {
  private readonly store: PullsOptions;

  constructor(private readonly options: ImagesOptions) {
    this.store = pullsOptionsOf(options);
  }

  /** See findDamage(). */
  find(): Promise<Damage> {
    return findDamage(this.store);
  }

  /**
   * Repairs an image.
   * @returns the ids of the running containers that keep the damaged files
   * @throws the errors of Images.pull(), and then nothing has been changed; StorageFailed
   */
  async repair(damaged: DamagedImage): Promise<readonly string[]> {
    const { layout } = this.store;
    if (!(await this.isDamaged(damaged))) return [];
    makeFolder(this.store.folder);
    const folder = await mkdtemp(join(this.store.folder, 'repair-')); // removed by the next start of the daemon, if not below
    try {
      const fresh = await this.fetch(damaged.image, folder);
      const users = new Set<string>();
      if (damaged.layers.size > 0) {
        const chain = await layout.layersOf(damaged.image);
        const freshChain = await fresh.layout.layersOf(fresh.image);
        // The lowest first: each has the names of those below it.
        for (let index = chain.length - 1; index >= 0; index--) {
          const [layer, anew] = [chain[index], freshChain[index]];
          if (!layer || !damaged.layers.has(layer.id) || !(await damageOf(this.store, layer))) continue;
          if (!anew || anew['diff-digest'] !== layer['diff-digest']) throw differs(damaged.image);
          for (const user of await this.replace(layer, chain.slice(index + 1), anew, fresh)) users.add(user);
        }
      }
      for (const name of damaged.data.keys()) await this.replaceData(damaged.image, name, fresh);
      await new SyncedLayers(this.store.synced, layout).flush();
      if (damaged.incomplete !== undefined) await this.pullAgain(damaged.image);
      return [...users];
    } finally {
      await remove(folder);
    }
  }

  /** Removes damaged layers that no image uses. @returns those that are left, since images are being pulled */
  async removeUnused(ids: readonly string[]): Promise<readonly string[]> {
    const pulls = new Pulls(this.store);
    for (const { name, remove: removeIt } of await pulls.leftovers())
      if (ids.includes(name)) await removeIt();
    const left = await this.store.layout.unusedLayers();
    return ids.filter((id) => left.includes(id));
  }

  /** A layer may have been repaired with another image. */
  private async isDamaged({ layers, data, incomplete }: DamagedImage): Promise<boolean> {
    if (data.size > 0 || incomplete !== undefined) return true;
    const byId = await this.store.layout.readLayers();
    for (const id of layers.keys()) {
      const layer = byId.get(id);
      if (layer && (await damageOf(this.store, layer)) !== undefined) return true;
    }
    return false;
  }

  private async fetch(image: StoredImage, folder: string): Promise<Fresh> {
    const layout = new StorageLayout(join(folder, 'storage'));
    makeFolder(layout.root);
    const pulls = new Pulls({
      ...this.store,
      layout,
      runRoot: join(folder, 'run'),
      staged: join(folder, 'staged'),
      synced: join(folder, 'synced-layers.json'),
    });
    let failure: unknown = new CrispError(
      'ImageCorrupt',
      `image sha256:${image.id} has no name to pull it by`,
    );
    for (const name of sourcesOf(image)) {
      try {
        await pulls.pull(name, undefined, undefined);
      } catch (error) {
        failure = error;
        continue;
      }
      const found = (await layout.readImages()).find(({ id }) => id === image.id);
      if (found) return { layout, image: found };
      failure = differs(image);
    }
    throw failure;
  }

  /**
   * Replaces the folder of a layer.
   * @param below the layers below it, topmost first
   */
  private async replace(
    { id }: StoredLayer,
    below: readonly StoredLayer[],
    anew: StoredLayer,
    fresh: Fresh,
  ): Promise<string[]> {
    const { layout } = this.store;
    const [folder, made] = [join(layout.overlay, id), join(fresh.layout.overlay, anew.id)];
    await new OverlayAttributes(fresh.layout).strip([anew.id]); // a container may be mounted from it at once
    const link = (await this.linkOf(id)) ?? (await fresh.layout.links([anew.id]))[0] ?? '';
    await writeFile(join(made, 'link'), link.slice('l/'.length));
    if (below.length > 0)
      await writeFile(join(made, 'lower'), (await layout.links(below.map((layer) => layer.id))).join(':'));
    const aside = await detachedPath(this.options.root, id);
    const wasThere = await renamed(folder, aside);
    try {
      await rename(made, folder);
    } catch (error) {
      if (wasThere) await rename(aside, folder);
      throw error;
    }
    await remove(join(layout.overlay, link));
    layout.makeLink(id, link);
    await rename(headersOf(fresh.layout, anew.id), headersOf(layout, id));
    const users = usersOf(link, await overlayMounts());
    if (users.length === 0) await remove(aside);
    return users.flatMap((target) => /\/roots\/([^/]+)\/fs$/.exec(target)?.[1] ?? []);
  }

  /** The short name of a layer, "l/NAME", also if its folder is lost. */
  private async linkOf(id: string): Promise<string | undefined> {
    const { overlay } = this.store.layout;
    const [link] = await this.store.layout.links([id]).catch(() => [undefined]);
    if (link !== undefined) return link;
    for (const name of await readdir(join(overlay, 'l')).catch(() => []))
      if ((await readlink(join(overlay, 'l', name)).catch(() => '')) === join('..', id, 'diff'))
        return join('l', name);
    return undefined;
  }

  private async replaceData(image: StoredImage, name: string, fresh: Fresh): Promise<void> {
    const [file, made] = [this.store.layout.dataFile(image, name), fresh.layout.dataFile(fresh.image, name)];
    if (!(await exists(made))) throw differs(image);
    makeFolder(dirname(file));
    await rename(made, file);
    // The daemon reads the image again if its list has changed.
    await utimes(this.store.layout.imagesFile, new Date(), new Date());
  }

  /** containers-storage makes the layers that are not in its list. */
  private async pullAgain(image: StoredImage): Promise<void> {
    const [name] = [...(image.names ?? []), ...sourcesOf(image)];
    if (name !== undefined) await new Images(this.options).pull(name, undefined);
  }
}

/** The references by which the registries have exactly this image, if it was pulled by a digest or its digest is known. */
function sourcesOf(image: StoredImage): string[] {
  const { digest } = image;
  return digest === undefined
    ? [...(image.names ?? [])]
    : repositoriesOf(image).map((repository) => `${repository}@${digest}`);
}

function differs({ id }: StoredImage): CrispError {
  return new CrispError('ImageCorrupt', `the registry has another image than sha256:${id}`, { stage });
}

/** The file with the headers of a layer's archive (tar-split). */
function headersOf({ root }: StorageLayout, id: string): string {
  return join(root, 'overlay-layers', `${id}.tar-split.gz`);
}

async function renamed(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to);
    return true;
  } catch (error) {
    if (isAbsent(error)) return false;
    throw error;
  }
}

// The rootfs of a container: one overlay mount over its image's layers, and the
// read-only views of image volumes.  One mount process, nothing else: the
// containers-storage command would cost 50 ms here.
//
//   ROOT/containers/ID/{diff,work}   the writable layer; outlives a boot, so that
//                                    the next start can remove it
//   STATE/rootfs/ID                  the mount
//   STATE/shifted/ID                 all layers, idmapped, for a user namespace
import { chown, readdir, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../errors.js';
import { exists, makeFolder, remove } from '../host/files.js';
import { mountIdMapped } from '../host/idmap.js';
import { bindMount, isMountPoint, mount, unmount } from '../host/mounts.js';
import { withUndo } from '../host/undo.js';
import type { Image, Images } from './store.js';
import { du } from './usage.js';

export interface RootfsOptions { readonly root: string; readonly state: string; readonly images: Images }

/** Into which user namespace a rootfs is shifted. */
export interface Shift {
  /** The namespace's file. */
  readonly namespaceFile: string;
  /** Root's ids outside, who owns what is new in the writable layer. */
  readonly rootUid: number;
  readonly rootGid: number;
}

const stage = 'mount rootfs';

export class Rootfs {
  constructor(private readonly options: RootfsOptions) {}

  /**
   * Mounts a writable rootfs for a container; returns its path.  With `shift`,
   * root's files of the image are root's in that user namespace: the overlay lies
   * over an idmapped view of all layers (overlay takes those since Linux 5.19).
   * Undoes itself on failure.
   */
  async mount(containerId: string, image: Image, shift?: Shift): Promise<string> {
    const { layout } = this.options.images;
    const links = await this.links(image);
    const target = this.target(containerId);
    const layer = this.layer(containerId);
    return withUndo(async (undo) => {
      undo.push('rootfs', () => this.unmount(containerId));
      await Promise.all([makeFolder(target, 0o755), makeFolder(join(layer, 'diff'), 0o755), makeFolder(join(layer, 'work'))]);
      if (shift) {
        await makeFolder(this.shifted(containerId));
        await mountIdMapped(layout.overlay, this.shifted(containerId), shift.namespaceFile);
        await Promise.all(['diff', 'work'].map((name) => chown(join(layer, name), shift.rootUid, shift.rootGid)));
      }
      const options = [`lowerdir=${links.join(':')}`, `upperdir=${join(layer, 'diff')}`, `workdir=${join(layer, 'work')}`].join(',');
      await mount('overlay', 'overlay', target, options, { cwd: shift ? this.shifted(containerId) : layout.overlay, stage });
      return target;
    });
  }

  /** Unmounts and removes the rootfs of a container; absent is fine. */
  async unmount(containerId: string): Promise<void> {
    await this.drop(this.target(containerId));
    await this.drop(this.shifted(containerId));
    await remove(this.layer(containerId));
  }

  /** Mounts a read-only view of an image under a name of the caller's; returns its path. */
  async mountImage(volumeId: string, image: Image): Promise<string> {
    const { layout } = this.options.images;
    const target = join(this.options.state, 'image-volumes', volumeId);
    const links = await this.links(image);
    return withUndo(async (undo) => {
      undo.push('image volume', () => this.unmountImage(volumeId));
      await makeFolder(target, 0o755);
      // overlay wants two lower layers when there is no upper one
      if (links.length === 1) await bindMount(join(layout.overlay, links[0] ?? ''), target, ['ro']);
      else await mount('overlay', 'overlay', target, `ro,lowerdir=${links.join(':')}`, { cwd: layout.overlay, stage: 'mount image volume' });
      return target;
    });
  }

  async unmountImage(volumeId: string): Promise<void> {
    await this.drop(join(this.options.state, 'image-volumes', volumeId));
  }

  /** What these containers have written; one that has no layer here is left out. */
  async usage(containerIds: readonly string[]): Promise<Map<string, { usedBytes: number; inodesUsed: number }>> {
    const counts = await du(containerIds.map((id) => join(this.layer(id), 'diff')));
    return new Map(containerIds.flatMap((id, index) => {
      const count = counts[index];
      return count ? [[id, { usedBytes: count.bytes, inodesUsed: count.inodes }] as const] : [];
    }));
  }

  /** The containers that have something here, for recovery. */
  async list(): Promise<string[]> {
    const names = await Promise.all([join(this.options.root, 'containers'), join(this.options.state, 'rootfs')].map((folder) => readdir(folder).catch(() => [] as string[])));
    return [...new Set(names.flat())];
  }

  private target(containerId: string): string { return join(this.options.state, 'rootfs', containerId); }
  private shifted(containerId: string): string { return join(this.options.state, 'shifted', containerId); }
  private layer(containerId: string): string { return join(this.options.root, 'containers', containerId); }

  /** Removes a mount point with its mount. Never recursively: were it still mounted, that would empty the image's layers. */
  private async drop(target: string): Promise<void> {
    if (!(await exists(target))) return;
    if (await isMountPoint(target)) await unmount(target);
    await rmdir(target);
  }

  private async links(image: Image): Promise<string[]> {
    const { images } = this.options;
    const ids = await images.layerIds(image);
    if (ids.length === 0) throw new CrispError('RootfsMissing', `image ${image.id} has no layers`, { stage });
    return Promise.all(ids.map((id) => images.layout.link(id)));
  }
}

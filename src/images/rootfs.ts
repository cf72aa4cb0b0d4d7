// The rootfs of a container: one overlay mount over its image's layers, and the
// read-only views of image volumes.  One mount process, nothing else: the
// containers-storage command would cost 50 ms here.
//
//   ROOT/containers/ID/volumes       the VOLUMEs of its image (volumes.ts)
//   ROOT/containers/ID/{diff,work}   the writable layer; outlives a boot, so that
//                                    the next start can remove it
//   STATE/roots/ID/fs                the mount
//   STATE/views/NAME/fs              the read-only view of an image volume
//   STATE/shifted/ID                 all layers, idmapped, for a user namespace
import { existsSync, symlinkSync } from 'node:fs';
import { readdir, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { RootfsMode } from '../backends/backend.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import { CrispError } from '../errors.js';
import { exists, isAbsent, makeFolder, namesIn, remove } from '../host/files.js';
import { mountIdMapped } from '../host/idmap.js';
import { isMountPoint, mount, unmount } from '../host/mounts.js';
import { withUndo } from '../host/undo.js';
import type { Images } from './store.js';
import type { Image } from '../shapes/image.js';
import { makeMountPoint, mountWritable, shiftOf, type Shift } from './overlay.js';
import { OverlayAttributes } from './overlay-attributes.js';
import { du } from './usage.js';

export interface RootfsOptions {
  readonly root: string;
  readonly state: string;
  readonly images: Images;
}

const stage = 'mount rootfs';
export class Rootfs {
  private readonly attributes: OverlayAttributes;

  constructor(private readonly options: RootfsOptions) {
    this.attributes = new OverlayAttributes(options.images.layout);
  }

  /** What a first container of an image would have to wait for. */
  async prepare(image: Image): Promise<void> {
    if (image.template === undefined) await this.attributes.strip(await this.options.images.layerIds(image));
  }

  /** What spec.root.path names, as the backend wishes it: the rootfs, a view of the image to copy, or, for a template of Proxmox, nothing. unmount() undoes it. */
  async provide(
    mode: RootfsMode,
    containerId: string,
    image: Image,
    plan: Pick<SandboxPlan, 'namespaces' | 'idMaps'>,
  ): Promise<string> {
    if (mode.kind === 'overlay') return this.mount(containerId, image, shiftOf(plan));
    return image.template === undefined ? this.mountView(containerId, image) : this.target(containerId);
  }

  /**
   * Mounts a writable rootfs for a container; returns its path.  With `shift`,
   * root's files of the image are root's in that user namespace: the overlay lies
   * over an idmapped view of all layers (overlay takes those since Linux 5.19).
   * Undoes itself on failure.
   */
  async mount(containerId: string, image: Image, shift?: Shift): Promise<string> {
    const { images } = this.options;
    const target = this.target(containerId);
    return withUndo('mount rootfs', async (undo) => {
      undo.push('rootfs', () => this.unmount(containerId));
      images.hold(image, containerId);
      const layers = await this.layersOf(image);
      await mountWritable(
        {
          target,
          store: images.layout.overlay,
          layer: this.layer(containerId),
          shifted: this.shifted(containerId),
          shift,
        },
        (from, options) => this.mountOverlay(containerId, target, { layers, from, options, stage }),
      );
      return target;
    });
  }

  /** Unmounts and removes the rootfs of a container; absent is fine. */
  async unmount(containerId: string): Promise<void> {
    await this.dropClosed(this.target(containerId));
    await this.drop(join(this.options.state, 'rootfs', containerId)); // where versions before 0.2 had it
    await this.drop(this.shifted(containerId));
    await remove(this.short(containerId));
    await remove(this.layer(containerId));
    this.options.images.release(containerId);
  }

  /** The same read-only, for a backend that makes a copy; unmount() undoes it. */
  async mountView(containerId: string, image: Image): Promise<string> {
    return this.mountReadOnly(containerId, image, this.target(containerId), () => this.unmount(containerId));
  }

  /** Mounts a read-only view of an image under a name of the caller's; returns its path. With `shift` as mount() does. */
  async mountImage(volumeId: string, image: Image, shift?: Shift): Promise<string> {
    return this.mountReadOnly(
      volumeId,
      image,
      this.volume(volumeId),
      () => this.unmountImage(volumeId),
      shift,
    );
  }

  private async mountReadOnly(
    holder: string,
    image: Image,
    target: string,
    unmount: () => Promise<void>,
    shift?: Shift,
  ): Promise<string> {
    const { images } = this.options;
    return withUndo('mount view', async (undo) => {
      undo.push('view of image', unmount);
      images.hold(image, holder);
      const layers = await this.layersOf(image);
      makeMountPoint(target, shift);
      const shifted = this.shifted(holder);
      if (shift) {
        undo.push('shifted layers', () => this.drop(shifted));
        makeFolder(shifted);
        await mountIdMapped(images.layout.overlay, shifted, shift.namespaceFile);
      }
      // Without an upper layer overlay wants two lower ones: the empty mount point is the second.
      await this.mountOverlay(holder, target, {
        layers,
        lowest: target,
        from: shift ? shifted : images.layout.overlay,
        options: ['ro'],
        stage: 'mount image',
      });
      if (shift) await this.drop(shifted); // overlay has clones of the mounts that its layers are on
      return target;
    });
  }

  async unmountImage(volumeId: string): Promise<void> {
    await this.dropClosed(this.volume(volumeId));
    await this.drop(join(this.options.state, 'image-volumes', volumeId));
    await remove(this.short(volumeId));
    this.options.images.release(volumeId);
  }

  /** The folder of the image's VOLUMEs that a container gets; unmount() removes it. */
  volumes(containerId: string): string {
    return join(this.layer(containerId), 'volumes');
  }

  /** The folder of what a container has written; undefined: its rootfs is not made here. */
  written(containerId: string): string | undefined {
    const folder = join(this.layer(containerId), 'diff');
    return existsSync(folder) ? folder : undefined;
  }

  /** How much these containers have written, with the VOLUMEs of their images; one that has no layer here is left out. */
  async usage(
    containerIds: readonly string[],
  ): Promise<Map<string, { usedBytes: number; inodesUsed: number }>> {
    const counts = await du(containerIds.flatMap((id) => [join(this.layer(id), 'diff'), this.volumes(id)]));
    return new Map(
      containerIds.flatMap((id, index) => {
        const [diff, volumes] = counts.slice(2 * index);
        if (!diff) return [];
        const usedBytes = diff.bytes + (volumes?.bytes ?? 0);
        return [[id, { usedBytes, inodesUsed: diff.inodes + (volumes?.inodes ?? 0) }] as const];
      }),
    );
  }

  /** The containers that have something here, for recovery. */
  async list(): Promise<string[]> {
    const { root, state } = this.options;
    const names = await Promise.all(
      [join(root, 'containers'), ...['roots', 'rootfs', 'shifted'].map((name) => join(state, name))].map(
        (folder) => readdir(folder).catch(() => [] as string[]),
      ),
    );
    return [...new Set(names.flat())];
  }

  /** The names of mountImage() that have something here; `image-volumes` is where versions before 0.2 had them. */
  async images(): Promise<string[]> {
    const { state } = this.options;
    return (
      await Promise.all(['views', 'image-volumes'].map((folder) => namesIn(join(state, folder))))
    ).flat();
  }

  private target(containerId: string): string {
    return mountedRootfs(this.options.state, containerId);
  }
  private shifted(containerId: string): string {
    return join(this.options.state, 'shifted', containerId);
  }
  private short(holder: string): string {
    return join(this.options.state, 'short', holder);
  }
  private layer(containerId: string): string {
    return join(this.options.root, 'containers', containerId);
  }
  private volume(volumeId: string): string {
    return join(this.options.state, 'views', volumeId, 'fs');
  }

  /** A mount point with its mount and the closed folder around it. */
  private async dropClosed(target: string): Promise<void> {
    await this.drop(target);
    await removeEmpty(dirname(target));
  }

  /** Removes a mount point with its mount. Never recursively: were it still mounted, that would empty the image's layers. */
  private async drop(target: string): Promise<void> {
    if (!(await exists(target))) return;
    if (await isMountPoint(target)) await unmount(target);
    await removeEmpty(target);
  }

  /** @throws ImageNotFound, RootfsMissing for an image without layers */
  private async layersOf(image: Image): Promise<readonly string[]> {
    const ids = await this.options.images.layerIds(image);
    if (ids.length === 0) throw new CrispError('RootfsMissing', `image ${image.id} has no layers`, { stage });
    await this.attributes.strip(ids);
    return ids;
  }

  /**
   * mount(2) takes one page of options.  The short names below l/ are enough for
   * some 135 layers; for more, the layers get names of one or two characters for
   * the time of the call, which are enough for the 500 that overlay takes.
   * (fsconfig(2) would take them one by one, but only since Linux 6.5.)
   */
  private async mountOverlay(holder: string, target: string, overlay: Overlay): Promise<void> {
    const { layers, lowest, from, options, stage: at } = overlay;
    const optionsWith = (names: readonly string[]): string =>
      [`lowerdir=${[...names, ...(lowest === undefined ? [] : [lowest])].join(':')}`, ...options].join(',');
    const usual = optionsWith(await this.options.images.layout.links(layers));
    if (Buffer.byteLength(usual) < pageBytes) {
      await mount('overlay', 'overlay', target, usual, { cwd: from, stage: at });
      return;
    }
    const folder = this.short(holder);
    await remove(folder); // of a start that was cut off
    makeFolder(folder);
    const names = layers.map((id, index) => {
      const name = index.toString(36);
      symlinkSync(join(from, id, 'diff'), join(folder, name));
      return name;
    });
    try {
      await mount('overlay', 'overlay', target, optionsWith(names), { cwd: folder, stage: at });
    } finally {
      await remove(folder);
    }
  }
}

interface Overlay {
  /** Topmost first. */
  readonly layers: readonly string[];
  /** A folder below all layers. */
  readonly lowest?: string;
  /** The folder of the layers: the store's, or an idmapped view of it. */
  readonly from: string;
  readonly options: readonly string[];
  readonly stage: string;
}
/** Of all architectures that Debian has; the end of the text takes one. */
const pageBytes = 4096;

/** Where the rootfs of a container is mounted. */
export function mountedRootfs(state: string, containerId: string): string {
  return join(state, 'roots', containerId, 'fs');
}

/** An empty folder; another crisp that removes the same container may have been faster. */
async function removeEmpty(folder: string): Promise<void> {
  try {
    await rmdir(folder);
  } catch (error) {
    if (!isAbsent(error)) throw error;
  }
}

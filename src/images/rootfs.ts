// The rootfs of a container: one overlay mount over its image's layers, and the
// read-only views of image volumes.  Only one mount call: the containers-storage
// command would take 50 ms here.
//
//   ROOT/containers/ID/volumes       the VOLUMEs of its image (volumes.ts)
//   ROOT/containers/ID/{diff,work}   the writable layer; kept over a reboot, so that
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
/** Mounts and removes the root filesystems and the image volumes of containers. */
export class Rootfs {
  private readonly attributes: OverlayAttributes;

  constructor(private readonly options: RootfsOptions) {
    this.attributes = new OverlayAttributes(options.images.layout);
  }

  /** Work that would delay the first container of an image. */
  async prepare(image: Image): Promise<void> {
    if (image.template === undefined) await this.attributes.strip(await this.options.images.layerIds(image));
  }

  /**
   * The folder for spec.root.path in the mode of the backend: the rootfs, a view of the image to copy, or
   * nothing for a template of Proxmox. unmount() undoes it.
   */
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
   * files of root in the image belong to root of that user namespace: the overlay
   * uses an idmapped view of all layers (supported by overlay since Linux 5.19).
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

  /** Unmounts and removes the rootfs of a container; no error if it does not exist. */
  async unmount(containerId: string): Promise<void> {
    await this.dropClosed(this.target(containerId));
    await this.drop(join(this.options.state, 'rootfs', containerId)); // the folder of versions before 0.2
    await this.drop(this.shifted(containerId));
    await remove(this.short(containerId));
    await remove(this.layer(containerId));
    this.options.images.release(containerId);
  }

  /** The same, read-only, for a backend that makes a copy; unmount() undoes it. */
  async mountView(containerId: string, image: Image): Promise<string> {
    return this.mountReadOnly(containerId, image, this.target(containerId), () => this.unmount(containerId));
  }

  /** Mounts a read-only view of an image under the given name; returns its path. `shift` as in mount(). */
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
      // Without an upper layer overlay requires two lower layers: the empty mount point is the second.
      await this.mountOverlay(holder, target, {
        layers,
        lowest: target,
        from: shift ? shifted : images.layout.overlay,
        options: ['ro'],
        stage: 'mount image',
      });
      if (shift) await this.drop(shifted); // overlay keeps clones of the mounts of its layers
      return target;
    });
  }

  /** Removes an image volume and releases its image; no effect if it does not exist. @throws StorageFailed */
  async unmountImage(volumeId: string): Promise<void> {
    await this.dropClosed(this.volume(volumeId));
    await this.drop(join(this.options.state, 'image-volumes', volumeId));
    await remove(this.short(volumeId));
    this.options.images.release(volumeId);
  }

  /** The folder for a container's VOLUMEs of the image; unmount() removes it. */
  volumes(containerId: string): string {
    return join(this.layer(containerId), 'volumes');
  }

  /** The folder of a container's writable layer; undefined: its rootfs is not made here. */
  written(containerId: string): string | undefined {
    const folder = join(this.layer(containerId), 'diff');
    return existsSync(folder) ? folder : undefined;
  }

  /**
   * The size of these containers' writable layers, including the VOLUMEs of their images; containers without
   * a layer here are left out.
   */
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

  /** The containers that have files or mounts here, for recovery. */
  async list(): Promise<string[]> {
    const { root, state } = this.options;
    const names = await Promise.all(
      [join(root, 'containers'), ...['roots', 'rootfs', 'shifted'].map((name) => join(state, name))].map(
        (folder) => readdir(folder).catch(() => [] as string[]),
      ),
    );
    return [...new Set(names.flat())];
  }

  /** The names of mountImage() that exist here; `image-volumes` is the folder of versions before 0.2. */
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

  /** A mount point with its mount and the restricted folder around it. */
  private async dropClosed(target: string): Promise<void> {
    await this.drop(target);
    await removeEmpty(dirname(target));
  }

  /**
   * Removes a mount point with its mount. Never recursively: if it were still mounted, this would empty the
   * image's layers.
   */
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
   * mount(2) accepts one page of options. With the short names below l/ this is
   * enough for some 135 layers; for more, the layers get names of one or two
   * characters during the call, which is enough for the 500 that overlay
   * supports. (fsconfig(2) accepts them one by one, but only since Linux 6.5.)
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
    await remove(folder); // left by an interrupted start
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
  /** A folder used as the lowest layer. */
  readonly lowest?: string;
  /** The folder of the layers: the store, or an idmapped view of it. */
  readonly from: string;
  readonly options: readonly string[];
  readonly stage: string;
}
/** The smallest of Debian's architectures; one byte is for the terminating NUL. */
const pageBytes = 4096;

/** Where the rootfs of a container is mounted. */
export function mountedRootfs(state: string, containerId: string): string {
  return join(state, 'roots', containerId, 'fs');
}

/** Removes an empty folder; another crisp that removes the same container may have removed it before. */
async function removeEmpty(folder: string): Promise<void> {
  try {
    await rmdir(folder);
  } catch (error) {
    if (!isAbsent(error)) throw error;
  }
}

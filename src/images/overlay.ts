// A writable rootfs: one overlay over layers, shifted into a user namespace where
// there is one. Called by rootfs.ts for containers, and by the probe of the
// Proxmox backend, so that it tries what containers get.
import { chown } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { makeClosedFolder, makeFolder } from '../host/files.js';
import { mountIdMapped } from '../host/idmap.js';
import type { SandboxPlan } from '../shapes/sandbox.js';

/** Into which user namespace a rootfs is shifted. */
export interface Shift {
  /** The namespace's file. */
  readonly namespaceFile: string;
  /** Root's ids outside, who owns what is new in the writable layer. */
  readonly rootUid: number;
  readonly rootGid: number;
}

export interface WritableRootfs {
  /** Where it is mounted. */
  readonly target: string;
  /** The folder that all layers are below. */
  readonly store: string;
  /** Gets the writable layer: diff and work. */
  readonly layer: string;
  /** Where the store is mounted idmapped, with `shift`. */
  readonly shifted: string;
  readonly shift: Shift | undefined;
}

/**
 * volatile (Linux 5.10): what a container wrote dies with it, so neither its
 * fsync nor the unmount waits for the disk.  redirect_dir: without it, to rename
 * a folder of the image fails with EXDEV.
 */
const manner = ['volatile', 'redirect_dir=on'];

/**
 * Makes the folders of a writable rootfs and mounts it. Undoing is the caller's.
 * Overlay takes idmapped layers since Linux 5.19.
 * @param mountOverlay mounts the overlay on the target, with the lower layers taken from below `from`
 */
export async function mountWritable(
  { target, store, layer, shifted, shift }: WritableRootfs,
  mountOverlay: (from: string, options: readonly string[]) => Promise<void>,
): Promise<void> {
  makeMountPoint(target, shift);
  const [diff, work] = [join(layer, 'diff'), join(layer, 'work')];
  makeFolder(diff, 0o755);
  makeFolder(work);
  if (shift) {
    makeFolder(shifted);
    await mountIdMapped(store, shifted, shift.namespaceFile);
    await Promise.all([diff, work].map((path) => chown(path, shift.rootUid, shift.rootGid)));
  }
  await mountOverlay(shift ? shifted : store, [`upperdir=${diff}`, `workdir=${work}`, ...manner]);
}

/**
 * The root of a mount has the mode and the owner that the image gives it, so it cannot keep anybody
 * out: setuid programs of a container would run for every user of the host. The folder around it does.
 * nosuid would hold inside the container as well.
 */
export function makeMountPoint(target: string, shift: Shift | undefined): void {
  makeClosedFolder(dirname(target), shift?.rootGid);
  makeFolder(target, 0o755);
}

export function shiftOf({
  namespaces,
  idMaps,
}: Pick<SandboxPlan, 'namespaces' | 'idMaps'>): Shift | undefined {
  if (!namespaces.user || !idMaps) return undefined;
  return {
    namespaceFile: namespaces.user,
    rootUid: idMaps.uids[0]?.hostID ?? 0,
    rootGid: idMaps.gids[0]?.hostID ?? 0,
  };
}

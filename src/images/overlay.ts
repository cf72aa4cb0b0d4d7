// A writable rootfs: one overlay over layers, mapped into a user namespace if
// there is one. Called by rootfs.ts for containers, and by the probe of the
// Proxmox backend, so that the probe mounts the same as containers.
import { chown } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { makeClosedFolder, makeFolder } from '../host/files.js';
import { mountIdMapped } from '../host/idmap.js';
import type { SandboxPlan } from '../shapes/sandbox.js';

/** The user namespace into which a rootfs is mapped. */
export interface Shift {
  /** The namespace's file. */
  readonly namespaceFile: string;
  /** Host ids of the namespace's root, the owner of new files in the writable layer. */
  readonly rootUid: number;
  readonly rootGid: number;
}

export interface WritableRootfs {
  /** Where it is mounted. */
  readonly target: string;
  /** The folder above all layers. */
  readonly store: string;
  /** The folder for the writable layer: diff and work. */
  readonly layer: string;
  /** Mount point of the idmapped store, with `shift`. */
  readonly shifted: string;
  readonly shift: Shift | undefined;
}

/**
 * volatile (Linux 5.10): the writable layer is removed with its container, so
 * neither its fsync nor the unmount waits for the disk. redirect_dir: without
 * it, renaming a folder of the image fails with EXDEV.
 */
const manner = ['volatile', 'redirect_dir=on'];

/**
 * Makes the folders of a writable rootfs and mounts it. The caller undoes this. Overlay supports
 * idmapped layers since Linux 5.19.
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
 * The root of a mount has the mode and the owner that the image sets, so it does not restrict access:
 * every user of the host could run setuid programs of a container. The folder around it restricts
 * access. nosuid would apply inside the container as well.
 */
export function makeMountPoint(target: string, shift: Shift | undefined): void {
  makeClosedFolder(dirname(target), shift?.rootGid);
  makeFolder(target, 0o755);
}

/** How the files of a rootfs are mapped into the user namespace of the pod; undefined: it has none. */
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

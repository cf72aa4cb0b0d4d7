// Filesystems and block devices by their numbers, for the pod metrics.
import { readlinkSync, statSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { basename } from 'node:path';

/** "/dev/sda"; "8:0" for a device without a node, such as those of overlay and btrfs. */
export function deviceName(major: number, minor: number): string {
  try {
    return `/dev/${basename(readlinkSync(`/sys/dev/block/${major}:${minor}`))}`;
  } catch {
    return `${major}:${minor}`;
  }
}

export interface Filesystem {
  readonly device: string;
  readonly sizeBytes: number;
  readonly inodes: number;
  readonly inodesFree: number;
}

/** The filesystem that contains `path`. */
export async function filesystemOf(path: string): Promise<Filesystem> {
  const { bsize, blocks, files, ffree } = await statfs(path);
  const { dev } = statSync(path);
  // makedev(3) of glibc: the major has bits 8..19, the minor bits 0..7 and 20..31.
  return {
    device: deviceName((dev >>> 8) & 0xfff, (dev & 0xff) | ((dev >>> 12) & 0xfff00)),
    sizeBytes: bsize * blocks,
    inodes: files,
    inodesFree: ffree,
  };
}

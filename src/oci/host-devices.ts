// The device nodes of the host, read for the request's devices, for CDI's and
// for privileged containers.
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isAbsent } from '../host/files.js';
import type { Device } from '../shapes/spec.js';

/** Entries of /dev that a container has itself, or that belong to another container. */
const notOfTheHost = [
  'pts',
  'shm',
  'mqueue',
  'fd',
  'console',
  'ptmx',
  'lxc',
  'lxd',
  '.lxc',
  '.lxd-mounts',
  '.udev',
  'hugepages',
];

/** makedev(3): 12 bits of major and 20 of minor, interleaved. */
export function deviceNumbers(rdev: number): { major: number; minor: number } {
  return { major: (rdev >>> 8) & 0xfff, minor: (rdev & 0xff) | ((rdev >>> 12) & 0xfff00) };
}

/**
 * The device at a path, or all devices below it; symlinks below it are ignored.
 * @returns each with its path under `containerPath`; empty if there is no device
 */
export async function devicesAt(hostPath: string, containerPath: string): Promise<Device[]> {
  let info;
  try {
    info = await stat(hostPath);
  } catch (error) {
    if (isAbsent(error)) return [];
    throw error;
  }
  if (info.isCharacterDevice() || info.isBlockDevice()) {
    const { major, minor } = deviceNumbers(info.rdev);
    return [
      {
        type: info.isBlockDevice() ? 'b' : 'c',
        path: containerPath,
        major,
        minor,
        fileMode: info.mode & 0o777,
        uid: info.uid,
        gid: info.gid,
      },
    ];
  }
  if (!info.isDirectory()) return [];
  const entries = (await readdir(hostPath, { withFileTypes: true })).filter(
    (entry) => !entry.isSymbolicLink() && !(hostPath === '/dev' && notOfTheHost.includes(entry.name)),
  );
  return (
    await Promise.all(
      entries.map((entry) => devicesAt(join(hostPath, entry.name), join(containerPath, entry.name))),
    )
  ).flat();
}

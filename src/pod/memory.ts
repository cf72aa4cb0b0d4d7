// The memory of a pod: one tmpfs of a fixed size for all files in the state
// folder that its containers can write. The state folder itself is limited only
// by the host's memory.
//
//   POD/memory/shm                                 /dev/shm of its containers
//   POD/memory/resolv.conf, hosts, hostname        in their /etc
//
// POSIX shared memory is a tmpfs, so an ipc namespace alone does not share it.
import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder } from '../host/files.js';
import { bindMount, isMountPoint, mount } from '../host/mounts.js';
import { writePodFiles, type PodFiles } from './files.js';

/** The mount point; also the folder of the pod's files. */
export function podMemory(podFolder: string): string {
  return join(podFolder, 'memory');
}

/** The folder that containers have at /dev/shm (mode 1777). */
export function sharedMemory(podFolder: string): string {
  return join(podMemory(podFolder), 'shm');
}

/** Mounts it and writes the files; 64 MiB is the size of /dev/shm in Docker and the other CRI runtimes. */
export async function mountPodMemory(podFolder: string, files: PodFiles): Promise<void> {
  makeFolder(podMemory(podFolder));
  await mount('tmpfs', 'shm', podMemory(podFolder), 'nosuid,nodev,noexec,mode=755,size=64m');
  makeFolder(sharedMemory(podFolder));
  chmodSync(sharedMemory(podFolder), 0o1777);
  writePodFiles(podMemory(podFolder), files);
}

/**
 * Mounts it for a pod without it: if its folder was lost, or if the pod was made by an earlier version
 * of crisp, which had a separate mount for the shared memory and the files beside it.
 * @param files provides the files if they are needed
 */
export async function repairPodMemory(podFolder: string, files: () => Promise<PodFiles>): Promise<void> {
  if (await isMountPoint(podMemory(podFolder))) return;
  await mountPodMemory(podFolder, await files());
  const former = join(podFolder, 'shm');
  if (await isMountPoint(former)) await bindMount(former, sharedMemory(podFolder));
}

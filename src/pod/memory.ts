// The memory of a pod: one tmpfs of a fixed size for all that its containers can
// write in the state folder, which has no other limit than the host's memory.
//
//   POD/memory/shm                                 /dev/shm of its containers
//   POD/memory/resolv.conf, hosts, hostname        in their /etc
//
// POSIX shared memory is a tmpfs, so an ipc namespace alone does not share it.
import { chmodSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder } from '../host/files.js';
import { bindMount, isMountPoint, mount } from '../host/mounts.js';
import { writePodFiles, type PodFiles } from './files.js';

/** Where it is mounted; also the folder of the pod's files. */
export function podMemory(podFolder: string): string {
  return join(podFolder, 'memory');
}

export function sharedMemory(podFolder: string): string {
  return join(podMemory(podFolder), 'shm');
}

/** Mounts it and writes the files; 64 MiB is the size of /dev/shm that Docker and the CRI's other runtimes give. */
export async function mountPodMemory(podFolder: string, files: PodFiles): Promise<void> {
  makeFolder(podMemory(podFolder));
  await mount('tmpfs', 'shm', podMemory(podFolder), 'nosuid,nodev,noexec,mode=755,size=64m');
  makeFolder(sharedMemory(podFolder));
  chmodSync(sharedMemory(podFolder), 0o1777);
  writePodFiles(podMemory(podFolder), files);
}

/**
 * Gives the same to a pod that has none: one whose folder was lost, or of an earlier version of crisp,
 * which had the shared memory in a mount of its own and the files beside it.
 * @param files is asked for them if need be
 */
export async function mendPodMemory(podFolder: string, files: () => Promise<PodFiles>): Promise<void> {
  if (existsSync(podMemory(podFolder)) && (await isMountPoint(podMemory(podFolder)))) return;
  await mountPodMemory(podFolder, await files());
  const former = join(podFolder, 'shm');
  if (existsSync(former) && (await isMountPoint(former))) await bindMount(former, sharedMemory(podFolder));
}

// Idmapped mounts: a view of a folder with the owners of files mapped into a
// user namespace (mount_setattr(2), MOUNT_ATTR_IDMAP; Linux 5.12).
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { CrispError } from '../errors.js';
import { attachMount, cloneMount, close, idMapMount } from './syscalls.js';

/** Linux's O_PATH, which Node does not define: a descriptor that only refers to the file. */
const O_PATH = 0o10000000;

/**
 * Mounts `source` at `target` with owners mapped into the user namespace of
 * `namespaceFile`. Submounts are not included.
 * @throws StorageFailed if the kernel or the filesystem does not support it
 */
export async function mountIdMapped(source: string, target: string, namespaceFile: string): Promise<void> {
  let tree: number | undefined;
  let folder;
  let namespace;
  try {
    // Opened on another thread: the server of a pod's source may be dead.
    folder = await open(source, O_PATH);
    namespace = await open(namespaceFile, constants.O_RDONLY);
    tree = cloneMount(folder.fd);
    idMapMount(tree, namespace.fd);
    attachMount(tree, target);
  } catch (error) {
    throw new CrispError(
      'StorageFailed',
      `cannot mount ${source} with mapped owners: ${(error as Error).message}`,
      { stage: 'mount idmapped', cause: error },
    );
  } finally {
    if (tree !== undefined) close(tree);
    await folder?.close();
    await namespace?.close();
  }
}

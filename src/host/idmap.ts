// Idmapped mounts: a view of a folder in which the owners of files are shifted
// into a user namespace (mount_setattr(2), MOUNT_ATTR_IDMAP; Linux 5.12).
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { CrispError } from '../errors.js';
import { attachMount, cloneMount, close, idMapMount } from './syscalls.js';

/** Linux's O_PATH, which Node does not name: a descriptor that only means the file. */
const O_PATH = 0o10000000;

/**
 * Mounts `source` at `target` with owners shifted into the user namespace that
 * `namespaceFile` is. Submounts are not taken along.
 * @throws StorageFailed where the kernel or the filesystem cannot do it
 */
export async function mountIdMapped(source: string, target: string, namespaceFile: string): Promise<void> {
  let tree: number | undefined;
  let folder;
  let namespace;
  try {
    // Opened on another thread: a pod may name a source whose server is dead.
    folder = await open(source, O_PATH);
    namespace = await open(namespaceFile, constants.O_RDONLY);
    tree = cloneMount(folder.fd);
    idMapMount(tree, namespace.fd);
    attachMount(tree, target);
  } catch (error) {
    throw new CrispError(
      'StorageFailed',
      `cannot mount ${source} with shifted owners: ${(error as Error).message}`,
      { stage: 'mount idmapped', cause: error },
    );
  } finally {
    if (tree !== undefined) close(tree);
    await folder?.close();
    await namespace?.close();
  }
}

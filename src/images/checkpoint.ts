// The archive of a container's checkpoint, in the layout of other runtimes
// and checkpointctl(1). Called by container-update.
//
//   checkpoint/       criu's images
//   spec.dump         config.json
//   config.dump       the container: id, name, image, runtime, times
//   rootfs-diff.tar   its writable layer
import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  realpathSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { entryOf, openFolder, unlinkIfThere } from '../host/beneath.js';
import { makeFolder, remove } from '../host/files.js';
import { run } from '../host/run.js';
import { withUndo } from '../host/undo.js';

export interface CheckpointContents {
  /** Makes criu's images in the folder. */
  readonly dump: (folder: string) => Promise<void>;
  /** The path of config.json. */
  readonly spec: string;
  readonly config: Readonly<Record<string, unknown>>;
  /** The folder of the writable layer; undefined: the backend does not provide one. */
  readonly written: string | undefined;
  readonly timeoutMs: number;
}

/**
 * Writes the archive to the file `location`, readable by root only: it holds the
 * memory of the container. The file appears only when it is complete. Other users
 * may be able to write in its folder: no link in it is followed, and the parts of
 * the archive are kept elsewhere.
 * @param root the root folder, which only root can access, with room for the container's
 * memory
 * @throws the errors of `dump`, StorageFailed, ToolTimeout
 */
export async function writeCheckpoint(
  location: string,
  root: string,
  contents: CheckpointContents,
): Promise<void> {
  const work = workFolder(root);
  makeFolder(work);
  const folder = mkdtempSync(join(work, 'x'));
  const tar = (words: readonly string[], okExitCodes = [0]) =>
    run(['tar', '--create', ...words], {
      timeoutMs: contents.timeoutMs,
      stage: 'write checkpoint',
      errorId: 'StorageFailed',
      okExitCodes,
    });
  await withUndo('write checkpoint', async (undo) => {
    undo.push('parts of a checkpoint', () => remove(folder));
    makeFolder(join(folder, 'checkpoint'));
    await contents.dump(join(folder, 'checkpoint'));
    copyFileSync(contents.spec, join(folder, 'spec.dump'));
    writeFileSync(join(folder, 'config.dump'), JSON.stringify(contents.config, undefined, 1));
    // The container runs: 1 says that a file was changed or removed meanwhile (tar(1)).
    if (contents.written)
      await tar(
        ['--file', join(folder, 'rootfs-diff.tar'), '--xattrs', '--directory', contents.written, '.'],
        [0, 1],
      );
    const target = openFolder(realpathSync(dirname(location)));
    const partial = entryOf(target, `${basename(location)}.partial`);
    try {
      unlinkIfThere(partial);
      const archive = openSync(partial, 'wx', 0o600);
      try {
        await tar(['--file', `/proc/${process.pid}/fd/${archive}`, '--directory', folder, '.']);
      } finally {
        closeSync(archive);
      }
      renameSync(partial, entryOf(target, basename(location)));
    } catch (error) {
      unlinkIfThere(partial);
      throw error;
    } finally {
      closeSync(target);
    }
    await remove(folder);
  });
}

/** Removes the parts of unfinished checkpoints of an earlier run. */
export async function removeUnfinishedCheckpoints(root: string): Promise<void> {
  await remove(workFolder(root));
}

function workFolder(root: string): string {
  return join(root, 'checkpoints');
}

// The archive of a container's checkpoint, laid out as other runtimes and
// checkpointctl(1) have it.  Called by container-update.
//
//   checkpoint/       criu's images
//   spec.dump         config.json
//   config.dump       what the container is: id, name, image, runtime, times
//   rootfs-diff.tar   what it has written
import { copyFileSync, writeFileSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFolder, remove } from '../host/files.js';
import { run } from '../host/run.js';
import { withUndo } from '../host/undo.js';

export interface CheckpointContents {
  /** Makes criu's images in the folder. */
  readonly dump: (folder: string) => Promise<void>;
  /** The path of config.json. */
  readonly spec: string;
  readonly config: Readonly<Record<string, unknown>>;
  /** The folder of what the container has written; undefined: it is not ours to know. */
  readonly written: string | undefined;
  readonly timeoutMs: number;
}

/**
 * Writes the archive to `location`, a file, readable for root alone: it holds
 * the memory of the container.  It is there whole or not at all.
 * @throws what `dump` throws, StorageFailed, ToolTimeout
 */
export async function writeCheckpoint(location: string, contents: CheckpointContents): Promise<void> {
  const folder = `${location}.parts`; // beside it: as large as the container's memory, and made for such a size
  const tar = (...words: string[]) =>
    run(['tar', '--create', ...words], {
      timeoutMs: contents.timeoutMs,
      stage: 'write checkpoint',
      errorId: 'StorageFailed',
    });
  await withUndo(async (undo) => {
    undo.push('checkpoint', () => Promise.all([remove(folder), remove(`${location}.partial`)]));
    makeFolder(join(folder, 'checkpoint'));
    await contents.dump(join(folder, 'checkpoint'));
    copyFileSync(contents.spec, join(folder, 'spec.dump'));
    writeFileSync(join(folder, 'config.dump'), JSON.stringify(contents.config, undefined, 1));
    if (contents.written)
      await tar('--file', join(folder, 'rootfs-diff.tar'), '--xattrs', '--directory', contents.written, '.');
    writeFileSync(`${location}.partial`, '', { mode: 0o600 });
    await tar('--file', `${location}.partial`, '--directory', folder, '.');
    await rename(`${location}.partial`, location);
    await remove(folder);
  });
}

// Tells of changes in a folder, also of one that appears later or is replaced.
// Called by configured.ts.
import { existsSync, watch, type FSWatcher } from 'node:fs';
import { dirname } from 'node:path';
import { isAbsent } from '../host/files.js';

export class FolderWatch {
  private watcher: FSWatcher | undefined;
  private closed = false;

  constructor(
    private readonly folder: string,
    private readonly onChange: () => void,
  ) {}

  /**
   * Watches the folder, or the nearest one above it that exists.  To be called
   * again before each look into the folder: a change between the two is then
   * told, and none is lost.
   */
  arm(): void {
    const before = this.watcher;
    this.watcher = undefined;
    while (!this.closed && !this.watcher) {
      const folder = this.nearest();
      const watcher = watchIfThere(folder, this.onChange);
      if (folder === this.nearest()) this.watcher = watcher;
      else watcher?.close(); // one nearer was made before the watch stood
    }
    before?.close();
  }

  close(): void {
    this.closed = true;
    this.watcher?.close();
  }

  private nearest(): string {
    let folder = this.folder;
    while (!existsSync(folder)) folder = dirname(folder);
    return folder;
  }
}

function watchIfThere(folder: string, onChange: () => void): FSWatcher | undefined {
  try {
    return watch(folder, { persistent: false }, onChange).on('error', onChange);
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

// Reports changes in a folder, also if it appears later or is replaced. Called
// by configured.ts.
import { existsSync, watch, type FSWatcher } from 'node:fs';
import { dirname } from 'node:path';
import { isAbsent } from '../host/files.js';

/** Reports changes in a folder that may not exist yet, or may be replaced. */
export class FolderWatch {
  private watcher: FSWatcher | undefined;
  private closed = false;

  constructor(
    private readonly folder: string,
    private readonly onChange: () => void,
  ) {}

  /**
   * Watches the folder, or its nearest existing parent. To be called again
   * before each read of the folder: a change between the two is then reported,
   * and none is lost.
   */
  arm(): void {
    const before = this.watcher;
    this.watcher = undefined;
    while (!this.closed && !this.watcher) {
      const folder = this.nearest();
      const watcher = watchIfThere(folder, this.onChange);
      if (folder === this.nearest()) this.watcher = watcher;
      else watcher?.close(); // a nearer folder was made before the watch was set
    }
    before?.close();
  }

  /** Stops watching. */
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

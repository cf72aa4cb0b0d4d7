// Exits, as written by monitors (conmon, and the watcher of a CT): EXIT_DIR/ID
// contains the exit code, its mtime is the time of the exit, and BUNDLE/oom
// exists after an OOM kill.
//
// One watch for all containers. Each exit is reported once; exits while crisp
// was not running are found by survey().
import { watch, type FSWatcher } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../errors.js';
import { exists, isAbsent, makeFolder, readText } from '../host/files.js';
import { waitUntil } from '../host/wait.js';
import { log } from '../log.js';
import { setAside } from '../set-aside.js';
import type { Exit } from './backend.js';

/** The folder in which monitors write the exits of containers: FOLDER/ID. */
export class Exits {
  private watcher: FSWatcher | undefined;
  private readonly listeners: ((id: string) => void)[] = [];

  constructor(readonly folder: string) {}

  /**
   * Calls `changed` with the name of each file that appears. Monitors write a temporary file and rename it,
   * so each file is complete. @throws StorageFailed
   */
  watch(changed: (id: string) => void): void {
    this.listeners.push(changed);
    if (this.watcher) return; // close() would leave a second watcher open
    try {
      makeFolder(this.folder);
      this.watcher = watch(this.folder, (_event, name) => {
        if (name && !name.includes('.')) for (const listener of this.listeners) listener(name);
      });
    } catch (error) {
      throw new CrispError('StorageFailed', `cannot watch ${this.folder}: ${(error as Error).message}`, {
        stage: 'watch exits',
        hint: 'see the detail; EMFILE and ENOSPC are limits of inotify: raise fs.inotify.max_user_instances or max_user_watches',
        cause: error,
      });
    }
    this.watcher.on('error', (error) =>
      log.error({ err: error, folder: this.folder }, 'the watch of the exit folder failed'),
    );
  }

  /** Stops watching. */
  close(): void {
    this.watcher?.close();
  }

  /** The exit file of a container: the decimal exit code. */
  path(id: string): string {
    return join(this.folder, id);
  }

  /** Waits for the exit, for at most `withinMs`. undefined: the monitor has written none. */
  async wait(id: string, bundle: string, withinMs: number): Promise<Exit | undefined> {
    return waitUntil(() => this.read(id, bundle), { everyMs: 10, withinMs });
  }

  /** undefined: the monitor has written no exit (yet). */
  async read(id: string, bundle: string): Promise<Exit | undefined> {
    try {
      const text = await readText(this.path(id), { maxBytes: 1024 }); // most often absent, so nothing else is started before
      const info = await stat(this.path(id), { bigint: true });
      if (!/^\d{1,3}$/.test(text.trim())) return undefined;
      const exitCode = Number(text);
      return { exitCode, finishedAt: info.mtimeNs, oomKilled: await exists(join(bundle, 'oom')) };
    } catch (error) {
      if (isAbsent(error)) return undefined;
      if (!(error instanceof CrispError && error.id === 'FileRefused')) throw error;
      setAside.add('file', this.path(id), 'it is no file with an exit code');
      return undefined;
    }
  }
}

// Notes of the attachments that plugins hold addresses for.  Leases outlive a
// boot (host-local keeps them under /var/lib/cni), while our records may not;
// so each attachment is noted under the root folder, from before its ADD until
// after its DEL.  Called by cni.ts.
import { writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFolder, readFileIfThere, remove } from '../host/files.js';

export class Leases<T> {
  constructor(private readonly folder: string) {}

  open(): void {
    makeFolder(this.folder);
  }

  /**
   * Not flushed to disk: the plugins do not flush their leases either, and a
   * note that a crash cut off still has its name, which is all that a DEL needs
   * at the least.
   */
  note(id: string, lease: T): void {
    writeFileSync(this.path(id), JSON.stringify(lease), { mode: 0o600 });
  }

  /** undefined: not noted; 'unreadable': noted, but what exactly is lost. */
  async read(id: string): Promise<T | 'unreadable' | undefined> {
    const text = await readFileIfThere(this.path(id));
    if (text === undefined) return undefined;
    try {
      return JSON.parse(text) as T;
    } catch {
      return 'unreadable';
    }
  }

  async forget(id: string): Promise<void> {
    await remove(this.path(id));
  }

  async ids(): Promise<string[]> {
    return (await readdir(this.folder))
      .filter((name) => name.endsWith('.json'))
      .map((name) => name.slice(0, -'.json'.length));
  }

  private path(id: string): string {
    return join(this.folder, `${id}.json`);
  }
}

// Notes of the attachments for which plugins hold addresses. Leases survive a
// reboot (host-local keeps them under /var/lib/cni), while crisp's records may
// not; so each attachment is noted under the root folder, from before its ADD
// until after its DEL.  Called by cni.ts.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type * as z from 'zod';
import { makeFolder, readFileIfThere, remove, writeFile } from '../host/files.js';
import { setAside } from '../set-aside.js';

/** The container ids of CNI (its specification, section 2): never a path. */
const id = /^[a-zA-Z0-9][\w.-]*$/;

/** One file for each attachment: FOLDER/ID.json. */
export class Leases<T> {
  constructor(
    private readonly folder: string,
    private readonly schema: z.ZodType<T>,
  ) {}

  /** Makes the folder. @throws StorageFailed */
  open(): void {
    makeFolder(this.folder);
  }

  /**
   * Not flushed to disk: the plugins do not flush their leases either, and a
   * note that a crash truncated still has its name, which is enough for a DEL.
   */
  note(id: string, lease: object): void {
    writeFile(this.path(id), JSON.stringify(lease));
  }

  /** undefined: not noted; 'unreadable': noted, but the content is lost. */
  async read(id: string): Promise<T | 'unreadable' | undefined> {
    try {
      const text = await readFileIfThere(this.path(id));
      return text === undefined ? undefined : this.schema.parse(JSON.parse(text));
    } catch {
      return 'unreadable';
    }
  }

  /** Removes a note; no effect if there is none. */
  async forget(id: string): Promise<void> {
    await remove(this.path(id));
  }

  /** The ids of all noted attachments. Files with another name are set aside. */
  async ids(): Promise<string[]> {
    const names = (await readdir(this.folder)).filter((name) => name.endsWith('.json'));
    const ids = names.map((name) => name.slice(0, -'.json'.length));
    for (const other of ids.filter((name) => !id.test(name)))
      setAside.add('lease', this.path(other), 'its name is not the id of a pod');
    return ids.filter((name) => id.test(name));
  }

  private path(id: string): string {
    return join(this.folder, `${id}.json`);
  }
}

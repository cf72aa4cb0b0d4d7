// The records: a map in memory, one file per record.
//
// A change is computed first, written (tmp, fsync, rename), and only then seen
// in memory: no reader ever sees what a crash could take back.  Records are
// frozen values; a change replaces them.
import { readdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type * as z from 'zod';
import { makeFolder, remove, writeFileAtomic } from '../host/files.js';
import { log } from '../log.js';
import { Locks } from './locks.js';
import {
  containerRecordSchema,
  sandboxRecordSchema,
  type ContainerRecord,
  type SandboxRecord,
} from './records.js';

export class RecordTable<T extends { readonly id: string }> {
  private readonly records = new Map<string, T>();
  private readonly changes = new Locks();

  constructor(
    private readonly folder: string,
    private readonly schema: z.ZodType<T>,
  ) {}

  get(id: string): T | undefined {
    return this.records.get(id);
  }
  all(): T[] {
    return [...this.records.values()];
  }

  /** Writes the record, then shows it. */
  async put(record: T): Promise<T> {
    await writeFileAtomic(this.path(record.id), JSON.stringify(record));
    this.records.set(record.id, record);
    return record;
  }

  /** Changes fields of the record of `id`, one change after the other; undefined when it has gone meanwhile. */
  async change(id: string, change: Partial<T> | ((record: T) => Partial<T>)): Promise<T | undefined> {
    return this.changes.with(id, async () => {
      const record = this.records.get(id);
      return record && this.put({ ...record, ...(typeof change === 'function' ? change(record) : change) });
    });
  }

  /** The last step of a removal: after it nobody knows the thing, so all else must be gone. */
  async delete(id: string): Promise<void> {
    await this.changes.with(id, async () => {
      await remove(this.path(id));
      this.records.delete(id);
    });
  }

  /**
   * Reads all records; an unreadable file is set aside as FILE.unreadable, and
   * what it spoke of is then an orphan that recovery removes.
   */
  async load(): Promise<void> {
    makeFolder(this.folder);
    for (const file of await readdir(this.folder)) {
      const path = join(this.folder, file);
      if (file.startsWith('.')) {
        await remove(path);
        continue;
      } // a write that a crash cut off
      if (!file.endsWith('.json')) continue;
      try {
        const record = this.schema.parse(JSON.parse(await readFile(path, 'utf8')));
        this.records.set(record.id, record);
      } catch (error) {
        log.error({ err: error, path }, 'unreadable record set aside');
        await rename(path, `${path}.unreadable`);
      }
    }
  }

  private path(id: string): string {
    return join(this.folder, `${id}.json`);
  }
}

export class Store {
  readonly sandboxes: RecordTable<SandboxRecord>;
  readonly containers: RecordTable<ContainerRecord>;

  constructor(stateFolder: string) {
    this.sandboxes = new RecordTable<SandboxRecord>(join(stateFolder, 'sandboxes'), sandboxRecordSchema);
    this.containers = new RecordTable<ContainerRecord>(
      join(stateFolder, 'containers'),
      containerRecordSchema,
    );
  }

  async load(): Promise<void> {
    await this.sandboxes.load();
    await this.containers.load();
  }

  containersOf(sandboxId: string): ContainerRecord[] {
    return this.containers.all().filter((container) => container.sandboxId === sandboxId);
  }
}

// The records: a map in memory, one file per record.
//
// A change is computed, written (tmp, fsync, rename), and only then visible in
// memory: no reader gets a change that a crash could revert.
// Records are frozen values; a change replaces them.
//
// A record that this version cannot read stays as it is, for the version that
// wrote it (docs/adr/0011): its id stays known, calls that name it are
// refused, and its pod or container is not treated as an orphan.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { CrispError } from '../errors.js';
import { makeFolder, namesIn, readFileIfThere, readTextNow, remove, writeFileAtomic } from '../host/files.js';
import { setAside, whyNot, type SetAside } from '../set-aside.js';
import { Locks } from './locks.js';
import { placedContainer, placedSandbox } from './placed.js';
import {
  fromJson,
  idSchema,
  storedContainerSchema,
  storedSandboxSchema,
  type ContainerRecord,
  type SandboxRecord,
} from './records.js';

/** The known fields of a record that cannot be read; a field is set only if it is valid. */
const gist = z.object({
  sandboxId: z.string().optional().catch(undefined),
  imageId: z.string().optional().catch(undefined),
  imageVolumes: z.record(z.string(), z.string()).optional().catch(undefined),
});
type Gist = z.infer<typeof gist>;

/** The records of one kind, in memory and in a folder. */
export class RecordTable<T extends { readonly id: string }> {
  private readonly records = new Map<string, T>();
  private readonly kept = new Map<string, Gist>();
  private readonly changes = new Locks();

  /** @param read a parsed file -> its record; throws if it is invalid */
  constructor(
    private readonly folder: string,
    private readonly kind: SetAside['kind'],
    private readonly read: (value: unknown) => T,
  ) {}

  /** The record of this id; undefined if there is none, or if it cannot be read. */
  get(id: string): T | undefined {
    return this.records.get(id);
  }
  /** All records that can be read, in no particular order. */
  all(): T[] {
    return [...this.records.values()];
  }

  /** Whether there is a record of this id, readable or not. */
  has(id: string): boolean {
    return this.records.has(id) || this.kept.has(id);
  }
  /** The records that cannot be read, by id. */
  unreadable(): ReadonlyMap<string, Gist> {
    return this.kept;
  }
  /** @throws RecordUnreadable for the id of a record that cannot be read */
  checkReadable(id: string): void {
    if (!this.kept.has(id)) return;
    throw new CrispError('RecordUnreadable', `this version of crisp cannot read ${this.path(id)}`);
  }

  /** Writes the record, then makes it visible. */
  async put(record: T): Promise<T> {
    await writeFileAtomic(this.path(record.id), JSON.stringify(record));
    this.records.set(record.id, record);
    return record;
  }

  /**
   * Changes fields of the record of `id`, one change after the other; undefined if it was removed meanwhile.
   */
  async change(id: string, change: Partial<T> | ((record: T) => Partial<T>)): Promise<T | undefined> {
    return this.changes.with(id, async () => {
      const record = this.records.get(id);
      return record && this.put({ ...record, ...(typeof change === 'function' ? change(record) : change) });
    });
  }

  /**
   * The last step of a removal: afterwards the pod or container is unknown, so everything else must be gone.
   */
  async delete(id: string): Promise<void> {
    await this.changes.with(id, async () => {
      await remove(this.path(id));
      this.records.delete(id);
    });
  }

  /** Reads all records. Records that cannot be read are kept unchanged. */
  async load(): Promise<void> {
    makeFolder(this.folder);
    for (const file of await readdir(this.folder)) {
      const path = join(this.folder, file);
      if (file.startsWith('.')) {
        await remove(path);
        continue;
      } // a write that was interrupted by a crash
      // Earlier versions renamed files that they could not read.
      const [, id] = /^(.+)\.json(?:\.unreadable)?$/.exec(file) ?? [];
      if (id === undefined) continue;
      let value: unknown;
      try {
        if (file.endsWith('.unreadable')) throw new Error('an earlier version of crisp could not read it');
        value = fromJson(readTextNow(path));
        if (idSchema.parse((value as { id?: unknown } | null)?.id) !== id)
          throw new Error('its file name does not match its id');
        this.records.set(id, this.read(value));
      } catch (error) {
        this.kept.set(id, gist.catch({}).parse(value));
        setAside.add(this.kind, path, whyNot(error));
      }
    }
  }

  private path(id: string): string {
    return join(this.folder, `${id}.json`);
  }
}

/**
 * The ids of the images that the containers of a state folder use, read from its files: for processes other
 * than the daemon.
 */
export async function imagesOfRecords(stateFolder: string): Promise<string[]> {
  const folder = join(stateFolder, 'containers');
  const files = (await namesIn(folder)).filter((file) => /^[^.].*\.json(\.unreadable)?$/.test(file));
  const gists = files.map(async (file) => {
    const text = await readFileIfThere(join(folder, file)); // the container may be removed meanwhile
    try {
      return gist.catch({}).parse(fromJson(text ?? '{}'));
    } catch {
      return {}; // not JSON: nothing is known
    }
  });
  return (await Promise.all(gists)).flatMap(imagesOf);
}

function imagesOf({ imageId, imageVolumes }: Pick<Gist, 'imageId' | 'imageVolumes'>): string[] {
  return [...(imageId ? [imageId] : []), ...Object.values(imageVolumes ?? {})];
}

/** The records of the daemon. */
export class Store {
  readonly sandboxes: RecordTable<SandboxRecord>;
  readonly containers: RecordTable<ContainerRecord>;

  constructor(stateFolder: string) {
    this.sandboxes = new RecordTable(join(stateFolder, 'sandboxes'), 'pod record', (value) =>
      placedSandbox(storedSandboxSchema.parse(value), stateFolder),
    );
    this.containers = new RecordTable(join(stateFolder, 'containers'), 'container record', (value) => {
      const stored = storedContainerSchema.parse(value);
      return placedContainer(stored, stateFolder, this.sandboxes.get(stored.sandboxId));
    });
  }

  /** Reads all records from disk. To be called once, before any other call. */
  async load(): Promise<void> {
    await this.sandboxes.load(); // first: the log of a container is in the log folder of its pod
    await this.containers.load();
  }

  /** The containers of a pod whose records can be read, including exited ones. */
  containersOf(sandboxId: string): ContainerRecord[] {
    return this.containers.all().filter((container) => container.sandboxId === sandboxId);
  }

  /**
   * To be called before a pod is removed. @throws RecordUnreadable if the record of one of its containers
   * cannot be read
   */
  checkContainersReadable(sandboxId: string): void {
    for (const [id, { sandboxId: its }] of this.containers.unreadable())
      if (its === sandboxId) this.containers.checkReadable(id);
  }

  /** The ids of the images that containers use, including those of unreadable records. */
  usedImages(): string[] {
    return [...this.containers.all(), ...this.containers.unreadable().values()].flatMap(imagesOf);
  }
}

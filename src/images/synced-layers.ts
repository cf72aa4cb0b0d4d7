// The layers of the store that are known to be on the disk.
//
// containers-storage flushes its lists, but not the files of layers: after a power
// loss a layer of the list may have truncated files, and each later pull would use
// it. So a pull flushes the file system before it is answered, and then notes the
// layers here; after a reboot the others are doubtful.  Called by pull.ts and
// store.ts.
import * as z from 'zod';
import { readFileIfThere, writeFileAtomic } from '../host/files.js';
import { bootId } from '../host/proc.js';
import { run } from '../host/run.js';
import { log } from '../log.js';
import { whyNot } from '../set-aside.js';
import type { StorageLayout, StoredLayer } from './layout.js';

/** layers: the id of each, and the time of its creation: a layer that is pulled again has the same id. */
const noteSchema = z.object({ boot: z.string(), layers: z.array(z.string()) });
type Note = z.infer<typeof noteSchema>;

/** The disk may have to write gigabytes of other programs first. */
const flushTimeoutMs = 9 * 60_000;

/** The note of the layers of a store that are flushed. */
export class SyncedLayers {
  /** @param file ROOT/synced-layers.json */
  constructor(
    private readonly file: string,
    private readonly layout: StorageLayout,
  ) {}

  /**
   * Flushes the file system of the store, and notes the layers that are complete now.
   * @param without ids of layers that are about to be removed
   * @throws StorageFailed, ToolTimeout
   */
  async flush(without: ReadonlySet<string> = new Set()): Promise<void> {
    const layers = (await this.complete()).filter(({ id }) => !without.has(id)).map(nameOf);
    await run(['sync', '--file-system', this.layout.root], {
      timeoutMs: flushTimeoutMs,
      stage: 'flush layers',
      errorId: 'StorageFailed',
    });
    await writeFileAtomic(this.file, JSON.stringify({ boot: await bootId(), layers } satisfies Note));
  }

  /**
   * The layers that were written before this boot and not flushed; undefined: there can be none, and the
   * note is of this boot.
   */
  async doubtful(): Promise<readonly StoredLayer[] | undefined> {
    const note = await this.note();
    if (note?.boot === (await bootId())) return undefined;
    if (!note) return []; // the store of a version that made no notes
    const known = new Set(note.layers);
    return (await this.complete()).filter((layer) => !known.has(nameOf(layer)));
  }

  private async complete(): Promise<StoredLayer[]> {
    return [...(await this.layout.readLayers()).values()].filter(({ flags }) => !flags?.incomplete);
  }

  private async note(): Promise<Note | undefined> {
    try {
      const text = await readFileIfThere(this.file);
      return text === undefined ? undefined : noteSchema.parse(JSON.parse(text));
    } catch (error) {
      log.error(
        { file: this.file, reason: whyNot(error) },
        'list of flushed layers not readable: `crisp check --images` finds damaged layers',
      );
      return undefined;
    }
  }
}

function nameOf({ id, created = '' }: StoredLayer): string {
  return `${id} ${created}`;
}

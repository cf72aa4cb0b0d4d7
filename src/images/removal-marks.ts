// Marks images that are being removed, for other processes: the daemon and the
// command line share a store. A removal sets its mark, then reads the records; the
// creation of a container writes its record, then checks for a mark. So at least one
// detects the other. Called by store.ts.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { isAbsent, makeFolder, namesIn, remove, writeFileAtomic } from '../host/files.js';
import { identify, runs } from '../host/proc.js';
import { log } from '../log.js';

/** The removing process; the mark of a process that has ended is ignored. */
const markSchema = z.object({ pid: z.number(), startTime: z.string() });

/** One file for each image that is being removed. */
export class RemovalMarks {
  /** @param folder below the state folder of the daemon */
  constructor(private readonly folder: string) {}

  /** Runs `work` while the mark is set. */
  async while(imageId: string, work: () => Promise<void>): Promise<void> {
    makeFolder(this.folder);
    await writeFileAtomic(this.path(imageId), JSON.stringify(await identify(process.pid)));
    try {
      await work();
    } finally {
      await remove(this.path(imageId));
    }
  }

  /** Removes the marks of processes that were killed. */
  async clean(): Promise<void> {
    for (const name of await namesIn(this.folder)) {
      const path = join(this.folder, name);
      try {
        if (!isHeld(path)) await remove(path);
      } catch (error) {
        log.warn({ err: error, path }, 'mark of the removal of an image not readable');
      }
    }
  }

  /** Whether a process is removing the image. Synchronous: in nearly all cases the file does not exist. */
  has(imageId: string): boolean {
    return isHeld(this.path(imageId));
  }

  private path(imageId: string): string {
    return join(this.folder, imageId.replace(/\W/g, '_'));
  }
}

/** Whether it is the mark of a running process. */
function isHeld(path: string): boolean {
  try {
    return runs(markSchema.parse(JSON.parse(readFileSync(path, 'utf8'))));
  } catch (error) {
    if (isAbsent(error)) return false;
    if (error instanceof SyntaxError || error instanceof z.ZodError) return false;
    throw error;
  }
}

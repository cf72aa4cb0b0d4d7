// Which images are being removed, for other processes: the daemon and the command
// line share a store.  Who removes sets its mark, then reads the records; who makes
// a container writes its record, then looks for a mark.  So one of them sees the
// other.  Called by store.ts.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { isAbsent, makeFolder, remove, writeFileAtomic } from '../host/files.js';
import { identify, runs } from '../host/proc.js';

/** The process that removes; a mark of one that has ended counts for nothing. */
const markSchema = z.object({ pid: z.number(), startTime: z.string() });

export class RemovalMarks {
  /** @param folder below the state folder of the daemon */
  constructor(private readonly folder: string) {}

  /** Does the work with the mark set. */
  async while(imageId: string, work: () => Promise<void>): Promise<void> {
    makeFolder(this.folder);
    await writeFileAtomic(this.path(imageId), JSON.stringify(await identify(process.pid)));
    try {
      await work();
    } finally {
      await remove(this.path(imageId));
    }
  }

  /** Whether a process is removing the image. Synchronous: nearly always there is no such file. */
  has(imageId: string): boolean {
    try {
      return runs(markSchema.parse(JSON.parse(readFileSync(this.path(imageId), 'utf8'))));
    } catch (error) {
      if (isAbsent(error)) return false;
      if (error instanceof SyntaxError || error instanceof z.ZodError) return false;
      throw error;
    }
  }

  private path(imageId: string): string {
    return join(this.folder, imageId.replace(/\W/g, '_'));
  }
}

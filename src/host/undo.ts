// Undo: each step of a creating story pushes its opposite; on failure all of
// them run, newest first.  One failing undo does not keep the others from
// running, and the client's cancellation does not reach them.
import { log } from '../log.js';

export class Undo {
  private readonly steps: { what: string; undo: (clean: boolean) => unknown }[] = [];

  /**
   * Remembers how to take back what was just (or is about to be) made.
   * @param undo is told whether all that came after it has been taken back: a record stays where something has not, or nobody would find that
   */
  push(what: string, undo: (clean: boolean) => unknown): void {
    this.steps.push({ what, undo });
  }

  /** Takes all steps back, newest first.  Never throws: what could not be undone is logged. @returns whether all could */
  async run(clean = true): Promise<boolean> {
    for (const { what, undo } of this.steps.splice(0).reverse()) {
      try {
        await undo(clean);
      } catch (error) {
        clean = false;
        log.error({ err: error, step: what }, 'undo failed');
      }
    }
    return clean;
  }
}

/** Runs a story; if it fails, all its steps are undone before the error goes on. */
export async function withUndo<T>(story: (undo: Undo) => Promise<T>): Promise<T> {
  const undo = new Undo();
  try {
    return await story(undo);
  } catch (error) {
    if (!(await undo.run(!unclean.has(error as Error)))) unclean.add(error as Error);
    throw error;
  }
}

/** The errors of stories that are not wholly undone, for the stories that they are a part of. */
const unclean = new WeakSet<Error>();

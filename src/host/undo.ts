// Undo: each step of a creating story pushes its opposite; on failure all of
// them run, newest first.  One failing undo does not keep the others from
// running, and the client's cancellation does not reach them.
import { log } from '../log.js';

export class Undo {
  private readonly steps: { what: string; undo: () => unknown }[] = [];

  /** Remembers how to take back what was just (or is about to be) made. */
  push(what: string, undo: () => unknown): void {
    this.steps.push({ what, undo });
  }

  /** Takes all steps back, newest first.  Never throws: what could not be undone is logged, and recovery sees it at the next start. */
  async run(): Promise<void> {
    for (const { what, undo } of this.steps.splice(0).reverse()) {
      try {
        await undo();
      } catch (error) {
        log.error({ err: error, step: what }, 'undo failed');
      }
    }
  }
}

/** Runs a story; if it fails, all its steps are undone before the error goes on. */
export async function withUndo<T>(story: (undo: Undo) => Promise<T>): Promise<T> {
  const undo = new Undo();
  try {
    return await story(undo);
  } catch (error) {
    await undo.run();
    throw error;
  }
}

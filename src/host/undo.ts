// Undo: each step of a creation pushes its opposite; on failure all of them
// run, newest first. A failing undo does not stop the others, and a
// cancellation by the client does not affect them.
import { log } from '../log.js';
import { Story } from '../steps.js';

/** The steps of one operation; see withUndo(). */
export class Undo {
  private readonly steps: { what: string; undo: (clean: boolean) => unknown }[] = [];
  private readonly story = new Story();

  /** @param name of the operation, for the names of its steps */
  constructor(private readonly name: string) {}

  /**
   * Registers how to undo a step that was just (or is about to be) done.
   * @param undo gets whether all later steps have been undone: otherwise the record is kept, so that the
   * leftovers can be found
   */
  push(what: string, undo: (clean: boolean) => unknown): void {
    this.steps.push({ what, undo });
    this.story.reaches(`${this.name}: ${what}`);
  }

  /**
   * Undoes all steps, newest first. Never throws: failures are logged. @returns whether all steps were undone
   */
  async run(clean = true): Promise<boolean> {
    for (const { what, undo } of this.steps.splice(0).reverse()) {
      try {
        this.story.reaches(`${this.name}: undo ${what}`);
        await undo(clean);
      } catch (error) {
        clean = false;
        log.error({ err: error, step: what }, 'undo failed');
      }
    }
    return clean;
  }

  /** Everything is made; only the answer is missing. */
  done(): void {
    this.story.reaches(`${this.name}: done`);
  }

  /** The operation has ended, successfully or not. */
  end(): void {
    this.story.ends();
  }
}

/** Runs the operation; if it fails, all its steps are undone before the error is thrown. */
export async function withUndo<T>(name: string, story: (undo: Undo) => Promise<T>): Promise<T> {
  const undo = new Undo(name);
  try {
    const result = await story(undo);
    undo.done();
    return result;
  } catch (error) {
    if (!(await undo.run(!unclean.has(error as Error)))) unclean.add(error as Error);
    throw error;
  } finally {
    undo.end();
  }
}

/** The errors of operations that could not be undone completely, for the operations that contain them. */
const unclean = new WeakSet<Error>();

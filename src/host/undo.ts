// Undo: each step of a creating story pushes its opposite; on failure all of
// them run, newest first.  One failing undo does not keep the others from
// running, and the client's cancellation does not reach them.
import { log } from '../log.js';
import { Story } from '../steps.js';

export class Undo {
  private readonly steps: { what: string; undo: (clean: boolean) => unknown }[] = [];
  private readonly story = new Story();

  /** @param name of the story, for the names of its steps */
  constructor(private readonly name: string) {}

  /**
   * Remembers how to take back what was just (or is about to be) made.
   * @param undo is told whether all that came after it has been taken back: a record stays where something has not, or nobody would find that
   */
  push(what: string, undo: (clean: boolean) => unknown): void {
    this.steps.push({ what, undo });
    this.story.reaches(`${this.name}: ${what}`);
  }

  /** Takes all steps back, newest first.  Never throws: what could not be undone is logged. @returns whether all could */
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

  /** All is made; what is left is to tell. */
  done(): void {
    this.story.reaches(`${this.name}: done`);
  }

  /** The story is over, well or not. */
  end(): void {
    this.story.ends();
  }
}

/** Runs the story of this name; if it fails, all its steps are undone before the error goes on. */
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

/** The errors of stories that are not wholly undone, for the stories that they are a part of. */
const unclean = new WeakSet<Error>();

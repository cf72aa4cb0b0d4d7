// One queue per id: whoever changes a sandbox or a container does it alone.
// Order: the sandbox before its container.  Reads, execs and streams take none.

export class Locks {
  private readonly tails = new Map<string, Promise<unknown>>();

  /** Runs `work` after all earlier work on `id` has ended, well or not. */
  async with<T>(id: string, work: () => Promise<T>): Promise<T> {
    const before = this.tails.get(id) ?? Promise.resolve();
    const mine = before.then(work, work);
    const tail = mine.catch(() => undefined);
    this.tails.set(id, tail);
    try {
      return await mine;
    } finally {
      if (this.tails.get(id) === tail) this.tails.delete(id);
    }
  }
}

// One queue per id: only one operation at a time changes a sandbox or a
// container. Order: the sandbox before its container. Reads, execs and streams
// take no lock.

export class Locks {
  private readonly tails = new Map<string, Promise<unknown>>();

  /** Runs `work` after all earlier work on `id` has ended, successfully or not. */
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

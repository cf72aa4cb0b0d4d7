// One queue per id: only one operation at a time changes a sandbox or a
// container. Order: the sandbox before its container. Reads, execs and streams
// take no lock.

interface Queue {
  tail: Promise<unknown>;
  /** The number of operations, including the running one. */
  length: number;
  /** When the running operation began. */
  since: number;
}

/** A queue of operations for each id. */
export class Locks {
  private readonly queues = new Map<string, Queue>();

  /** Runs `work` after all earlier work on `id` has ended, successfully or not. */
  async with<T>(id: string, work: () => Promise<T>): Promise<T> {
    const queue = this.queues.get(id) ?? { tail: Promise.resolve(), length: 0, since: 0 };
    this.queues.set(id, queue);
    queue.length++;
    const begin = (): Promise<T> => {
      queue.since = performance.now();
      return work();
    };
    const mine = queue.tail.then(begin);
    queue.tail = mine.catch(() => undefined);
    try {
      return await mine;
    } finally {
      if (--queue.length === 0) this.queues.delete(id);
    }
  }

  /** The locks that are held: for how long, and how many wait for each. */
  held(): { readonly id: string; readonly seconds: number; readonly waiting: number }[] {
    return [...this.queues].map(([id, { since, length }]) => ({
      id,
      seconds: Math.round((performance.now() - since) / 100) / 10,
      waiting: length - 1,
    }));
  }
}

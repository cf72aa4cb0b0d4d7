// Starts and stops of containers in progress, and the calls that wait for exits.
// Kept in memory: after a restart nothing is in progress. Called by cri/.

/** Starts and stops in progress, and waiters for exits. */
export class Stops {
  private readonly starts = new Map<string, Promise<void>>();
  private readonly stops = new Map<
    string,
    { readonly done: Promise<void>; shorten(deadlineMs: number): void }
  >();
  private readonly waiters = new Map<string, Set<() => void>>();

  /**
   * Runs a start. The container's exit is recorded after it: a process may end before its runtime reports the
   * start.
   */
  async whileStarting(id: string, start: () => Promise<void>): Promise<void> {
    const done = start().finally(() => this.starts.delete(id));
    this.starts.set(id, done);
    return done;
  }

  /** Whether a stop of the container is in progress. */
  isStopping(id: string): boolean {
    return this.stops.has(id);
  }
  /** Resolves when no start of the container is in progress. */
  async started(id: string): Promise<void> {
    while (this.starts.has(id)) await this.starts.get(id)?.catch(() => undefined);
  }

  /** Runs one stop per container; later calls join it, and can only bring its deadline forward. */
  async join(id: string, timeoutMs: number, begin: (deadline: Deadline) => Promise<void>): Promise<void> {
    const present = this.stops.get(id);
    if (present) {
      present.shorten(timeoutMs);
      return present.done;
    }
    const deadline = new Deadline(timeoutMs);
    const done = begin(deadline).finally(() => {
      this.stops.delete(id);
      deadline.clear();
    });
    this.stops.set(id, { done, shorten: (ms) => deadline.shorten(ms) });
    return done;
  }

  /** The ids of containers that are being started or stopped, and of containers whose exit is awaited. */
  underWay(): Readonly<Record<'starting' | 'stopping' | 'awaited', readonly string[]>> {
    const [starting, stopping, awaited] = [this.starts, this.stops, this.waiters].map((map) => [
      ...map.keys(),
    ]);
    return { starting: starting ?? [], stopping: stopping ?? [], awaited: awaited ?? [] };
  }

  /** Resolves at the exit of a container. */
  exitOf(id: string): { readonly seen: Promise<void>; forget(): void } {
    const waiters = this.waiters.get(id) ?? new Set();
    this.waiters.set(id, waiters);
    let wake: () => void = () => undefined;
    const seen = new Promise<void>((resolve) => {
      wake = resolve;
      waiters.add(wake);
    });
    return {
      seen,
      forget: () => {
        waiters.delete(wake);
        if (waiters.size === 0) this.waiters.delete(id);
      },
    };
  }

  /** Wakes the calls that wait for the exit of a container. */
  exited(id: string): void {
    for (const wake of this.waiters.get(id) ?? []) wake();
  }
}

/** A point in time that can be brought forward while it is awaited. */
export class Deadline {
  readonly passed: Promise<void>;
  private end: () => void = () => undefined;
  /** By the monotonic clock. */
  private atMs = Infinity;
  private timer: NodeJS.Timeout | undefined;

  constructor(timeoutMs: number) {
    this.passed = new Promise((resolve) => {
      this.end = resolve;
    });
    this.shorten(timeoutMs);
  }

  /** Moves the deadline to `timeoutMs` from now, if that is earlier. */
  shorten(timeoutMs: number): void {
    const atMs = performance.now() + timeoutMs;
    if (atMs >= this.atMs) return;
    this.atMs = atMs;
    clearTimeout(this.timer);
    this.timer = setTimeout(this.end, Math.min(timeoutMs, 2 ** 31 - 1)); // setTimeout's range
  }

  /** Stops the timer; `passed` then never resolves. */
  clear(): void {
    clearTimeout(this.timer);
  }
}

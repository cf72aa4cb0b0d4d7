// Creations in flight, by the name of the pod or container.
//
// The kubelet repeats RunPodSandbox and CreateContainer after its deadline with
// the same request: the retry joins the creation in flight. A creation that is
// finished without a waiting caller is "unclaimed": it is kept for a retry for a
// while, and is then removed.
//
// A pod or container is hidden from all clients until a caller has its id: a
// kubelet that saw it in a list would count it as an attempt and make another one.
import { isDeepStrictEqual } from 'node:util';
import { CrispError } from '../errors.js';
import { unlessAborted } from '../host/wait.js';
import { log } from '../log.js';
import { newId } from './records.js';

interface Creation {
  readonly request: unknown;
  readonly made: Promise<string>;
  readonly unclaimed: Unclaimed;
  waiting: number;
  /** The id of the pod or container. */
  result?: string;
  /** A caller has the result, or it is kept for a retry. */
  settled?: boolean;
}

/** How to handle an unclaimed creation. */
export interface Unclaimed {
  /** Called at once: stores that it is unclaimed, so that it stays hidden after a restart of the daemon. */
  keep(id: string): Promise<unknown>;
  /**
   * Called when the retry did not come in time. It must check expired() first, under the lock of the object:
   * a retry may have come since.
   */
  discard(id: string): Promise<unknown>;
  /** Whether a failed creation has left its record, because it could not be undone. */
  remains(id: string): boolean;
}

/** Pause between two attempts of a removal. */
const leastRetryMs = 1_000;

/** `expired`: it is about to be removed. */
interface Hidden {
  timer?: NodeJS.Timeout;
  expired?: boolean;
}

/** The creations in flight, and the unclaimed ones. */
export class InFlight {
  private readonly creations = new Map<string, Creation>();
  private readonly hidden = new Map<string, Hidden>();

  /** @param keepMs how long an unclaimed creation is kept for its retry */
  constructor(private readonly keepMs: number) {}

  /**
   * Runs `make` for the first caller and joins the others to it.
   * @param make gets the id to use; it returns another id if the object exists already
   * @returns the id of the pod or container; the caller must claim() it
   * @throws NameInUse if another request with the same name is in flight; Cancelled if the caller disconnects
   */
  async join(
    key: string,
    request: unknown,
    signal: AbortSignal,
    make: (id: string) => Promise<string>,
    unclaimed: Unclaimed,
  ): Promise<string> {
    let creation = this.creations.get(key);
    if (creation && !isDeepStrictEqual(creation.request, request)) {
      throw new CrispError('NameInUse', `${key} is being made from another request`);
    }
    creation ??= this.begin(key, request, make, unclaimed);
    creation.waiting++;
    try {
      const id = await unlessAborted(creation.made, signal, 'the caller disconnected while this was made');
      creation.settled = true;
      return id;
    } finally {
      creation.waiting--;
      this.settle(creation);
    }
  }

  private begin(
    key: string,
    request: unknown,
    make: (id: string) => Promise<string>,
    unclaimed: Unclaimed,
  ): Creation {
    const id = newId();
    this.hidden.set(id, {});
    const made = make(id);
    const creation: Creation = { request, made, unclaimed, waiting: 0 };
    this.creations.set(key, creation);
    made
      .then(
        (result) => {
          if (result !== id) this.hidden.delete(id);
          creation.result = result;
          this.settle(creation);
        },
        () => {
          // The cause may be temporary: the removal is retried, even without a retry of the caller.
          if (unclaimed.remains(id)) this.keep(id, unclaimed);
          else this.hidden.delete(id);
        },
      )
      .finally(() => this.creations.delete(key));
    return creation;
  }

  /** Keeps the result for a retry, if the last caller has disconnected without it. */
  private settle(creation: Creation): void {
    const { result: id, unclaimed } = creation;
    if (id === undefined || creation.waiting > 0 || creation.settled) return;
    creation.settled = true;
    if (!this.hides(id)) return; // it existed already, and a caller has its id
    log.warn({ id, keptMs: this.keepMs }, 'the caller disconnected while this was made; kept for its retry');
    this.keep(id, unclaimed);
    unclaimed
      .keep(id)
      .catch((error: unknown) => log.error({ err: error, id }, 'unclaimed creation not noted'));
  }

  /**
   * Hides an unclaimed object and removes it if its retry does not come in time; also for objects of an
   * earlier run. A failed removal is retried later.
   */
  keep(id: string, unclaimed: Pick<Unclaimed, 'discard'>, afterMs = this.keepMs): void {
    this.hold(id);
    const entry: Hidden = {};
    entry.timer = setTimeout(() => {
      entry.expired = true;
      log.warn({ id }, 'no retry came for this; removing it');
      const isOurs = (): boolean => this.hidden.get(id) === entry && entry.expired === true;
      unclaimed.discard(id).then(
        () => {
          if (isOurs()) this.hidden.delete(id);
        },
        (error: unknown) => {
          log.error({ err: error, id }, 'unclaimed creation not removed');
          if (isOurs()) this.keep(id, unclaimed, Math.max(this.keepMs, leastRetryMs));
        },
      );
    }, afterMs);
    entry.timer.unref();
    this.hidden.set(id, entry);
  }

  /** The creations in progress, and the number of callers that wait for each. */
  underWay(): { readonly what: string; readonly callers: number }[] {
    return [...this.creations].map(([what, { waiting }]) => ({ what, callers: waiting }));
  }

  /** The number of pods and containers whose id no caller has yet. */
  get hiddenCount(): number {
    return this.hidden.size;
  }

  /** Whether no caller has this id yet: it is hidden. */
  hides(id: string): boolean {
    return this.hidden.has(id);
  }

  /** Whether an unclaimed object waits for its removal. */
  expired(id: string): boolean {
    return this.hidden.get(id)?.expired ?? false;
  }

  /**
   * The retry of an unclaimed object has come: it is not removed automatically any more, but hidden until it
   * is claimed.
   */
  hold(id: string): void {
    const entry = this.hidden.get(id);
    if (!entry) return;
    clearTimeout(entry.timer);
    entry.expired = false;
  }

  /** A caller gets this id: from now on it is visible. @returns whether it was hidden until now */
  claim(id: string): boolean {
    this.hold(id);
    return this.hidden.delete(id);
  }
}

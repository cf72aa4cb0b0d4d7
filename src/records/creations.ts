// Creations in flight, by the name of what they make.
//
// The kubelet repeats RunPodSandbox and CreateContainer after its deadline with
// the very same request: the repetition joins the one that is being made.  What
// is finished when nobody waits for it any more is "unclaimed": it stays for the
// retry for a while, and is then removed.
//
// Until a caller has its id, a pod or container is hidden from all clients: a
// kubelet that saw it in a list would count it as an attempt and make another one.
import { isDeepStrictEqual } from 'node:util';
import { CrispError } from '../errors.js';
import { log } from '../log.js';
import { newId } from './records.js';

interface Creation {
  readonly request: unknown;
  readonly made: Promise<string>;
  readonly unclaimed: Unclaimed;
  waiting: number;
  /** The id of what was made. */
  result?: string;
  /** A caller has the result, or it is kept for a retry. */
  settled?: boolean;
}

/** What becomes of a finished creation that nobody waits for. */
export interface Unclaimed {
  /** Called at once: notes it, so that a restart of the daemon does not show it. */
  keep(id: string): Promise<unknown>;
  /** Called when the retry did not come in time. Under the lock of the object it must ask expired() first: a retry may have come since. */
  discard(id: string): Promise<unknown>;
  /** Whether a creation that failed has left its record, because it could not be taken back. */
  remains(id: string): boolean;
}

/** Between two tries of a removal. */
const leastRetryMs = 1_000;

/** `expired`: its time has passed, it is about to be removed. */
interface Hidden {
  timer?: NodeJS.Timeout;
  expired?: boolean;
}

export class InFlight {
  private readonly creations = new Map<string, Creation>();
  private readonly hidden = new Map<string, Hidden>();

  /** @param keepMs how long an unclaimed creation waits for its retry */
  constructor(private readonly keepMs: number) {}

  /**
   * Runs `make` for the first caller and joins the others to it.
   * @param make is given the id to use; it answers with another one where the object exists already
   * @returns the id of what was made; the caller must claim() it
   * @throws NameInUse when another request under the same name is in flight; Cancelled when the caller goes away
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
      const id = await Promise.race([creation.made, aborted(signal)]);
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
          // The fault may go away: the removal is tried again, also where no retry of the caller comes.
          if (unclaimed.remains(id)) this.keep(id, unclaimed);
          else this.hidden.delete(id);
        },
      )
      .finally(() => this.creations.delete(key));
    return creation;
  }

  /** Keeps what was made for a retry, where its last caller has gone without it. */
  private settle(creation: Creation): void {
    const { result: id, unclaimed } = creation;
    if (id === undefined || creation.waiting > 0 || creation.settled) return;
    creation.settled = true;
    if (!this.hides(id)) return; // one that was there already, and that somebody has
    log.warn({ id, keptMs: this.keepMs }, 'the caller went away while this was made; kept for its retry');
    this.keep(id, unclaimed);
    unclaimed
      .keep(id)
      .catch((error: unknown) => log.error({ err: error, id }, 'unclaimed creation not noted'));
  }

  /**
   * Hides an unclaimed object and removes it when its retry does not come in time; also for one of an earlier
   * run. A removal that fails is tried again later.
   */
  keep(id: string, unclaimed: Pick<Unclaimed, 'discard'>, afterMs = this.keepMs): void {
    this.hold(id);
    const entry: Hidden = {};
    entry.timer = setTimeout(() => {
      entry.expired = true;
      log.warn({ id }, 'nobody came back for this; removing it');
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

  /** What is being made, and how many callers wait for each. */
  underWay(): { readonly what: string; readonly callers: number }[] {
    return [...this.creations].map(([what, { waiting }]) => ({ what, callers: waiting }));
  }

  /** How many pods and containers no caller has the id of. */
  get hiddenCount(): number {
    return this.hidden.size;
  }

  /** Whether no caller has this id yet: it is not shown to anybody. */
  hides(id: string): boolean {
    return this.hidden.has(id);
  }

  /** Whether an unclaimed object waits for its removal. */
  expired(id: string): boolean {
    return this.hidden.get(id)?.expired ?? false;
  }

  /** The retry of an unclaimed object has come: it is not removed by itself any more, and still hidden until somebody claims it. */
  hold(id: string): void {
    const entry = this.hidden.get(id);
    if (!entry) return;
    clearTimeout(entry.timer);
    entry.expired = false;
  }

  /** A caller gets this id: from now on it is shown. @returns whether it was hidden until now */
  claim(id: string): boolean {
    this.hold(id);
    return this.hidden.delete(id);
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const fail = (): void => reject(new CrispError('Cancelled', 'the caller went away while this was made'));
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
  });
}

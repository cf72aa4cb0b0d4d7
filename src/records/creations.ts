// Creations in flight, by the name of what they make.
//
// The kubelet repeats RunPodSandbox and CreateContainer after its deadline with
// the very same request: the repetition joins the one that is being made.  What
// is finished when nobody waits for it any more is "unclaimed": it stays for the
// retry for a while, and is then removed.
import { isDeepStrictEqual } from 'node:util';
import { CrispError } from '../errors.js';
import { log } from '../log.js';

interface Creation {
  readonly request: unknown;
  readonly made: Promise<string>;
  waiting: number;
}

export class InFlight {
  private readonly creations = new Map<string, Creation>();
  private readonly unclaimed = new Map<string, NodeJS.Timeout>();

  constructor(private readonly keepMs: number) {}

  /**
   * Runs `make` for the first caller and joins the others to it.
   * @param discard removes what was made when nobody came back for it
   * @returns the id of what was made
   * @throws NameInUse when another request under the same name is in flight; Cancelled when the caller goes away
   */
  async join(
    key: string,
    request: unknown,
    signal: AbortSignal,
    make: () => Promise<string>,
    discard: (id: string) => Promise<unknown>,
  ): Promise<string> {
    let creation = this.creations.get(key);
    if (creation && !isDeepStrictEqual(creation.request, request)) {
      throw new CrispError('NameInUse', `${key} is being made from another request`);
    }
    creation ??= this.begin(key, request, make, discard);
    creation.waiting++;
    try {
      return await Promise.race([creation.made, aborted(signal)]);
    } finally {
      creation.waiting--;
    }
  }

  private begin(
    key: string,
    request: unknown,
    make: () => Promise<string>,
    discard: (id: string) => Promise<unknown>,
  ): Creation {
    const made = make();
    const creation: Creation = { request, made, waiting: 0 };
    this.creations.set(key, creation);
    made
      .then(
        (id) => {
          if (creation.waiting === 0) this.keepUnclaimed(id, discard);
        },
        () => undefined,
      )
      .finally(() => this.creations.delete(key));
    return creation;
  }

  private keepUnclaimed(id: string, discard: (id: string) => Promise<unknown>): void {
    log.warn({ id, keptMs: this.keepMs }, 'the caller went away while this was made; kept for its retry');
    const timer = setTimeout(() => {
      this.unclaimed.delete(id);
      log.warn({ id }, 'nobody came back for this; removing it');
      discard(id).catch((error: unknown) => log.error({ err: error, id }, 'unclaimed creation not removed'));
    }, this.keepMs);
    timer.unref();
    this.unclaimed.set(id, timer);
  }

  /** Somebody knows this id: it is not removed by itself any more. */
  claim(id: string): void {
    clearTimeout(this.unclaimed.get(id));
    this.unclaimed.delete(id);
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const fail = (): void => reject(new CrispError('Cancelled', 'the caller went away while this was made'));
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
  });
}

// The steps of operations in progress. Their names are in the debug log; the
// watchdog uses them to report steps that do not end, the state dump shows
// them, and the tests kill the daemon between them.
import { readFileSync } from 'node:fs';
import { log, logContext, type LogContext } from './log.js';

export interface StepOptions {
  /** It has a limit of its own, or none: waits for a registry are watched elsewhere. */
  readonly hasOwnLimit?: boolean;
}

interface UnderWay {
  name: string;
  since: number;
  hasOwnLimit: boolean;
  readonly context: LogContext | undefined;
}
const underWay = new Set<UnderWay>();

/** Longer than the timeouts of all programs of a step together. */
const limitMs = 10 * 60_000;

/** Runs `work` as a step of this name, "OPERATION: STEP". */
export async function step<T>(
  name: string,
  work: () => Promise<T> | T,
  options: StepOptions = {},
): Promise<T> {
  const story = new Story(options);
  try {
    story.reaches(name);
    return await work();
  } finally {
    story.ends();
  }
}

/** An operation with several steps. */
export class Story {
  private readonly present: UnderWay;
  constructor({ hasOwnLimit = false }: StepOptions = {}) {
    this.present = { name: '', since: performance.now(), hasOwnLimit, context: logContext() };
  }

  /** Its next step begins. */
  reaches(name: string): void {
    Object.assign(this.present, { name, since: performance.now() });
    underWay.add(this.present);
    log.debug({ step: name }, 'step');
    dieHere(name);
  }
  ends(): void {
    underWay.delete(this.present);
  }
}

export interface StepUnderWay extends LogContext {
  readonly step: string;
  readonly seconds: number;
  /** It exceeds the time limit of a step. */
  readonly isOverdue: boolean;
}

/** All steps in progress, the oldest first. */
export function stepsUnderWay(): StepUnderWay[] {
  const now = performance.now();
  return [...underWay]
    .sort((one, other) => one.since - other.since)
    .map(({ name, since, hasOwnLimit, context }) => ({
      step: name,
      seconds: Math.round((now - since) / 100) / 10,
      isOverdue: !hasOwnLimit && now - since > limitMs,
      ...context,
    }));
}

/** Set by tests: the daemon kills itself at the step named in the file. */
const failpoint = process.env['CRISP_FAILPOINT'];

function dieHere(name: string): void {
  if (failpoint === undefined) return;
  if (readFileSync(failpoint, 'utf8') === name) process.kill(process.pid, 'SIGKILL');
}

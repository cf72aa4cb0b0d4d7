// The steps of operations in progress. Their names are in the debug log; the
// watchdog uses them to report steps that do not end, the state dump shows
// them, and the tests kill the daemon between them.
import { readFileSync } from 'node:fs';
import { log, logContext, type LogContext } from './log.js';
import { metrics } from './metrics.js';

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
export const limitMs = 10 * 60_000;

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
  private overdue: NodeJS.Timeout | undefined;
  constructor({ hasOwnLimit = false }: StepOptions = {}) {
    this.present = { name: '', since: performance.now(), hasOwnLimit, context: logContext() };
  }

  /** Begins its next step. */
  reaches(name: string): void {
    Object.assign(this.present, { name, since: performance.now() });
    underWay.add(this.present);
    clearTimeout(this.overdue);
    if (!this.present.hasOwnLimit) {
      const minutes = limitMs / 60_000;
      this.overdue = setTimeout(() => log.error({ step: name, minutes }, 'a step does not end'), limitMs);
      this.overdue.unref();
    }
    log.debug({ step: name }, 'step');
    dieHere(name);
  }
  ends(): void {
    clearTimeout(this.overdue);
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

/** The steps that exceed the limit. */
export function overdueSteps(): StepUnderWay[] {
  return stepsUnderWay().filter(({ isOverdue }) => isOverdue);
}
metrics.stepsOverdue.collect(() => [{ labels: {}, value: overdueSteps().length }]);
metrics.stepOverdueSeconds.collect(() =>
  overdueSteps().map(({ step: name, podId = '', containerId = '', requestId = '', seconds }) => ({
    labels: { step: name, pod: podId, container: containerId, request: requestId },
    value: seconds,
  })),
);

/** Set by tests: the daemon kills itself at the step named in the file. */
const failpoint = process.env['CRISP_FAILPOINT'];

function dieHere(name: string): void {
  if (failpoint === undefined) return;
  if (readFileSync(failpoint, 'utf8') === name) process.kill(process.pid, 'SIGKILL');
}

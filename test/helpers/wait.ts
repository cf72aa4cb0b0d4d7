// Waiting in tests for a condition that becomes true after a moment.
import { setTimeout as sleep } from 'node:timers/promises';
import { patience } from './patience.js';

/**
 * Waits until something is so, also while setTimeout() is faked.
 * @param what for the failure @throws after 15 s, times the patience of the machine
 */
export async function until(is: () => boolean | Promise<boolean>, what = is.toString()): Promise<void> {
  const withinMs = 15_000 * patience; // less than jest gives a unit test, so that this error is what is seen
  if (!(await poll(is, 10, withinMs))) throw new Error(`not within ${withinMs} ms: ${what}`);
}

/** Tries until it does not throw. @throws what it throws after 10 s, times the patience of the machine */
export async function eventually(check: () => void | Promise<void>): Promise<void> {
  let failure: unknown;
  const passes = async (): Promise<boolean> => {
    try {
      await check();
      return true;
    } catch (error) {
      failure = error;
      return false;
    }
  };
  if (!(await poll(passes, 50, 10_000 * patience))) throw failure;
}

/** Not by waitUntil(), whose pauses stand still when timers are faked. */
async function poll(
  is: () => boolean | Promise<boolean>,
  everyMs: number,
  withinMs: number,
): Promise<boolean> {
  for (const deadline = performance.now() + withinMs; !(await is()); await sleep(everyMs))
    if (performance.now() >= deadline) return false;
  return true;
}

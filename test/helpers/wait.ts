// Waiting in tests for a condition that becomes true after a moment.
import { waitUntil } from '../../src/host/wait.js';
import { patience } from './patience.js';

/** Waits until something is so. @throws after 30 s, times the patience of the machine */
export async function until(is: () => boolean | Promise<boolean>): Promise<void> {
  const withinMs = 30_000 * patience;
  if (!(await waitUntil(is, { everyMs: 20, withinMs })))
    throw new Error(`not within ${withinMs} ms: ${is.toString()}`);
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
  if (!(await waitUntil(passes, { everyMs: 50, withinMs: 10_000 * patience }))) throw failure;
}

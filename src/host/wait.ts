// Waiting, with a limit: for a promise, or for what has to be asked for again and again.
import { CrispError } from '../errors.js';

/** Resolves after this many milliseconds; does not keep the process running. */
export function after(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}

/** Whether `wanted` settles before `other`. */
export async function first(wanted: Promise<void>, other: Promise<void>): Promise<boolean> {
  return Promise.race([wanted.then(() => true), other.then(() => false)]);
}

/** Whether some work is done within this many milliseconds; it goes on if not. @throws what the work throws in that time */
export async function within(work: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(resolve, ms, false);
  });
  return Promise.race([work.then(() => true), late]).finally(() => clearTimeout(timer));
}

/**
 * Asks again and again, until the answer is neither false nor undefined.
 * @param everyMs the pause between two questions
 * @param withinMs no pause begins later than this; absent: without a limit, and the pauses keep no process alive
 * @returns that answer; undefined: it did not come in time
 * @throws what `ask` throws
 */
export async function waitUntil<T>(
  ask: () => T | Promise<T>,
  { everyMs, withinMs = Infinity }: { readonly everyMs: number; readonly withinMs?: number },
): Promise<Exclude<T, false | undefined> | undefined> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    const answer = await ask();
    if (answer !== false && answer !== undefined) return answer as Exclude<T, false | undefined>;
    if (performance.now() >= deadline) return undefined;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, everyMs);
      if (withinMs === Infinity) timer.unref();
    });
  }
}

/**
 * The outcome of some work, unless the caller goes away before; the work then goes on.
 * @throws Cancelled with this message, and what the work throws
 */
export async function unlessAborted<T>(
  work: Promise<T>,
  signal: AbortSignal | undefined,
  message: string,
): Promise<T> {
  if (!signal) return work;
  let fail = (): void => undefined;
  const gone = new Promise<never>((_, reject) => {
    fail = () => reject(new CrispError('Cancelled', message));
  });
  if (signal.aborted) fail();
  else signal.addEventListener('abort', fail, { once: true });
  return Promise.race([work, gone]).finally(() => signal.removeEventListener('abort', fail));
}

// Waits with a time limit: for a promise, or by polling.
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

/**
 * Whether `work` resolves within this many milliseconds; otherwise it continues.
 * @throws the errors of `work` in that time
 */
export async function within(work: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(resolve, ms, false);
  });
  return Promise.race([work.then(() => true), late]).finally(() => clearTimeout(timer));
}

/**
 * Polls until the result of `ask` is neither false nor undefined.
 * @param everyMs the pause between two calls of `ask`
 * @param withinMs no pause begins later than this; absent: no limit, and the pauses do not keep the process
 * running
 * @returns that result; undefined: the time is over
 * @throws the errors of `ask`
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
 * The result of `work`, unless `signal` aborts first; the work then continues.
 * @throws Cancelled with this message, and the errors of `work`
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

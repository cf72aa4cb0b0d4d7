import { describe, expect, jest, test } from '@jest/globals';
import { setImmediate } from 'node:timers/promises';
import { unlessAborted, waitUntil, within } from './wait.js';

const never = new Promise<never>(() => undefined);

describe('waitUntil()', () => {
  test('calls the question until there is an answer, and returns it', async () => {
    const answers = [undefined, false, 0] as const;
    let asked = 0;
    expect(await waitUntil(() => Promise.resolve(answers[asked++]), { everyMs: 1, withinMs: 60_000 })).toBe(
      0,
    );
    expect(asked).toBe(3);
  });

  test('calls it at least once, and returns undefined if there is no answer in time', async () => {
    let asked = 0;
    expect(await waitUntil(() => asked++ < 0, { everyMs: 1, withinMs: 0 })).toBeUndefined();
    expect(asked).toBe(1);
  });

  test('without a limit does not keep the program running', async () => {
    const pauses = jest.spyOn(globalThis, 'setTimeout');
    try {
      let asked = 0;
      expect(await waitUntil(() => asked++ > 0, { everyMs: 1 })).toBe(true);
      expect(pauses.mock.results.map(({ value }) => (value as NodeJS.Timeout).hasRef())).toEqual([false]);
    } finally {
      pauses.mockRestore();
    }
  });

  test('fails if the question fails', async () => {
    await expect(waitUntil(() => Promise.reject(new Error('no answer')), { everyMs: 1 })).rejects.toThrow(
      'no answer',
    );
  });
});

describe('within()', () => {
  test('returns whether the work was done in time', async () => {
    expect(await within(Promise.resolve('done'), 60_000)).toBe(true);
    expect(await within(never, 1)).toBe(false);
  });

  test('fails if the work fails', async () => {
    await expect(within(Promise.reject(new Error('broken')), 60_000)).rejects.toThrow('broken');
  });

  test('a failure after the time is ignored', async () => {
    let fail = (_error: Error): void => undefined;
    const work = new Promise<never>((_, reject) => {
      fail = reject;
    });
    expect(await within(work, 1)).toBe(false);
    fail(new Error('late'));
    await setImmediate(); // an unhandled rejection would end this test file
  });
});

describe('unlessAborted()', () => {
  test('returns the result of the work, and releases the signal', async () => {
    const { signal } = new AbortController();
    let listeners = 0;
    signal.addEventListener = () => void listeners++;
    signal.removeEventListener = () => void listeners--;
    expect(await unlessAborted(Promise.resolve(5), signal, 'gone')).toBe(5);
    expect(listeners).toBe(0);
    expect(await unlessAborted(Promise.resolve(5), undefined, 'gone')).toBe(5);
  });

  test.each(['before', 'while'])('is cancelled if the caller disconnects %s it waits', async (when) => {
    const caller = new AbortController();
    if (when === 'before') caller.abort();
    const waiting = unlessAborted(never, caller.signal, 'the caller went away');
    caller.abort();
    await expect(waiting).rejects.toMatchObject({ id: 'Cancelled', message: 'the caller went away' });
  });
});

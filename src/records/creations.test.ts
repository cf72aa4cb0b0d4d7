import { describe, expect, jest, test } from '@jest/globals';
import { InFlight } from './creations.js';

const keepMs = 20;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function setUp() {
  const inFlight = new InFlight(keepMs);
  const keep = jest.fn((_id: string) => Promise.resolve());
  const discard = jest.fn((_id: string) => Promise.resolve());
  const remains = jest.fn((_id: string) => false);
  let finish: () => void = () => undefined;
  let fail: (error: Error) => void = () => undefined;
  let id = '';
  const join = (signal: AbortSignal, key = 'key') =>
    inFlight.join(
      key,
      {},
      signal,
      async (given) => {
        id = given;
        await new Promise<void>((resolve, reject) => {
          finish = resolve;
          fail = reject;
        });
        return given;
      },
      { keep, discard, remains },
    );
  return {
    inFlight,
    keep,
    discard,
    remains,
    join,
    finish: () => finish(),
    fail: () => fail(new Error('not made')),
    id: () => id,
  };
}

describe('a creation', () => {
  test('is hidden until its caller claims it', async () => {
    const { inFlight, keep, join, finish, id } = setUp();
    const joined = join(new AbortController().signal);
    expect(inFlight.hides(id())).toBe(true);
    finish();
    expect(await joined).toBe(id());
    expect(inFlight.hides(id())).toBe(true);
    expect(inFlight.claim(id())).toBe(true);
    expect(inFlight.claim(id())).toBe(false);
    expect(inFlight.hides(id())).toBe(false);
    expect(keep).not.toHaveBeenCalled();
  });

  test.each(['before it is made', 'at the moment that it is made'])(
    'is kept for a retry if its caller disconnects %s, and then discarded',
    async (when) => {
      const { inFlight, keep, discard, join, finish, id } = setUp();
      const caller = new AbortController();
      const joined = join(caller.signal);
      if (when.startsWith('before')) {
        caller.abort();
        await expect(joined).rejects.toMatchObject({ id: 'Cancelled' });
        finish();
      } else {
        caller.abort();
        finish();
        await expect(joined).rejects.toMatchObject({ id: 'Cancelled' });
      }
      await pause(0);
      expect(keep.mock.calls).toEqual([[id()]]);
      expect(inFlight.hides(id())).toBe(true);
      while (discard.mock.calls.length === 0) await pause(5);
      await pause(0);
      expect(inFlight.hides(id())).toBe(false);
    },
  );

  test('is not discarded if its retry came first', async () => {
    const { inFlight, discard, join, finish, id } = setUp();
    const caller = new AbortController();
    const joined = join(caller.signal);
    caller.abort();
    await expect(joined).rejects.toMatchObject({ id: 'Cancelled' });
    finish();
    await pause(0);
    inFlight.hold(id());
    await pause(3 * keepMs);
    expect(discard).not.toHaveBeenCalled();
    expect(inFlight.hides(id())).toBe(true);
    expect(inFlight.claim(id())).toBe(true);
  });

  test('is not discarded if it existed before and was claimed', async () => {
    const inFlight = new InFlight(keepMs);
    const keep = jest.fn((_id: string) => Promise.resolve());
    const caller = new AbortController();
    const joined = inFlight.join('key', {}, caller.signal, async () => (await pause(10), 'old'), {
      keep,
      discard: keep,
      remains: () => false,
    });
    caller.abort();
    await expect(joined).rejects.toMatchObject({ id: 'Cancelled' });
    await pause(30);
    expect([keep.mock.calls, inFlight.hides('old')]).toEqual([[], false]);
  });

  test('is not hidden if it failed', async () => {
    const inFlight = new InFlight(keepMs);
    let id = '';
    const joined = inFlight.join(
      'key',
      {},
      new AbortController().signal,
      (given) => {
        id = given;
        return Promise.reject(new Error('no'));
      },
      { keep: () => Promise.resolve(), discard: () => Promise.resolve(), remains: () => false },
    );
    await expect(joined).rejects.toThrow('no');
    await pause(0);
    expect(inFlight.hides(id)).toBe(false);
  });

  test('that failed and could not be undone is removed later, with retries until that succeeds', async () => {
    const { inFlight, discard, remains, join, fail, id } = setUp();
    remains.mockReturnValue(true);
    discard.mockRejectedValueOnce(new Error('not yet'));
    const joined = join(new AbortController().signal);
    fail();
    await expect(joined).rejects.toThrow('not made');
    await pause(0);
    expect(inFlight.hides(id())).toBe(true);
    while (discard.mock.calls.length < 2) {
      expect(inFlight.hides(id())).toBe(true);
      await pause(5);
    }
    await pause(0);
    expect(inFlight.hides(id())).toBe(false);
  });
});

import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { fakeTimeouts, gate, settled } from '../../test/helpers/services.js';
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
  afterEach(() => void jest.useRealTimers());
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
      fakeTimeouts();
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
      await settled();
      expect(keep.mock.calls).toEqual([[id()]]);
      jest.advanceTimersByTime(keepMs - 1);
      await settled();
      expect([discard.mock.calls, inFlight.hides(id())]).toEqual([[], true]);
      jest.advanceTimersByTime(1);
      await settled();
      expect([discard.mock.calls, inFlight.hides(id())]).toEqual([[[id()]], false]);
    },
  );

  test('is not discarded if its retry came first', async () => {
    fakeTimeouts();
    const { inFlight, discard, join, finish, id } = setUp();
    const caller = new AbortController();
    const joined = join(caller.signal);
    caller.abort();
    await expect(joined).rejects.toMatchObject({ id: 'Cancelled' });
    finish();
    await settled();
    inFlight.hold(id());
    jest.advanceTimersByTime(3 * keepMs);
    await settled();
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
    fakeTimeouts();
    const { inFlight, discard, remains, join, fail, id } = setUp();
    remains.mockReturnValue(true);
    discard.mockRejectedValueOnce(new Error('not yet'));
    const joined = join(new AbortController().signal);
    fail();
    await expect(joined).rejects.toThrow('not made');
    await settled();
    for (const attempts of [0, 1]) {
      expect([discard.mock.calls.length, inFlight.hides(id())]).toEqual([attempts, true]);
      jest.advanceTimersByTime(1_000); // the least pause between attempts
      await settled();
    }
    expect([discard.mock.calls.length, inFlight.hides(id())]).toEqual([2, false]);
  });
});

describe('with callers that come and go', () => {
  afterEach(() => void jest.useRealTimers());
  const alive = new AbortController().signal;

  test('a second caller joins the first, and the result is not kept while one of them waits', async () => {
    const { inFlight, keep, join, finish, id } = setUp();
    const gone = new AbortController();
    const [first, second] = [join(gone.signal), join(alive)];
    expect(inFlight.underWay()).toEqual([{ what: 'key', callers: 2 }]);
    gone.abort();
    await expect(first).rejects.toMatchObject({ id: 'Cancelled' });
    expect(inFlight.underWay()).toEqual([{ what: 'key', callers: 1 }]);
    finish();
    expect(await second).toBe(id());
    await pause(0);
    expect([keep.mock.calls, inFlight.underWay()]).toEqual([[], []]);
  });

  test('a result that both callers have left is kept once', async () => {
    const { keep, join, finish, id } = setUp();
    const gone = new AbortController();
    const both = [join(gone.signal), join(gone.signal)];
    gone.abort();
    for (const one of both) await expect(one).rejects.toMatchObject({ id: 'Cancelled' });
    finish();
    await pause(0);
    expect(keep.mock.calls).toEqual([[id()]]);
  });

  test('another request under the same name is refused while the first is in flight, and only then', async () => {
    const inFlight = new InFlight(keepMs);
    const unclaimed = { keep: async () => undefined, discard: async () => undefined, remains: () => false };
    const { passed, open } = gate();
    const join = (request: object, key = 'key') =>
      inFlight.join(key, request, alive, async (id) => (await passed, id), unclaimed);
    const first = join({ name: 'a', list: [1] });
    const same = join({ name: 'a', list: [1] });
    await expect(join({ name: 'a', list: [2] })).rejects.toMatchObject({ id: 'NameInUse' });
    const other = join({ name: 'a', list: [2] }, 'other key');
    open();
    expect(await same).toBe(await first);
    expect(await other).not.toBe(await first);
    await settled();
    await expect(join({ name: 'a', list: [2] })).resolves.toMatch(/^[0-9a-f]{64}$/);
  });

  test('the hidden result of an earlier attempt is kept as well', async () => {
    fakeTimeouts();
    const { inFlight } = setUp();
    const keep = jest.fn((_id: string) => Promise.resolve());
    const unclaimed = { keep, discard: async () => undefined, remains: () => false };
    inFlight.keep('earlier', unclaimed, 3_600_000);
    inFlight.hold('earlier');
    const gone = new AbortController();
    const { passed, open } = gate();
    const joined = inFlight.join('key', {}, gone.signal, async () => (await passed, 'earlier'), unclaimed);
    gone.abort();
    await expect(joined).rejects.toMatchObject({ id: 'Cancelled' });
    open();
    await settled();
    expect([keep.mock.calls, inFlight.hides('earlier'), inFlight.hiddenCount]).toEqual([
      [['earlier']],
      true,
      1,
    ]);
  });

  test('a result is hidden even if its record cannot be changed', async () => {
    fakeTimeouts();
    const { inFlight, keep, join, finish, id } = setUp();
    keep.mockRejectedValue(new Error('no space'));
    const gone = new AbortController();
    const joined = join(gone.signal);
    gone.abort();
    await expect(joined).rejects.toMatchObject({ id: 'Cancelled' });
    finish();
    await settled();
    expect(inFlight.hides(id())).toBe(true);
  });

  test.each([
    [20, 1_000],
    [5_000, 5_000],
  ])('a removal that fails is repeated: kept for %d ms, after %d ms', async (kept, pauseMs) => {
    fakeTimeouts();
    const inFlight = new InFlight(kept);
    const discard = jest.fn((_id: string) => Promise.reject(new Error('busy')));
    inFlight.keep('a', { discard });
    const advance = async (ms: number): Promise<void> => {
      jest.advanceTimersByTime(ms);
      await settled();
    };
    await advance(kept - 1);
    expect([discard.mock.calls.length, inFlight.expired('a')]).toEqual([0, false]);
    await advance(1);
    expect([discard.mock.calls.length, inFlight.hides('a')]).toEqual([1, true]);
    await advance(pauseMs - 1);
    expect(discard).toHaveBeenCalledTimes(1);
    await advance(1);
    expect(discard).toHaveBeenCalledTimes(2);
  });

  test.each(['succeeds', 'fails'])(
    'a retry during a removal that %s keeps the object hidden',
    async (how) => {
      fakeTimeouts();
      const inFlight = new InFlight(keepMs);
      const { passed, open } = gate();
      const discard = jest.fn(async (_id: string) => {
        await passed;
        if (how === 'fails') throw new Error('busy');
      });
      inFlight.keep('a', { discard });
      jest.advanceTimersByTime(keepMs);
      expect(inFlight.expired('a')).toBe(true);
      inFlight.hold('a');
      expect(inFlight.expired('a')).toBe(false);
      open();
      await settled();
      expect(inFlight.hides('a')).toBe(true);
      jest.advanceTimersByTime(10_000);
      await settled();
      expect(discard).toHaveBeenCalledTimes(1);
      expect([inFlight.claim('a'), inFlight.hides('a'), inFlight.expired('a')]).toEqual([true, false, false]);
    },
  );

  test('an object that is kept again has one time limit, and one that is claimed has none', async () => {
    fakeTimeouts();
    const inFlight = new InFlight(1_000);
    const discard = jest.fn((_id: string) => Promise.resolve());
    inFlight.keep('a', { discard });
    jest.advanceTimersByTime(600);
    inFlight.keep('a', { discard });
    jest.advanceTimersByTime(999);
    await settled();
    expect(discard).not.toHaveBeenCalled();
    expect(jest.getTimerCount()).toBe(1);
    inFlight.claim('a');
    expect(jest.getTimerCount()).toBe(0);
  });
});

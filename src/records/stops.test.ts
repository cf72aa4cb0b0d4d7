// Starts, stops and exits of containers that are awaited.
import { afterEach, expect, jest, test } from '@jest/globals';
import { fakeTimeouts, gate, settled } from '../../test/helpers/services.js';
import { Deadline, Stops } from './stops.js';

afterEach(() => void jest.useRealTimers());

/** Whether a promise has resolved by now. */
async function hasPassed(promise: Promise<unknown>): Promise<boolean> {
  let passed = false;
  promise.then(
    () => (passed = true),
    () => undefined,
  );
  await settled();
  return passed;
}

test('a start is awaited until its end, by its container only', async () => {
  const stops = new Stops();
  const { passed, open } = gate();
  const start = stops.whileStarting('a', () => passed);
  const awaited = stops.started('a');
  expect([await hasPassed(awaited), await hasPassed(stops.started('b'))]).toEqual([false, true]);
  expect(stops.underWay()).toEqual({ starting: ['a'], stopping: [], awaited: [] });
  open();
  await Promise.all([start, awaited]);
  expect(stops.underWay().starting).toEqual([]);
});

test('a start that fails is over, and only its caller gets the error', async () => {
  const stops = new Stops();
  const start = stops.whileStarting('a', () => Promise.reject(new Error('no program')));
  const awaited = stops.started('a');
  await expect(start).rejects.toThrow('no program');
  await awaited;
  expect(stops.underWay().starting).toEqual([]);
});

test('one stop runs per container, and the next one begins after its end', async () => {
  const stops = new Stops();
  const begun: string[] = [];
  const { passed, open } = gate();
  const stop = (name: string) => stops.join('a', 1_000, () => (begun.push(name), passed));
  const both = [stop('first'), stop('second')];
  await settled();
  expect([begun, stops.isStopping('a'), stops.isStopping('b')]).toEqual([['first'], true, false]);
  expect(stops.underWay()).toEqual({ starting: [], stopping: ['a'], awaited: [] });
  open();
  await Promise.all(both);
  expect(stops.isStopping('a')).toBe(false);
  await stop('third');
  expect(begun).toEqual(['first', 'third']);
});

test('all callers of a stop get its error, and a next stop is possible', async () => {
  const stops = new Stops();
  const stop = () => stops.join('a', 1_000, () => Promise.reject(new Error('stuck')));
  const both = [stop(), stop()];
  for (const one of both) await expect(one).rejects.toThrow('stuck');
  expect(stops.isStopping('a')).toBe(false);
  await stops.join('a', 1_000, () => Promise.resolve());
});

test('an exit wakes all its waiters, and no other', async () => {
  const stops = new Stops();
  const [one, other, foreign] = [stops.exitOf('a'), stops.exitOf('a'), stops.exitOf('b')];
  expect(stops.underWay().awaited).toEqual(['a', 'b']);
  stops.exited('a');
  await Promise.all([one.seen, other.seen]);
  expect(await hasPassed(foreign.seen)).toBe(false);
  stops.exited('c'); // nobody waits
});

test('a waiter that is forgotten is removed, without an effect on the others', async () => {
  const stops = new Stops();
  const [one, other] = [stops.exitOf('a'), stops.exitOf('a')];
  one.forget();
  expect(stops.underWay().awaited).toEqual(['a']);
  stops.exited('a');
  await other.seen;
  expect(await hasPassed(one.seen)).toBe(false);
  other.forget();
  expect(stops.underWay().awaited).toEqual([]);
});

test('a deadline passes at its time, or earlier if it is brought forward, and never later', async () => {
  fakeTimeouts();
  let now = 0;
  jest.spyOn(performance, 'now').mockImplementation(() => now);
  const advance = async (ms: number): Promise<void> => {
    now += ms;
    await jest.advanceTimersByTimeAsync(ms);
  };
  const deadline = new Deadline(1_000);
  deadline.shorten(2_000);
  await advance(999);
  expect(await hasPassed(deadline.passed)).toBe(false);
  await advance(1);
  expect(await hasPassed(deadline.passed)).toBe(true);

  const shortened = new Deadline(1_000);
  await advance(100);
  shortened.shorten(300);
  shortened.shorten(400); // later than the one before
  expect(jest.getTimerCount()).toBe(1);
  await advance(299);
  expect(await hasPassed(shortened.passed)).toBe(false);
  await advance(1);
  expect(await hasPassed(shortened.passed)).toBe(true);
  jest.restoreAllMocks();
});

test('a deadline beyond the range of a timer does not pass at once', async () => {
  fakeTimeouts();
  const deadline = new Deadline(2 ** 40);
  await jest.advanceTimersByTimeAsync(10_000);
  expect(await hasPassed(deadline.passed)).toBe(false);
  await jest.advanceTimersByTimeAsync(2 ** 31);
  expect(await hasPassed(deadline.passed)).toBe(true);
});

test('a deadline that is cleared, and that of a stop that has ended, keep no timer', async () => {
  fakeTimeouts();
  new Deadline(1_000).clear();
  await new Stops().join('a', 1_000, () => Promise.resolve());
  expect(jest.getTimerCount()).toBe(0);
});

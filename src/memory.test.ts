// The times at which the daemon gives memory back, with a memory of given size.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { trimWhenIdle } from './memory.js';

const mib = 1 << 20;
let resident: number;
let busy: number;
let collections: number;
let stop: () => void;

beforeEach(() => {
  jest.useFakeTimers();
  [resident, busy, collections] = [40 * mib, 0.02, 0];
  stop = trimWhenIdle({
    resident: () => resident,
    trim() {
      collections++;
      resident = 43 * mib;
    },
    busy: () => busy,
  });
});
afterEach(() => {
  stop();
  jest.useRealTimers();
});

test('the memory of the start is given back', () => {
  jest.advanceTimersByTime(10_999);
  expect(collections).toBe(0);
  jest.advanceTimersByTime(60_000);
  expect(collections).toBe(1);
});

test('memory that has grown is given back, once, when the daemon is idle', () => {
  [resident, busy] = [90 * mib, 0.11];
  jest.advanceTimersByTime(60_000);
  expect(collections).toBe(0);
  busy = 0.1;
  jest.advanceTimersByTime(60_000);
  expect(collections).toBe(1);
});

test('not while a burst of calls begins', () => {
  jest.advanceTimersByTime(10_500);
  busy = 0.5;
  jest.advanceTimersByTime(8_000);
  expect(collections).toBe(0);
  busy = 0.02;
  jest.advanceTimersByTime(3_500);
  expect(collections).toBe(1);
});

test('although a little work begins after each check, every ten seconds', () => {
  const begun = Date.now();
  const workUntil = (time: number): number => 200 * Math.floor((time - begun - 500) / 10_000);
  let last = begun;
  stop();
  stop = trimWhenIdle({
    resident: () => resident,
    trim: () => collections++,
    busy() {
      const [from, to] = [last, (last = Date.now())];
      return (workUntil(to) - workUntil(from)) / (to - from);
    },
  });
  jest.advanceTimersByTime(60_000);
  expect(collections).toBeGreaterThan(0);
});

test('not if it has grown little since the last collection', () => {
  jest.advanceTimersByTime(11_000);
  resident = 47 * mib - 1;
  jest.advanceTimersByTime(10_000);
  expect(collections).toBe(1);
  resident++;
  jest.advanceTimersByTime(11_000);
  expect(collections).toBe(2);
});

test('the growth counts from the size after a collection by V8', () => {
  jest.advanceTimersByTime(11_000);
  resident = 20 * mib;
  jest.advanceTimersByTime(10_000);
  expect(collections).toBe(1);
  resident = 24 * mib;
  jest.advanceTimersByTime(11_000);
  expect(collections).toBe(2);
});

test('nothing happens after the end, or without the option of Node', () => {
  jest.advanceTimersByTime(10_000);
  stop();
  expect(jest.getTimerCount()).toBe(0);
  jest.advanceTimersByTime(20_000);
  expect(collections).toBe(0);
  trimWhenIdle({ resident: () => resident, trim: undefined, busy: () => busy });
  expect(jest.getTimerCount()).toBe(0);
});

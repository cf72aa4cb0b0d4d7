// The times at which the daemon collects its garbage, with a heap of given size.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { collectWhenIdle } from './heap.js';

const mib = 1 << 20;
let used: number;
let busy: number;
let collections: number;
let stop: () => void;

beforeEach(() => {
  jest.useFakeTimers();
  [used, busy, collections] = [40 * mib, 0.02, 0];
  stop = collectWhenIdle({
    used: () => used,
    collect() {
      collections++;
      used = 43 * mib;
    },
    busy: () => busy,
  });
});
afterEach(() => {
  stop();
  jest.useRealTimers();
});

test('a heap that has grown is collected, once, when the daemon is idle', () => {
  [used, busy] = [90 * mib, 0.11];
  jest.advanceTimersByTime(60_000);
  expect(collections).toBe(0);
  busy = 0.1;
  jest.advanceTimersByTime(60_000);
  expect(collections).toBe(1);
});

test('one that has grown little since the last collection is not', () => {
  used = 48 * mib - 1;
  jest.advanceTimersByTime(10_000);
  expect(collections).toBe(0);
  used++;
  jest.advanceTimersByTime(10_000);
  expect(collections).toBe(1);
  used = 51 * mib - 1;
  jest.advanceTimersByTime(10_000);
  expect(collections).toBe(1);
});

test('the growth counts from the size after a collection by V8', () => {
  used = 20 * mib;
  jest.advanceTimersByTime(10_000);
  used = 28 * mib;
  jest.advanceTimersByTime(10_000);
  expect(collections).toBe(1);
});

test('nothing happens after the end, or without the option of Node', () => {
  stop();
  used = 90 * mib;
  jest.advanceTimersByTime(10_000);
  expect(collections).toBe(0);
  collectWhenIdle({ used: () => used, collect: undefined, busy: () => busy });
  expect(jest.getTimerCount()).toBe(0);
});

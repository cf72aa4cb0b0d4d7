import { afterEach, expect, jest, test } from '@jest/globals';
import { now } from './records.js';

afterEach(() => {
  jest.useRealTimers();
});

test('no two records have the same time, even if the clock is set back', () => {
  const start = new Date('2030-01-01T02:00:00Z').getTime();
  jest.useFakeTimers({ now: start });
  const ns = (ms: number) => BigInt(ms) * 1_000_000n;
  expect([now(), now(), now()].map(BigInt)).toEqual([ns(start), ns(start) + 1n, ns(start) + 2n]);
  jest.setSystemTime(start - 100); // slewed a little: never back
  expect(BigInt(now())).toBe(ns(start) + 3n);
  jest.setSystemTime(start - 7_200_000);
  expect(BigInt(now())).toBe(ns(start - 7_200_000));
});

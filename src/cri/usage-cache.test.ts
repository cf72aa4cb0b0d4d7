import { describe, expect, jest, test } from '@jest/globals';
import { UsageCache, type LayerUsage } from './usage-cache.js';

const second = 1_000_000_000n;
const never = async (): Promise<Map<string, LayerUsage>> => new Map();

describe('CPU rates', () => {
  test('is unknown at first, and then covers the time since the last reading', () => {
    const cache = new UsageCache(never);
    expect(cache.nanoCores('a', 0n, 0n)).toBeUndefined();
    expect(cache.nanoCores('a', second, 2n * second)).toBe(500_000_000n);
    expect(cache.nanoCores('a', second, 3n * second)).toBe(0n);
  });

  test('callers within a short time share a rate', () => {
    const cache = new UsageCache(never);
    cache.nanoCores('a', 0n, 0n);
    cache.nanoCores('a', 5n * second, 10n * second);
    // 1 ms later, in which the kernel booked a whole tick
    expect(cache.nanoCores('a', 5n * second + 4_000_000n, 10n * second + 1_000_000n)).toBe(
      (5_004_000_000n * second) / 10_001_000_000n,
    );
  });

  test('the second reading counts even if it is early, but not immediately', () => {
    const cache = new UsageCache(never);
    cache.nanoCores('a', 0n, 0n);
    expect(cache.nanoCores('a', 1n, 1_000_000n)).toBeUndefined();
    expect(cache.nanoCores('a', 1n, 99_000_000n)).toBeUndefined(); // less than a period of a quota
    expect(cache.nanoCores('a', second / 10n, second / 5n)).toBe(500_000_000n);
  });

  test('a counter that decreased starts again', () => {
    const cache = new UsageCache(never);
    cache.nanoCores('a', 5n * second, 0n);
    expect(cache.nanoCores('a', second, 10n * second)).toBeUndefined();
    expect(cache.nanoCores('a', 2n * second, 11n * second)).toBe(second);
  });

  test('removed containers are forgotten', () => {
    const cache = new UsageCache(never);
    cache.nanoCores('a', 0n, 0n);
    cache.keepOnly((id) => id !== 'a');
    expect(cache.nanoCores('a', second, second)).toBeUndefined();
  });
});

describe('writable layers', () => {
  test('are measured together, once for each list', async () => {
    const asked: string[][] = [];
    const cache = new UsageCache(async (ids) => {
      asked.push([...ids]);
      return new Map(ids.map((id, index) => [id, { usedBytes: index, inodesUsed: 1 }]));
    });
    expect(cache.layer('a')).toBeUndefined();
    await cache.layersMeasured(['a', 'b', 'c'], 1_000);
    expect(asked).toEqual([['a', 'b', 'c']]);
    expect(cache.layer('b')).toEqual({ usedBytes: 1, inodesUsed: 1, measuredAtMs: expect.any(Number) });
    await cache.layersMeasured(['a', 'b', 'c'], 1_000);
    expect(asked).toHaveLength(1);
  });

  test('an outdated value is returned at once, and measured in the background', async () => {
    jest.useFakeTimers({ now: 0, doNotFake: ['nextTick', 'queueMicrotask'] });
    try {
      let size = 1;
      const cache = new UsageCache(
        async (ids) => new Map(ids.map((id) => [id, { usedBytes: size++, inodesUsed: 1 }])),
      );
      await cache.layersMeasured(['a'], 1_000);
      jest.advanceTimersByTime(60_000);
      expect(cache.layer('a')?.usedBytes).toBe(1);
      await jest.advanceTimersByTimeAsync(0);
      expect(cache.layer('a')).toEqual({ usedBytes: 2, inodesUsed: 1, measuredAtMs: 60_000 });
      jest.setSystemTime(0); // the clock is set back
      jest.advanceTimersByTime(30_000);
      expect(cache.layer('a')?.usedBytes).toBe(2);
      await jest.advanceTimersByTimeAsync(0);
      expect(cache.layer('a')?.usedBytes).toBe(3);
    } finally {
      jest.useRealTimers();
    }
  });

  test('a slow measurement does not delay the answer', async () => {
    let finish: (found: Map<string, LayerUsage>) => void = () => undefined;
    const cache = new UsageCache(
      () =>
        new Promise((resolve) => {
          finish = resolve;
        }),
    );
    await cache.layersMeasured(['a'], 5);
    expect(cache.layer('a')).toBeUndefined();
    finish(new Map([['a', { usedBytes: 7, inodesUsed: 1 }]]));
    await cache.layersMeasured(['a'], 1_000);
    expect(cache.layer('a')?.usedBytes).toBe(7);
  });

  test('a layer stored elsewhere is not looked up on every call, and a failed measurement does not fail the call', async () => {
    let calls = 0;
    const cache = new UsageCache(async (ids) => {
      calls++;
      if (ids.includes('bad')) throw new Error('no du');
      return new Map();
    });
    await cache.layersMeasured(['elsewhere'], 1_000);
    await cache.layersMeasured(['elsewhere'], 1_000);
    expect([cache.layer('elsewhere'), calls]).toEqual([undefined, 1]);
    await cache.layersMeasured(['bad'], 1_000);
    expect(cache.layer('bad')).toBeUndefined();
  });
});

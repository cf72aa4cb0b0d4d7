import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import type { Backend, Probe } from '../backends/backend.js';
import { Handler } from './handlers.js';

beforeEach(() => {
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

const ready: Probe = { ready: true, version: '1', reason: '', features: {}, lacks: {} } as unknown as Probe;
const broken: Probe = { ...ready, ready: false, reason: 'not yet' };

/** A backend whose probes find this, one after the other, and the last of it from then on. */
function finds(...probes: Probe[]): { backend: Backend; probed: () => number; fingerprint: string } {
  let count = 0;
  const fake = { fingerprint: 'a', probed: () => count, backend: {} as Backend };
  fake.backend = {
    name: 'fake',
    fingerprint: () => Promise.resolve(fake.fingerprint),
    probe: () => Promise.resolve(probes[Math.min(count++, probes.length - 1)]),
  } as unknown as Backend;
  return fake;
}

test('a ready handler is probed again only when its programs change', async () => {
  const fake = finds(ready);
  const handler = await Handler.open(fake.backend, () => fake.backend.probe());
  jest.advanceTimersByTime(3_600_000);
  await handler.refresh();
  expect(fake.probed()).toBe(1);
  fake.fingerprint = 'b';
  await Promise.all([handler.refresh(), handler.refresh()]);
  expect(fake.probed()).toBe(2);
});

test('a handler that is not ready is probed periodically, in case a missing program was installed', async () => {
  const fake = finds(broken, broken, ready);
  const handler = await Handler.open(fake.backend, () => fake.backend.probe());
  await handler.refresh();
  expect(fake.probed()).toBe(1);
  jest.advanceTimersByTime(40_000);
  await Promise.all([handler.refresh(), handler.refresh()]);
  await handler.refresh();
  expect([fake.probed(), handler.probe.ready]).toEqual([2, false]);
  jest.advanceTimersByTime(40_000);
  await handler.refresh();
  expect([fake.probed(), handler.probe.ready]).toEqual([3, true]);
});

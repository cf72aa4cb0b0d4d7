import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import type { Backend, Probe } from '../backends/backend.js';
import { beingProbed, Handler, refreshHandlers } from './handlers.js';

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

test('one that was not probed yet is probed at the first call, and is not ready before', async () => {
  const fake = finds(ready);
  const handler = await Handler.open(
    fake.backend,
    () => fake.backend.probe(),
    () => Promise.resolve(beingProbed),
  );
  expect(handler.probe).toMatchObject({
    ready: false,
    features: { recursiveReadOnlyMounts: false, userNamespaces: false },
  });
  const refreshing = handler.refresh();
  let isSettled = false;
  await Promise.resolve();
  const settling = handler.settled().then(() => (isSettled = true));
  await Promise.all([refreshing, settling]);
  expect([fake.probed(), handler.probe.ready, isSettled]).toEqual([1, true, true]);
});

test('settled() waits for the probe that is running', async () => {
  let finish: (probe: Probe) => void = () => undefined;
  const { backend } = finds(ready);
  const handler = await Handler.open(
    backend,
    () => new Promise<Probe>((resolve) => (finish = resolve)),
    () => Promise.resolve(beingProbed),
  );
  void handler.refresh();
  await jest.advanceTimersByTimeAsync(0);
  const noted: string[] = [];
  const settling = handler.settled().then(() => noted.push('settled'));
  await jest.advanceTimersByTimeAsync(0);
  expect(noted).toEqual([]);
  finish(ready);
  await settling;
  await handler.settled(); // nothing runs any more
});

test('the programs are identified before the probe, and a change during it is found', async () => {
  const fake = finds(broken, ready);
  const seen: string[] = [];
  const handler = await Handler.open(fake.backend, async (fingerprint) => {
    seen.push(fingerprint);
    fake.fingerprint = 'b'; // an upgrade while it runs
    return fake.backend.probe();
  });
  await handler.refresh();
  expect([seen, handler.probe.ready]).toEqual([['a', 'b'], true]);
});

test('one that is not ready is probed again after 30 s', async () => {
  const fake = finds(broken);
  const handler = await Handler.open(fake.backend, () => fake.backend.probe());
  for (const [ms, probes] of [
    [29_999, 1],
    [1, 2],
    [29_999, 2],
    [1, 3],
  ] as const) {
    jest.advanceTimersByTime(ms);
    await handler.refresh();
    expect(fake.probed()).toBe(probes);
  }
});

test('all handlers are refreshed, or those that are named, and waited for', async () => {
  const noted: string[] = [];
  const handler = (name: string) => ({
    refresh: async () => {
      await jest.advanceTimersByTimeAsync(0);
      noted.push(name);
    },
  });
  const handlers = new Map(['a', 'b', 'c'].map((name) => [name, handler(name)])) as never;
  await refreshHandlers(handlers);
  expect(noted.sort()).toEqual(['a', 'b', 'c']);
  noted.splice(0);
  await refreshHandlers(handlers, ['b', 'unknown']);
  expect(noted).toEqual(['b']);
});

import { afterEach, expect, jest, test } from '@jest/globals';
import { containerConfigOf, podSandboxConfigOf } from '../cri/proto.js';
import {
  compareTimes,
  containerKey,
  containerState,
  fromJson,
  newId,
  now,
  sandboxKey,
  sandboxState,
} from './records.js';

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

test('an id is 64 hexadecimal digits, and never the same twice', () => {
  const ids = Array.from({ length: 10 }, newId);
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{64}$/);
  expect(new Set(ids).size).toBe(10);
});

test('times are ordered as numbers', () => {
  const times = ['10', '9', '1764370000000000004', '11', '9', '1764370000000000005'];
  expect([...times].sort(compareTimes)).toEqual([
    ...['9', '9', '10', '11'],
    ...['1764370000000000004', '1764370000000000005'],
  ]);
  expect([compareTimes('9', '9'), compareTimes('9', '8') > 0, compareTimes('8', '9') < 0]).toEqual([
    0,
    true,
    true,
  ]);
});

test.each([
  [{}, 'SANDBOX_READY'],
  [{ complete: false }, 'SANDBOX_NOTREADY'],
  [{ stoppedAt: '1' }, 'SANDBOX_NOTREADY'],
  [{ endedAt: '1' }, 'SANDBOX_NOTREADY'],
  [{ complete: false, stoppedAt: '1' }, 'SANDBOX_NOTREADY'],
])('a pod with %j is %s', (change, state) => {
  expect(sandboxState({ complete: true, ...change } as never)).toBe(state);
});

test.each([
  [{}, 'CONTAINER_CREATED'],
  [{ startedAt: '1' }, 'CONTAINER_RUNNING'],
  [{ startedAt: '1', exit: {} }, 'CONTAINER_EXITED'],
  [{ exit: {} }, 'CONTAINER_EXITED'],
])('a container with %j is %s', (change, state) => {
  expect(containerState(change as never)).toBe(state);
});

test('the key of a pod and of a container has each part of its name', () => {
  const metadata = { name: 'web', namespace: 'default', uid: 'u1', attempt: 2 };
  expect(sandboxKey(podSandboxConfigOf({ metadata }))).toBe('web_default_u1_2');
  expect(sandboxKey(podSandboxConfigOf({}))).toBe('___0');
  expect(containerKey('POD', containerConfigOf({ metadata: { name: 'app', attempt: 3 } }))).toBe('POD_app_3');
  expect(containerKey('POD', containerConfigOf({}))).toBe('POD__0');
});

test('the JSON of a record has its bytes, and the former name of its handler', () => {
  const value = {
    bytes: Buffer.from('blue'),
    nothing: null,
    plain: { type: 'Buffer', data: 'text' },
    list: [1],
  };
  expect(fromJson(JSON.stringify(value))).toEqual(value);
  expect(fromJson('{"backend":"crun"}')).toEqual({ backend: 'crun', handler: 'crun' });
  expect(fromJson('{"backend":"crun","handler":"runc"}')).toEqual({ backend: 'crun', handler: 'runc' });
  expect(fromJson('{"a":1}')).toEqual({ a: 1 });
  expect(fromJson('null')).toBeNull();
});

// Reported and unreported exits, and lost monitors, on a stand-in for the backend.
import { afterEach, expect, jest, test } from '@jest/globals';
import type { Alive, Exit } from '../backends/backend.js';
import { Bench, exitedWell, fakeTimeouts, settled } from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { recordExit, recordIfEnded, watchForLostExits } from './exits.js';
import { monitorLost } from './monitor-lost.js';

let bench: Bench;
const gone = new AbortController();
afterEach(async () => {
  jest.useRealTimers();
  await bench?.end();
});
let alive: Alive;
let inDoubt: boolean;
function open(): void {
  alive = { status: 'running', pid: 2 };
  inDoubt = true;
  bench = new Bench({
    backend: {
      survey: () => Promise.resolve(alive),
      inDoubt: async () => inDoubt,
    },
  });
}
const exitOf = (id: string) => bench.services.store.containers.get(id)?.exit;

test.each<[string, Alive, boolean, object | undefined]>([
  ['runs', { status: 'running', pid: 2 }, false, undefined],
  ['has stopped', { status: 'stopped', exit: exitedWell }, true, { exitCode: 0, reason: 'Completed' }],
  ['is missing', { status: 'missing' }, true, { exitCode: 255, reason: 'Unknown' }],
] as [string, Alive, boolean, object | undefined][])(
  'the record of a container that %s is correct',
  async (_, its, ended, exit) => {
    open();
    alive = its;
    const record = await bench.running(await bench.pod());
    expect(await recordIfEnded(bench.services, record)).toBe(ended);
    if (exit) expect(exitOf(record.id)).toMatchObject(exit);
    else expect(exitOf(record.id)).toBeUndefined();
  },
);

test.each<[Exit | undefined, object]>([
  [
    { exitCode: 0, finishedAt: 1_000n, oomKilled: false },
    { exitCode: 0, reason: 'Completed', message: '' },
  ],
  [
    { exitCode: 3, finishedAt: 1_000n, oomKilled: false },
    { exitCode: 3, reason: 'Error', message: '' },
  ],
  [
    { exitCode: 137, finishedAt: 1_000n, oomKilled: true },
    { reason: 'OOMKilled', message: '' },
  ],
  [undefined, { exitCode: 255, reason: 'Unknown', message: expect.stringContaining('is lost') }],
])('the exit %p has its code, its reason and its message', async (exit, told) => {
  open();
  const { id } = await bench.running(await bench.pod(), { startedAt: '10', createdAt: '5' });
  await recordExit(bench.services, id, exit);
  expect(exitOf(id)).toMatchObject(told);
});

test('an exit is never before its start, and only the first one counts', async () => {
  open();
  const pod = await bench.pod();
  const early = await bench.running(pod, { startedAt: '5000', createdAt: '4000' });
  await recordExit(bench.services, early.id, exitedWell);
  expect(exitOf(early.id)?.finishedAt).toBe('5001');
  const never = await bench.container(pod, { createdAt: '4000' });
  await recordExit(bench.services, never.id, exitedWell);
  expect(exitOf(never.id)?.finishedAt).toBe('4001');
  const late = await bench.running(pod, { startedAt: '5000' });
  await recordExit(bench.services, late.id, { exitCode: 1, finishedAt: 9_000n, oomKilled: false });
  await recordExit(bench.services, late.id, exitedWell);
  expect(exitOf(late.id)).toMatchObject({ exitCode: 1, finishedAt: '9000' });
  await recordExit(bench.services, 'f'.repeat(64), exitedWell); // removed meanwhile
});

test('an exit that is not reported is found later, after its monitor had time to write it', async () => {
  fakeTimeouts();
  open();
  const pod = await bench.pod();
  const [ended, waiting] = [await bench.running(pod), await bench.container(pod)];
  alive = { status: 'missing' };
  const watched = watchForLostExits(bench.services, gone.signal);
  const pass = async (ms: number) => {
    await jest.advanceTimersByTimeAsync(ms);
    await settled();
  };
  await pass(10_000);
  expect(exitOf(ended.id)).toBeUndefined(); // in doubt only now
  await pass(10_000);
  await until(() => exitOf(ended.id) !== undefined, 'it is recorded');
  expect(exitOf(ended.id)).toMatchObject({ exitCode: 255, reason: 'Unknown' });
  expect(exitOf(waiting.id)).toBeUndefined();
  expect(bench.toldOf('backend.inDoubt').filter((line) => !line.includes(ended.id))).toEqual([]);
  // One that is not in doubt is left alone, however it looks.
  inDoubt = false;
  const fine = await bench.running(pod);
  await pass(30_000);
  expect(exitOf(fine.id)).toBeUndefined();
  gone.abort();
  await pass(10_000);
  await watched;
});

const started = (heard: ReturnType<Bench['listen']>) =>
  heard.filter(({ container_event_type: type }) => type === 'CONTAINER_STARTED_EVENT').length;

test('a lost monitor is recorded once, and its container continues', async () => {
  open();
  const { id } = await bench.running(await bench.pod());
  await settled();
  const heard = bench.listen();
  await settled();
  const before = started(heard);
  await monitorLost(bench.services, id);
  await until(() => started(heard) > before, 'it is told');
  const { unwatchedAt } = bench.services.store.containers.get(id) ?? {};
  expect(unwatchedAt).toMatch(/^\d+$/);
  await monitorLost(bench.services, id);
  await settled();
  expect(bench.services.store.containers.get(id)?.unwatchedAt).toBe(unwatchedAt);
  expect(started(heard)).toBe(before + 1);
  expect(exitOf(id)).toBeUndefined();
  expect(bench.toldOf('backend.kill')).toEqual([]);
});

test('the exit of a container that ended with its monitor is recorded; nothing is recorded for a removed one', async () => {
  open();
  Object.assign(bench.services.config.runtime, { lost_monitor: 'end' });
  alive = { status: 'stopped', exit: exitedWell };
  const { id } = await bench.running(await bench.pod());
  await monitorLost(bench.services, id);
  expect(exitOf(id)).toMatchObject({ exitCode: 0 });
  const record = bench.services.store.containers.get(id);
  await monitorLost(bench.services, id);
  expect(bench.services.store.containers.get(id)).toEqual(record);
  await monitorLost(bench.services, 'f'.repeat(64));
  expect(bench.toldOf('backend.kill')).toEqual([]);
});

test('containers are killed with their monitors if the configuration says so', async () => {
  open();
  Object.assign(bench.services.config.runtime, { lost_monitor: 'end' });
  const { id } = await bench.running(await bench.pod());
  Object.assign(bench.backend, {
    kill: async () => {
      bench.told.push('killed');
      await recordExit(bench.services, id, exitedWell);
    },
  });
  await monitorLost(bench.services, id);
  expect(bench.toldOf('killed')).not.toEqual([]);
  expect(exitOf(id)).toBeDefined();
});

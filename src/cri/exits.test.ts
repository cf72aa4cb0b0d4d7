// Reported and unreported exits, and lost monitors, on a stand-in for the backend.
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import type { Alive, Exit } from '../backends/backend.js';
import { metrics } from '../metrics.js';
import { Bench, exitedWell, fakeTimeouts, gate, settled } from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { startContainer } from './container-start.js';
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

test('an exit whose code is lost is dated by the clock', async () => {
  open();
  const { id } = await bench.running(await bench.pod(), { startedAt: '5' });
  const before = BigInt(Date.now()) * 1_000_000n;
  await recordExit(bench.services, id, undefined);
  const finishedAt = BigInt(exitOf(id)?.finishedAt ?? 0);
  expect(finishedAt).toBeGreaterThanOrEqual(before);
  expect(finishedAt).toBeLessThanOrEqual(BigInt(Date.now()) * 1_000_000n);
});

test('an exit during the start is recorded after the start', async () => {
  open();
  const { passed, open: start } = gate();
  bench.backend.start = async () => (await passed, { pid: 9 });
  const { id } = await bench.container(await bench.pod());
  const starting = startContainer(bench.services, { container_id: id });
  await until(() => bench.toldOf('backend.start').length > 0, 'it is being started');
  const recording = recordExit(bench.services, id, exitedWell);
  await settled();
  expect(exitOf(id)).toBeUndefined();
  start();
  await Promise.all([starting, recording]);
  const record = bench.services.store.containers.get(id);
  expect(record).toMatchObject({ pid: 9, exit: { exitCode: 0 } });
  expect(BigInt(record?.exit?.finishedAt ?? 0)).toBe(BigInt(record?.startedAt ?? 0) + 1n);
});

test('an exit sends one event, and that of a hidden container none', async () => {
  open();
  const pod = await bench.pod();
  const [shown, hidden] = [await bench.running(pod), await bench.running(pod)];
  bench.services.creations.keep(hidden.id, { discard: () => Promise.resolve() });
  const heard = bench.listen();
  for (const { id } of [shown, shown, hidden]) await recordExit(bench.services, id, exitedWell);
  await settled();
  expect(
    heard
      .filter(({ container_event_type: type }) => type === 'CONTAINER_STOPPED_EVENT')
      .map(({ container_id: id, pod_sandbox_status: status }) => [id, status?.id]),
  ).toEqual([[shown.id, pod.id]]);
});

describe('the check for lost exits', () => {
  const pass = async (ms: number) => {
    await jest.advanceTimersByTimeAsync(ms);
    await settled();
  };

  test('does not begin again before its end', async () => {
    fakeTimeouts();
    open();
    const ending = new AbortController();
    await bench.running(await bench.pod());
    const watched = watchForLostExits(bench.services, ending.signal);
    await pass(10_000); // the check begins
    await pass(9_000);
    expect(bench.toldOf('backend.inDoubt')).toHaveLength(1);
    await pass(1_000); // it ends
    await pass(9_000);
    expect(bench.toldOf('backend.inDoubt')).toHaveLength(1);
    await pass(1_000);
    expect(bench.toldOf('backend.inDoubt')).toHaveLength(2);
    ending.abort();
    await pass(30_000);
    await watched;
    expect(bench.toldOf('backend.inDoubt')).toHaveLength(2);
    expect(bench.services.stops.underWay().awaited).toEqual([]);
  });

  test('does not inspect a container whose monitor reports the exit in time', async () => {
    fakeTimeouts();
    open();
    const ending = new AbortController();
    const { id } = await bench.running(await bench.pod());
    const watched = watchForLostExits(bench.services, ending.signal);
    await pass(15_000);
    await recordExit(bench.services, id, { ...exitedWell, exitCode: 7 });
    await pass(10_000);
    expect(bench.toldOf('backend.survey')).toEqual([]);
    expect(exitOf(id)?.exitCode).toBe(7);
    ending.abort();
    await pass(20_000);
    await watched;
  });

  test('continues with the others, and later, if a backend fails', async () => {
    fakeTimeouts();
    open();
    alive = { status: 'missing' };
    let isBroken = true;
    const pod = await bench.pod();
    const [failing, other] = [await bench.running(pod), await bench.running(pod)];
    bench.backend.survey = ({ id }) =>
      isBroken && id === failing.id ? Promise.reject(new Error('no program')) : Promise.resolve(alive);
    const ending = new AbortController();
    const watched = watchForLostExits(bench.services, ending.signal);
    await pass(20_000);
    await until(() => exitOf(other.id) !== undefined, 'the other exit is recorded');
    expect(exitOf(failing.id)).toBeUndefined();
    isBroken = false;
    await pass(20_000);
    await until(() => exitOf(failing.id) !== undefined, 'the exit is recorded');
    ending.abort();
    await pass(20_000);
    await watched;
  });
});

test('a lost monitor is counted by handler, once', async () => {
  open();
  const lost = () => metrics.monitorsLost.lines().find((line) => line.includes('"fake"'));
  const count = () => Number(/ (\d+)$/.exec(lost() ?? ' 0')?.[1]);
  const before = count();
  const { id } = await bench.running(await bench.pod());
  await monitorLost(bench.services, id);
  await monitorLost(bench.services, id);
  expect(count()).toBe(before + 1);
});

test.each([
  ['that is hidden', true, { startedAt: '1' }],
  ['that was not started', false, {}],
])('listeners get no event for the lost monitor of a container %s', async (_, isHidden, change) => {
  open();
  const { id } = await bench.container(await bench.pod(), change);
  if (isHidden) bench.services.creations.keep(id, { discard: () => Promise.resolve() });
  const heard = bench.listen();
  await settled();
  heard.splice(0);
  await monitorLost(bench.services, id);
  await settled();
  expect(heard).toEqual([]);
  expect(bench.services.store.containers.get(id)?.unwatchedAt).toBeDefined();
});

test('a container that ends with its monitor is killed without a grace period, and awaited', async () => {
  open();
  Object.assign(bench.services.config.runtime, { lost_monitor: 'end' });
  const { id } = await bench.running(await bench.pod());
  bench.backend.kill = async () => {
    await settled();
    await recordExit(bench.services, id, exitedWell);
  };
  await monitorLost(bench.services, id);
  expect(exitOf(id)).toBeDefined();
  expect(bench.toldOf('backend.kill')).toEqual([`backend.kill ${id} 9`]);
});

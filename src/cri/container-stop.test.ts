// The steps of a stop, on a stand-in for the backend and with fake timers.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { mkdirSync, existsSync } from 'node:fs';
import type { Alive } from '../backends/backend.js';
import {
  Bench,
  exitedWell,
  fakeTimeouts,
  gate,
  settled,
  type StandIns,
} from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { removeContainer, removeContainerRecord, stopContainer } from './container-stop.js';
import { startContainer } from './container-start.js';
import { recordExit } from './exits.js';

let bench: Bench;
beforeEach(() => fakeTimeouts());
afterEach(async () => {
  jest.useRealTimers();
  await bench?.end();
});

async function set(standIns: StandIns = {}, change: object = {}) {
  bench = new Bench(standIns);
  const pod = await bench.pod();
  const { id } = await bench.running(pod, { stopSignal: 'SIGNAL_SIGUSR1', ...change });
  let isOver = false;
  let failure: unknown;
  const stop = (timeout: string) => {
    const stopping = stopContainer(bench.services, { container_id: id, timeout });
    stopping.then(
      () => (isOver = true),
      (error: unknown) => (failure = error),
    );
    return stopping;
  };
  return {
    id,
    stop,
    isOver: () => isOver,
    failure: () => failure,
    exit: () => recordExit(bench.services, id, exitedWell),
  };
}
const kills = (): string[] =>
  bench.toldOf('backend.kill').map((line) => line.replace(/^backend.kill \w+ /, ''));
const told = (count: number) => until(() => kills().length >= count, `${count} signals are sent`);

test('a container gets its stop signal, and is not killed if it ends in time', async () => {
  const { stop, exit } = await set();
  const stopping = stop('10');
  await told(1);
  jest.advanceTimersByTime(9_999);
  await settled();
  await exit();
  await stopping;
  expect(kills()).toEqual(['10']); // SIGUSR1
});

test('it is killed at the end of its timeout, and the stop returns as soon as it has ended', async () => {
  const { stop, exit, isOver } = await set();
  const stopping = stop('10');
  await told(1);
  jest.advanceTimersByTime(9_999);
  await settled();
  expect(kills()).toEqual(['10']);
  jest.advanceTimersByTime(1);
  await told(2);
  expect([kills(), isOver()]).toEqual([['10', '9'], false]);
  await exit();
  await stopping; // no timer is needed any more
});

test('a container without a timeout is killed without a stop signal', async () => {
  const { stop, exit } = await set();
  const stopping = stop('0');
  await told(1);
  await exit();
  await stopping;
  expect(kills()).toEqual(['9']);
});

test('a container that was never started is killed without a stop signal', async () => {
  const { stop, exit } = await set({}, { startedAt: undefined, pid: undefined });
  const stopping = stop('30');
  await told(1);
  await exit();
  await stopping;
  expect(kills()).toEqual(['9']);
});

test('a second stop can shorten the timeout of the first, but not extend it', async () => {
  const { id, stop, exit } = await set();
  const first = stop('1000');
  await told(1);
  const sooner = stopContainer(bench.services, { container_id: id, timeout: '5' });
  const later = stopContainer(bench.services, { container_id: id, timeout: '2000' });
  await settled();
  jest.advanceTimersByTime(4_900);
  await settled();
  expect(kills()).toEqual(['10']);
  jest.advanceTimersByTime(200);
  await told(2);
  expect(kills()).toEqual(['10', '9']);
  await exit();
  await Promise.all([first, later, sooner]);
});

test.each([
  ['forward', 3_600_000, '5', 5_000],
  ['back', -3_600_000, '600', 10_000],
])('a clock that is set %s meanwhile moves no deadline', async (_, byMs, next, killedAfterMs) => {
  const { stop, exit } = await set();
  const first = stop('10');
  await told(1);
  const now = Date.now();
  const clock = jest.spyOn(Date, 'now').mockReturnValue(now + byMs);
  const second = stop(next);
  await settled();
  jest.advanceTimersByTime(killedAfterMs - 100);
  await settled();
  expect(kills()).toEqual(['10']);
  jest.advanceTimersByTime(200);
  await told(2);
  expect(kills()).toEqual(['10', '9']);
  clock.mockRestore();
  await exit();
  await Promise.all([first, second]);
});

test('a forced stop does not wait for a graceful one', async () => {
  const { id, stop, exit } = await set();
  const first = stop('1000');
  await told(1);
  const removed = removeContainerRecord(bench.services, id);
  await settled();
  jest.advanceTimersByTime(1);
  await told(2);
  await exit();
  await Promise.all([first, removed]);
  expect(kills()).toEqual(['10', '9']);
});

test('if no exit is reported, all processes are killed, and the backend is queried', async () => {
  const { id, stop, isOver } = await set({
    backend: {
      survey: () => Promise.resolve<Alive>({ status: 'stopped', exit: { ...exitedWell, exitCode: 137 } }),
    },
  });
  const stopping = stop('0');
  await told(1);
  jest.advanceTimersByTime(1_999);
  await settled();
  expect([kills(), isOver()]).toEqual([['9'], false]);
  jest.advanceTimersByTime(1);
  await stopping;
  expect(kills()).toEqual(['9', '9 true']);
  expect(bench.services.store.containers.get(id)?.exit?.exitCode).toBe(137);
});

test('a container that does not end is reported as stuck after 12 s, and the next stop tries again', async () => {
  const { id, stop, failure } = await set({
    backend: {
      survey: () => Promise.resolve<Alive>({ status: 'running', pid: 2 }),
    },
  });
  stop('0').catch(() => undefined);
  await told(1);
  jest.advanceTimersByTime(2_000);
  await told(2);
  await until(() => bench.toldOf('backend.survey').length > 0, 'the backend is asked');
  await settled();
  jest.advanceTimersByTime(9_999);
  await settled();
  expect(failure()).toBeUndefined();
  jest.advanceTimersByTime(1);
  await until(() => failure() !== undefined, 'it fails');
  expect(failure()).toMatchObject({ id: 'ToolTimeout', message: expect.stringContaining(id) });
  const again = stopContainer(bench.services, { container_id: id, timeout: '0' });
  await told(3);
  await recordExit(bench.services, id, exitedWell);
  await again;
});

test('stopping a container that has exited or does not exist has no effect', async () => {
  const { stop, exit } = await set();
  await exit();
  await stop('10');
  await stopContainer(bench.services, { container_id: 'f'.repeat(64), timeout: '0' });
  expect(bench.toldOf('backend')).toEqual([]);
});

test('a negative timeout is refused', async () => {
  const { stop } = await set();
  await expect(stop('-1')).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringContaining('-1 s'),
  });
  expect(bench.toldOf('backend')).toEqual([]);
});

test('a stop waits for a start in progress, and then stops the container', async () => {
  const start = gate();
  bench = new Bench({ backend: { start: async () => (await start.passed, { pid: 9 }) } });
  const { id } = await bench.container(await bench.pod());
  const starting = startContainer(bench.services, { container_id: id });
  await until(() => bench.toldOf('backend.start').length > 0, 'it is being started');
  const stopping = stopContainer(bench.services, { container_id: id, timeout: '10' });
  await settled();
  expect(kills()).toEqual([]);
  start.open();
  await starting;
  await told(1);
  await recordExit(bench.services, id, exitedWell);
  await stopping;
  expect(kills()).toEqual(['15']);
});

test('a container that is being stopped cannot be started', async () => {
  const { id, stop, exit } = await set({}, { startedAt: undefined, pid: undefined });
  const stopping = stop('0');
  await told(1);
  await expect(startContainer(bench.services, { container_id: id })).rejects.toMatchObject({
    id: 'WrongContainerState',
    message: expect.stringContaining('being stopped'),
  });
  await exit();
  await stopping;
});

test('a removal stops, deletes and unmounts, and removes the record last', async () => {
  const { id, exit } = await set();
  const heard = bench.listen();
  const { folder } = bench.services.store.containers.get(id) ?? { folder: '' };
  mkdirSync(folder, { recursive: true });
  bench.backend.delete = async () => {
    expect(bench.services.store.containers.get(id)?.exit).toBeDefined();
  };
  const removing = removeContainer(bench.services, { container_id: id });
  await told(1);
  await exit();
  await removing;
  expect(bench.told.map((line) => line.split(' ')[0])).toEqual([
    'backend.kill',
    'backend.delete',
    'rootfs.unmount',
  ]);
  expect([bench.services.store.containers.get(id), existsSync(folder)]).toEqual([undefined, false]);
  await until(
    () => heard.some((event) => event.container_event_type === 'CONTAINER_DELETED_EVENT'),
    'its end is told',
  );
  expect(heard.at(-1)).toMatchObject({ container_id: id, containers_statuses: [] });
});

test.each(['delete', 'unmount'])('a removal whose %s fails keeps the record for a retry', async (step) => {
  const fails = () => Promise.reject(new Error('busy'));
  const { id, exit } = await set(
    step === 'delete' ? { backend: { delete: fails } } : { rootfs: { unmount: fails } },
  );
  await exit();
  await expect(removeContainer(bench.services, { container_id: id })).rejects.toThrow('busy');
  expect(bench.services.store.containers.get(id)).toBeDefined();
});

test('a removal unmounts the images that are mounted as volumes', async () => {
  bench = new Bench();
  const { id } = await bench.container(
    await bench.pod(),
    { exit: { exitCode: 0, finishedAt: '1', reason: '', message: '' } },
    {
      mounts: [
        { container_path: '/a', host_path: '/a' },
        { container_path: '/b', image: { image: 'data' } },
      ],
    },
  );
  await removeContainer(bench.services, { container_id: id });
  expect(bench.toldOf('rootfs.unmountImage')).toEqual([`rootfs.unmountImage ${id}-1`]);
});

test.each(['the first', 'the second'])('an error of %s kill is the error of the stop', async (which) => {
  const { stop } = await set({
    backend: {
      kill: (_, __, all) =>
        Boolean(all) === (which === 'the second')
          ? Promise.reject(new Error('no program'))
          : Promise.resolve(),
    },
  });
  const stopping = stop('0');
  stopping.catch(() => undefined);
  await told(1);
  await settled();
  jest.advanceTimersByTime(2_000);
  await expect(stopping).rejects.toThrow('no program');
  expect(bench.services.stops.underWay()).toEqual({ starting: [], stopping: [], awaited: [] });
});

test('the error of a stuck container has the time that it was given', async () => {
  const { id, stop } = await set({ backend: { survey: async () => ({ status: 'running', pid: 2 }) } });
  const stopping = stop('0');
  stopping.catch(() => undefined);
  await told(1);
  jest.advanceTimersByTime(2_000);
  await until(() => bench.toldOf('backend.survey').length > 0, 'the backend is asked');
  await settled();
  jest.advanceTimersByTime(10_000);
  await expect(stopping).rejects.toThrow(`container ${id} did not end 10 s after SIGKILL`);
});

test('a removal kills without a grace period, and an unknown container is removed already', async () => {
  const { id, exit } = await set();
  const removing = removeContainer(bench.services, { container_id: id });
  await told(1);
  await exit();
  await removing;
  expect(kills()).toEqual(['9']);
  expect(bench.services.stops.underWay().awaited).toEqual([]);
  expect(await removeContainer(bench.services, { container_id: id })).toEqual({});
  await removeContainerRecord(bench.services, id);
  expect(bench.toldOf('backend.delete')).toHaveLength(1);
});

import { afterEach, expect, test } from '@jest/globals';
import { getEventListeners } from 'node:events';
import { metrics } from '../metrics.js';
import { InFlight } from '../records/creations.js';
import { removePodSandbox } from './sandbox-stop.js';
import type { Store } from '../records/store.js';
import { Bench } from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { Events } from './event-log.js';

const store = { containers: { all: () => [] }, sandboxes: { get: () => undefined } } as unknown as Store;
const services = { store, creations: new InFlight(1000) };

test('a listener receives the events in order', async () => {
  const events = new Events(services);
  const listening = events.listen(new AbortController().signal);
  const first = listening.next();
  events.emit('CONTAINER_CREATED_EVENT', 'one', undefined);
  events.emit('CONTAINER_STARTED_EVENT', 'one', undefined);
  expect([(await first).value, (await listening.next()).value]).toMatchObject([
    { container_id: 'one', container_event_type: 'CONTAINER_CREATED_EVENT' },
    { container_id: 'one', container_event_type: 'CONTAINER_STARTED_EVENT' },
  ]);
});

test('a listener that is too slow is disconnected, and asked to connect again', async () => {
  const events = new Events(services);
  const listening = events.listen(new AbortController().signal);
  const first = listening.next();
  for (let count = 0; count < 20_000; count++)
    events.emit('CONTAINER_CREATED_EVENT', String(count), undefined);
  await expect(
    (async () => {
      for (await first; ;) await listening.next();
    })(),
  ).rejects.toMatchObject({
    id: 'Locked',
    message: expect.stringContaining('too slowly'),
    hint: expect.stringContaining('connect again'),
  });
});

test('the number of listeners is limited, and a disconnected listener frees its place', async () => {
  const events = new Events(services);
  const listeners = Array.from({ length: 32 }, () => {
    const gone = new AbortController();
    return { gone, first: events.listen(gone.signal).next() };
  });
  const extra = (): Promise<unknown> => events.listen(AbortSignal.abort()).next();
  await expect(extra()).rejects.toMatchObject({ id: 'Locked' });
  listeners[0]?.gone.abort();
  await listeners[0]?.first;
  await expect(extra()).resolves.toMatchObject({ done: true });
});

let bench: Bench | undefined;
afterEach(() => bench?.end());

test('a listener first receives the present state of each container', async () => {
  bench = new Bench();
  const pod = await bench.pod({ attachment: { ips: ['10.1.2.3', 'fd00::1'] } as never });
  const ended = { exitCode: 7, finishedAt: '9', reason: 'Error', message: '' };
  const created = await bench.container(pod);
  const running = await bench.running(pod);
  const exited = await bench.running(pod, { exit: ended });
  await bench.container(pod, { complete: false });
  const hidden = await bench.container(pod);
  bench.services.creations.keep(hidden.id, { discard: () => Promise.resolve() });
  const heard = bench.listen();
  await until(() => heard.length >= 3, 'the present state is told');
  expect(heard.map(({ container_id: id, container_event_type: type }) => [id, type])).toEqual([
    [created.id, 'CONTAINER_CREATED_EVENT'],
    [running.id, 'CONTAINER_STARTED_EVENT'],
    [exited.id, 'CONTAINER_STOPPED_EVENT'],
  ]);
  for (const { pod_sandbox_status: status, containers_statuses: statuses, created_at: at } of heard) {
    expect(status).toMatchObject({
      id: pod.id,
      state: 'SANDBOX_READY',
      metadata: pod.config.metadata,
      network: { ip: '10.1.2.3', additional_ips: [{ ip: 'fd00::1' }] },
    });
    // The newest first, and none that is hidden.
    expect(statuses?.map(({ id, state, exit_code: code }) => [id, state, code])).toEqual([
      [exited.id, 'CONTAINER_EXITED', 7],
      [running.id, 'CONTAINER_RUNNING', 0],
      [created.id, 'CONTAINER_CREATED', 0],
    ]);
    expect(at).toMatch(/^\d{19}$/);
  }
});

test('an event has the state of its pod and of the containers of that pod only', async () => {
  bench = new Bench();
  const [pod, other] = [await bench.pod(), await bench.pod()];
  const heard = bench.listen();
  const { id } = await bench.running(pod);
  await bench.running(other);
  bench.services.events.emit('CONTAINER_STARTED_EVENT', id, pod);
  bench.services.events.emit('CONTAINER_DELETED_EVENT', 'gone', undefined);
  await until(() => heard.length === 2, 'both are told');
  expect(heard).toMatchObject([
    {
      container_id: id,
      pod_sandbox_status: { id: pod.id },
      containers_statuses: [{ id, state: 'CONTAINER_RUNNING' }],
    },
    { container_id: 'gone', pod_sandbox_status: null, containers_statuses: [] },
  ]);
});

test('a stopped and a removed pod are reported in this order, with the last state', async () => {
  bench = new Bench();
  const pod = await bench.pod();
  const heard = bench.listen();
  await removePodSandbox(bench.services, { pod_sandbox_id: pod.id });
  await until(() => heard.length === 2, 'both are told');
  expect(heard).toMatchObject([
    {
      container_id: pod.id,
      container_event_type: 'CONTAINER_STOPPED_EVENT',
      pod_sandbox_status: { state: 'SANDBOX_NOTREADY' },
    },
    {
      container_id: pod.id,
      container_event_type: 'CONTAINER_DELETED_EVENT',
      pod_sandbox_status: { state: 'SANDBOX_NOTREADY' },
    },
  ]);
});

test('each connected listener receives all events', async () => {
  bench = new Bench();
  const both = [bench.listen(), bench.listen()];
  bench.services.events.emit('CONTAINER_CREATED_EVENT', 'one', undefined);
  await until(() => both.every(({ length }) => length === 1), 'both have it');
});

test('an event that comes while the one before is being read is not held back', async () => {
  const events = new Events(services);
  const gone = new AbortController();
  const listening = events.listen(gone.signal);
  const first = listening.next();
  events.emit('CONTAINER_CREATED_EVENT', 'one', undefined);
  await first;
  events.emit('CONTAINER_STARTED_EVENT', 'two', undefined);
  events.emit('CONTAINER_STARTED_EVENT', 'three', undefined);
  expect(events.queueLengths()).toEqual([2]);
  expect((await listening.next()).value).toMatchObject({ container_id: 'two' });
  expect((await listening.next()).value).toMatchObject({ container_id: 'three' });
  expect(events.queueLengths()).toEqual([0]);
});

test('10,000 events wait for a listener, and the next one cuts it off and is counted', async () => {
  const events = new Events(services);
  const listening = events.listen(new AbortController().signal);
  const first = listening.next();
  events.emit('CONTAINER_CREATED_EVENT', 'first', undefined);
  await first;
  const dropped = () => Number(/ (\d+)$/.exec(metrics.eventsDropped.lines()[0] ?? ' 0')?.[1]);
  const before = dropped();
  for (let count = 0; count < 10_000; count++)
    events.emit('CONTAINER_CREATED_EVENT', String(count), undefined);
  expect([events.queueLengths(), dropped() - before]).toEqual([[10_000], 0]);
  events.emit('CONTAINER_CREATED_EVENT', 'too many', undefined);
  expect([events.queueLengths(), dropped() - before]).toEqual([[], 1]);
  events.emit('CONTAINER_CREATED_EVENT', 'nobody', undefined);
  expect(dropped() - before).toBe(1);
});

test('a listener that goes, or that is ended, leaves nothing behind', async () => {
  const events = new Events(services);
  const [gone, other] = [new AbortController(), new AbortController()];
  const [leaving, ended] = [events.listen(gone.signal), events.listen(other.signal)];
  const waiting = [leaving.next(), ended.next()];
  expect(events.queueLengths()).toEqual([0, 0]);
  gone.abort();
  expect(await waiting[0]).toMatchObject({ done: true });
  events.emit('CONTAINER_CREATED_EVENT', 'one', undefined);
  await waiting[1];
  await ended.return(undefined);
  expect(events.queueLengths()).toEqual([]);
  expect(getEventListeners(other.signal, 'abort')).toEqual([]);
});

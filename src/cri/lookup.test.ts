// The record that the id of a request refers to.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Bench } from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { Store } from '../records/store.js';
import {
  backendOf,
  containerIfThere,
  containerOf,
  readySandboxOf,
  refOf,
  runningContainerOf,
  sandboxIfThere,
  sandboxOf,
  wholeIds,
} from './lookup.js';

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.end());

const idOf = (beginning: string): string => beginning.padEnd(64, '0');
/** Field 22 of /proc/PID/stat. */
const startTimeOf = (pid: string): string =>
  readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')[19] ?? '';
const hide = (id: string) => bench.services.creations.keep(id, { discard: () => Promise.resolve() });

test('a full id, and the beginning of exactly one id, name their record', async () => {
  const [pod, other] = [await bench.pod({ id: idOf('ab1') }), await bench.pod({ id: idOf('cd2') })];
  const container = await bench.container(pod, { id: idOf('ef3') });
  expect(sandboxOf(bench.services, pod.id)).toBe(pod);
  expect(sandboxOf(bench.services, 'cd')).toBe(other);
  expect(containerOf(bench.services, container.id)).toBe(container);
  expect(containerOf(bench.services, 'e')).toBe(container);
  expect(() => containerOf(bench.services, 'ab1')).toThrow(
    expect.objectContaining({ id: 'ContainerNotFound', message: expect.stringContaining('ab1') }),
  );
  expect(() => sandboxOf(bench.services, 'ef3')).toThrow(expect.objectContaining({ id: 'SandboxNotFound' }));
  expect([sandboxIfThere(bench.services, 'b1'), containerIfThere(bench.services, 'f3')]).toEqual([
    undefined,
    undefined,
  ]);
});

test('a full id is not ambiguous if another id begins with it', async () => {
  const pod = await bench.pod({ id: 'abc' });
  await bench.pod({ id: 'abcd' });
  expect(sandboxOf(bench.services, 'abc')).toBe(pod);
});

test('an empty id is refused, with the name of its field', () => {
  expect(() => sandboxIfThere(bench.services, '')).toThrow('pod_sandbox_id is empty');
  expect(() => containerIfThere(bench.services, '')).toThrow('container_id is empty');
});

test.each([2, 10, 12])('the beginning of %d ids is refused, with ten of them', async (count) => {
  const ids = Array.from({ length: count }, (_, index) => idOf(`a${index.toString(16)}`));
  for (const id of ids) await bench.pod({ id });
  const refused = () => sandboxOf(bench.services, 'a');
  expect(refused).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
  const rest = count > 10 ? ` and ${count - 10} more` : '';
  expect(refused).toThrow(
    new RegExp(
      `^pod_sandbox_id: "a" is the beginning of ${count} ids: ${ids.slice(0, 10).join(', ')}${rest}$`,
    ),
  );
});

test('a hidden object is found by its full id only, and only for its removal', async () => {
  const pod = await bench.pod({ id: idOf('ab') });
  const container = await bench.container(pod, { id: idOf('cd') });
  const incomplete = await bench.pod({ id: idOf('ef'), complete: false });
  hide(pod.id);
  hide(container.id);
  expect(sandboxIfThere(bench.services, pod.id)).toBe(pod);
  expect(containerIfThere(bench.services, container.id)).toBe(container);
  expect(sandboxIfThere(bench.services, incomplete.id)).toBe(incomplete);
  for (const beginning of ['ab', 'ef']) expect(sandboxIfThere(bench.services, beginning)).toBeUndefined();
  expect(containerIfThere(bench.services, 'cd')).toBeUndefined();
  expect(() => sandboxOf(bench.services, pod.id)).toThrow(expect.objectContaining({ id: 'SandboxNotFound' }));
  expect(() => containerOf(bench.services, container.id)).toThrow(
    expect.objectContaining({ id: 'ContainerNotFound' }),
  );
});

test('an unreadable record is an error of its own, not an unknown id', async () => {
  const id = idOf('ab');
  for (const kind of ['sandboxes', 'containers']) writeFileSync(join(bench.folder, kind, `${id}.json`), '{}');
  const store = new Store(bench.folder);
  await store.load();
  const services = { ...bench.services, store };
  const unreadable = expect.objectContaining({ id: 'RecordUnreadable' });
  expect(() => sandboxIfThere(services, id)).toThrow(unreadable);
  expect(() => containerIfThere(services, id)).toThrow(unreadable);
});

test('a filter gets full ids, each from its own table', async () => {
  const pod = await bench.pod({ id: idOf('ab1') });
  await bench.pod({ id: idOf('cd1') });
  await bench.pod({ id: idOf('cd2') });
  const container = await bench.container(pod, { id: idOf('ab2') });
  await bench.container(pod, { id: idOf('ef1') });
  await bench.container(pod, { id: idOf('ef2') });
  const whole = (id: string, podId: string) =>
    wholeIds(bench.services, { id, pod_sandbox_id: podId, label_selector: { a: 'b' } });
  expect(whole('ab', 'ab')).toEqual({
    id: container.id,
    pod_sandbox_id: pod.id,
    label_selector: { a: 'b' },
  });
  expect(whole('', '')).toMatchObject({ id: '', pod_sandbox_id: '' });
  expect(whole('unknown', 'none')).toMatchObject({ id: 'unknown', pod_sandbox_id: 'none' });
  expect(() => whole('ef', '')).toThrow(/^filter\.id: "ef" is the beginning of 2 ids/);
  expect(() => whole('', 'cd')).toThrow(/^filter\.pod_sandbox_id: "cd" is the beginning of 2 ids/);
});

test('only a pod that is ready is ready, and only a container that runs is running', async () => {
  const [ready, stopped] = [await bench.pod(), await bench.pod({ stoppedAt: '1' })];
  expect(await readySandboxOf(bench.services, ready.id)).toBe(ready);
  await expect(readySandboxOf(bench.services, stopped.id)).rejects.toMatchObject({ id: 'SandboxNotReady' });
  const running = await bench.running(ready);
  const created = await bench.container(ready);
  const exited = await bench.running(ready, {
    exit: { exitCode: 0, finishedAt: '1', reason: '', message: '' },
  });
  expect(runningContainerOf(bench.services, running.id)).toBe(running);
  for (const [{ id }, state] of [
    [created, 'CONTAINER_CREATED'],
    [exited, 'CONTAINER_EXITED'],
  ] as const)
    expect(() => runningContainerOf(bench.services, id)).toThrow(
      expect.objectContaining({ id: 'WrongContainerState', message: expect.stringContaining(state) }),
    );
});

test('a pod whose holder has ended is not ready any more, and its listeners get an event, once', async () => {
  const pod = await bench.pod({ holder: { pid: 2 ** 22 - 1, startTime: '1' } });
  const alive = await bench.pod({
    holder: { pid: process.pid, startTime: startTimeOf('self') },
  });
  const heard = bench.listen();
  for (let twice = 0; twice < 2; twice++)
    await expect(readySandboxOf(bench.services, pod.id)).rejects.toMatchObject({ id: 'SandboxNotReady' });
  expect(bench.services.store.sandboxes.get(pod.id)?.endedAt).toMatch(/^\d+$/);
  expect(await readySandboxOf(bench.services, alive.id)).toBe(alive);
  await until(() => heard.length > 0, 'the event is sent');
  expect(heard).toMatchObject([
    {
      container_id: pod.id,
      container_event_type: 'CONTAINER_STOPPED_EVENT',
      pod_sandbox_status: { state: 'SANDBOX_NOTREADY' },
    },
  ]);
});

test('the backend is that of the handler in the record, and gets the paths of the record', async () => {
  const container = await bench.container(await bench.pod(), {
    logPath: '/log',
    backendState: { of: 'backend' },
  });
  expect(backendOf(bench.services, container)).toBe(bench.backend);
  expect(refOf(container)).toEqual({
    id: container.id,
    folder: container.folder,
    logPath: '/log',
    state: { of: 'backend' },
  });
  expect(() => backendOf(bench.services, { handler: 'gone' })).toThrow(
    expect.objectContaining({ id: 'UnknownHandler', message: expect.stringContaining('"gone"') }),
  );
});

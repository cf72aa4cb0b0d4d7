import { afterEach, expect, test } from '@jest/globals';
import { CrispError } from '../errors.js';
import { Bench } from '../../test/helpers/services.js';
import { startContainer } from './container-start.js';

let bench: Bench;
afterEach(() => bench?.end());
const start = (container_id: string) => startContainer(bench.services, { container_id });
const started = (heard: ReturnType<Bench['listen']>) =>
  heard.filter(({ container_event_type: type }) => type === 'CONTAINER_STARTED_EVENT');

test('a start records the pid and a time before it, and emits an event', async () => {
  let before = '';
  bench = new Bench({
    backend: {
      start: async () => {
        await new Promise((resolve) => setTimeout(resolve, 5));
        before = `${Date.now()}000000`;
        return { pid: 42 };
      },
    },
  });
  const pod = await bench.pod();
  const { id } = await bench.container(pod);
  const heard = bench.listen();
  expect(await start(id)).toEqual({});
  const record = bench.services.store.containers.get(id);
  expect(record).toMatchObject({ pid: 42 });
  expect(record?.exit).toBeUndefined();
  expect(BigInt(record?.startedAt ?? 0)).toBeLessThan(BigInt(before));
  expect(started(heard)).toMatchObject([
    { container_event_type: 'CONTAINER_STARTED_EVENT', container_id: id, pod_sandbox_status: { id: pod.id } },
  ]);
});

test('a failed start is an exit with the reason; remaining processes are killed', async () => {
  const failure = new CrispError('StartFailed', 'no such program');
  bench = new Bench({ backend: { start: () => Promise.reject(failure) } });
  const { id } = await bench.container(await bench.pod());
  const heard = bench.listen();
  await expect(start(id)).rejects.toBe(failure);
  expect(bench.toldOf('backend.kill')).toEqual([`backend.kill ${id} 9 true`]);
  const { exit, startedAt, pid } = bench.services.store.containers.get(id) ?? {};
  expect(exit).toMatchObject({ exitCode: 128, reason: 'StartError', message: failure.report });
  expect(BigInt(exit?.finishedAt ?? 0)).toBeGreaterThan(BigInt(startedAt ?? 0));
  expect(pid).toBeUndefined();
  expect(started(heard)).toEqual([]);
});

test('a start that fails for a temporary reason leaves the container unchanged, for a retry', async () => {
  const busy = new CrispError('NoQuorum', 'the cluster has no quorum');
  expect(busy.core).toBe('Locked');
  bench = new Bench({ backend: { start: () => Promise.reject(busy) } });
  const container = await bench.container(await bench.pod());
  await expect(start(container.id)).rejects.toBe(busy);
  expect(bench.services.store.containers.get(container.id)).toEqual(container);
  expect(bench.toldOf('backend.kill')).toEqual([]);
});

test('a container that runs or has ended, or whose pod is stopped, cannot be started', async () => {
  bench = new Bench({ backend: { start: () => Promise.resolve({ pid: 1 }) } });
  const pod = await bench.pod();
  const exit = { exitCode: 0, finishedAt: '1', reason: '', message: '' };
  for (const { id } of [await bench.running(pod), await bench.running(pod, { exit })])
    await expect(start(id)).rejects.toMatchObject({ id: 'WrongContainerState' });
  const { id } = await bench.container(await bench.pod({ stoppedAt: '1' }));
  await expect(start(id)).rejects.toMatchObject({ id: 'SandboxNotReady' });
  expect(bench.toldOf('backend.start')).toEqual([]);
});

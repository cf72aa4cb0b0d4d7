// Pods that are reclaimed by the recovery labels of their containers, on a stand-in for
// the backend.
import { afterEach, expect, test } from '@jest/globals';
import { join } from 'node:path';
import type { FoundContainer } from '../backends/backend.js';
import { pack } from '../records/recovery-label.js';
import { setAside } from '../set-aside.js';
import { Bench, type StandIns } from '../../test/helpers/services.js';
import { missing, present } from '../../test/helpers/offenders.js';
import { reclaimLost } from './reclaim.js';

let bench: Bench;
afterEach(async () => {
  setAside.replace('CT', []);
  await bench?.end();
});

/** The containers that the backend has, and the pids of those that run. */
let found: FoundContainer[];
let pids: Record<string, number>;
function open(backend: StandIns['backend'] = {}): void {
  found = [];
  pids = {};
  bench = new Bench({
    backend: {
      list: () => Promise.resolve(found),
      reclaim: ({ id }) => Promise.resolve(pids[id]),
      ...backend,
    },
  });
}
/** Makes the record of a container, with this in it, and loses it. */
async function lose(
  pod: Awaited<ReturnType<Bench['pod']>>,
  pid: number | undefined,
  change: object = {},
  config: object = {},
): Promise<string> {
  const container = await bench.container(pod, change, config);
  const recoveryLabel = pack({ sandbox: pod, container });
  expect(recoveryLabel).toBeDefined();
  found.push({ id: container.id, recoveryLabel, state: { of: container.id } } as unknown as FoundContainer);
  if (pid !== undefined) pids[container.id] = pid;
  await bench.services.store.containers.delete(container.id);
  return container.id;
}
const forget = (id: string) => bench.services.store.sandboxes.delete(id);
const stored = () => bench.services.store.containers.all().map(({ id }) => id);

test('a pod with a running container is reclaimed, with all its containers', async () => {
  open();
  const pod = await bench.pod({}, { log_directory: '/var/log/pods/p' });
  const runs = await lose(pod, process.pid, {}, { log_path: 'a.log' });
  const ended = await lose(pod, undefined);
  await forget(pod.id);
  await reclaimLost(bench.services);
  expect(bench.services.store.sandboxes.get(pod.id)).toMatchObject({
    id: pod.id,
    complete: true,
    handler: 'fake',
    plan: { folder: join(bench.folder, 'pods', pod.id) },
  });
  expect(missing(join(bench.folder, 'pods', pod.id))).toEqual([]);
  const record = bench.services.store.containers.get(runs);
  expect(record).toMatchObject({
    complete: true,
    pid: process.pid,
    startedAt: expect.stringMatching(/^\d+$/),
    backendState: { of: runs },
    folder: join(bench.folder, 'bundles', runs),
    logPath: '',
  });
  expect(record?.exit).toBeUndefined();
  const other = bench.services.store.containers.get(ended);
  expect(other).toMatchObject({ complete: true, exit: { exitCode: 255 } });
  expect(other?.pid).toBeUndefined();
});

test('the log of a container has the path of the requests', async () => {
  open();
  const pod = await bench.pod({}, { log_directory: '/var/log/pods/p' });
  const id = await lose(pod, process.pid, { logPath: '/var/log/pods/p/a.log' }, { log_path: 'a.log' });
  await reclaimLost(bench.services);
  expect(bench.services.store.containers.get(id)?.logPath).toBe('/var/log/pods/p/a.log');
});

test('a pod with a record keeps it, and its container is reclaimed', async () => {
  open();
  const pod = await bench.pod({ createdAt: '77' });
  const id = await lose(pod, process.pid);
  await reclaimLost(bench.services);
  expect(stored()).toEqual([id]);
  expect(bench.services.store.sandboxes.get(pod.id)).toEqual(pod);
  expect(present(pod.plan.folder)).toEqual([]); // nothing is made anew
});

test.each<[string, (pod: Awaited<ReturnType<Bench['pod']>>) => Promise<unknown>]>([
  ['without a running container', (pod) => lose(pod, undefined)],
  ['of another boot', (pod) => lose({ ...pod, bootId: 'the boot before' }, process.pid)],
  ['of another handler', (pod) => lose({ ...pod, handler: 'other' }, process.pid)],
  [
    'without a recovery label',
    async () => found.push({ id: 'a'.repeat(64), recoveryLabel: undefined } as never),
  ],
])('a pod %s is not reclaimed', async (_, losing) => {
  open();
  const pod = await bench.pod();
  await losing(pod);
  await forget(pod.id);
  await reclaimLost(bench.services);
  expect(bench.services.store.sandboxes.all()).toEqual([]);
  expect(stored()).toEqual([]);
  expect(setAside.all()).toEqual([]);
});

test('labels that cannot be trusted are set aside, and reported', async () => {
  open();
  const id = 'b'.repeat(64);
  found.push({ id, recoveryLabel: 'forged' } as never);
  await reclaimLost(bench.services);
  expect(setAside.all()).toMatchObject([{ kind: 'CT', name: id }]);
  expect(bench.toldOf('backend.reclaim')).toEqual([]);
});

test('a container with a record is not reclaimed', async () => {
  open();
  const pod = await bench.pod();
  const { id } = await bench.container(pod);
  found.push({ id, recoveryLabel: 'forged' } as never);
  await reclaimLost(bench.services);
  expect(setAside.all()).toEqual([]);
});

test('a pod or container that cannot be reclaimed does not stop the others', async () => {
  open({
    reclaim: ({ id }) => (pids[id] === -1 ? Promise.reject(new Error('broken')) : Promise.resolve(pids[id])),
  });
  const [broken, unseen, well] = [await bench.pod(), await bench.pod(), await bench.pod()];
  await lose(broken, process.pid, { logPath: '/elsewhere' }, { log_path: '../../x' });
  await lose(
    { ...broken, config: { ...broken.config, log_directory: '/l' } },
    process.pid,
    {},
    { log_path: '../x' },
  );
  await lose(unseen, -1);
  const id = await lose(well, process.pid);
  await reclaimLost(bench.services);
  expect(stored()).toContain(id);
  expect(stored().some((one) => bench.services.store.containers.get(one)?.sandboxId === unseen.id)).toBe(
    false,
  );
});

test('a backend that cannot list or reclaim is skipped', async () => {
  open({ list: () => Promise.reject(new Error('its program is gone')) });
  await reclaimLost(bench.services);
  open({ reclaim: undefined });
  await reclaimLost(bench.services);
  expect(bench.toldOf('backend.list')).toEqual([]);
});

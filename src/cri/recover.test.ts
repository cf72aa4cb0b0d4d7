// Recovery at the start of the daemon, on a stand-in for the backend and the network.
import { afterEach, expect, jest, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Alive } from '../backends/backend.js';
import {
  Bench,
  bootId,
  exitedWell,
  fakeTimeouts,
  settled,
  type StandIns,
} from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { missing } from '../../test/helpers/offenders.js';
import { now } from '../records/records.js';
import { Store } from '../records/store.js';
import { recover } from './recover.js';

const benches: Bench[] = [];
afterEach(async () => {
  jest.useRealTimers();
  for (const bench of benches.splice(0)) await bench.end();
});
function benchWith(standIns: StandIns = {}): Bench {
  const bench = new Bench(standIns);
  benches.push(bench);
  return bench;
}
const survey = (found: Record<string, Alive>): StandIns => ({
  backend: { survey: ({ id }) => Promise.resolve(found[id] ?? { status: 'missing' }) },
});
const onNetwork = { linux: { security_context: { namespace_options: { network: 'POD', ipc: 'NODE' } } } };

test('after a reboot every container has exited and the network of every pod is released', async () => {
  const id = 'a'.repeat(64);
  const bench = benchWith(survey({ [id]: { status: 'running', pid: 2 } }));
  const pod = await bench.pod({ bootId: 'the boot before' }, onNetwork);
  mkdirSync(pod.plan.folder, { recursive: true });
  await bench.running(pod, { id, bootId: 'the boot before' });
  await recover(bench.services);
  expect(bench.services.store.containers.get(id)?.exit).toMatchObject({ exitCode: 255, reason: 'Unknown' });
  expect(bench.services.store.containers.get(id)?.exit?.message).toMatch(/rebooted/);
  expect(bench.toldOf('network.detach')).toEqual([expect.stringContaining(`network.detach ${pod.id}`)]);
  expect(bench.toldOf('backend.stopSandbox')).toEqual([expect.stringContaining(pod.id)]);
  expect(bench.services.store.sandboxes.get(pod.id)?.stoppedAt).toMatch(/^\d+$/);
  // The next start reads the same.
  const again = new Store(bench.folder);
  await again.load();
  expect(again.containers.get(id)?.exit?.exitCode).toBe(255);
  expect(again.sandboxes.get(pod.id)?.stoppedAt).toMatch(/^\d+$/);
});

test('a pod of this boot keeps its network, and its running container its record', async () => {
  const id = 'b'.repeat(64);
  const bench = benchWith(survey({ [id]: { status: 'running', pid: 2 } }));
  const pod = await bench.pod({ stoppedAt: undefined }, onNetwork);
  const before = await bench.running(pod, { id });
  await recover(bench.services);
  expect(bench.toldOf('network.detach')).toEqual([]);
  expect(bench.toldOf('backend.delete')).toEqual([]);
  expect(bench.services.store.containers.get(id)).toEqual(before);
  expect(bench.services.store.sandboxes.get(pod.id)?.stoppedAt).toBeUndefined();
});

test('the network of a pod that was stopped before the reboot is not released again', async () => {
  const bench = benchWith();
  const pod = await bench.pod({ bootId: 'the boot before', stoppedAt: '7' }, onNetwork);
  await recover(bench.services);
  expect(bench.toldOf('network.detach')).toEqual([]);
  expect(bench.services.store.sandboxes.get(pod.id)?.stoppedAt).toBe('7');
});

test.each<[string, Alive | undefined, object | undefined]>([
  [
    'has stopped with a known exit',
    { status: 'stopped', exit: { ...exitedWell, exitCode: 3 } },
    { exitCode: 3, reason: 'Error' },
  ],
  [
    'was OOM-killed',
    { status: 'stopped', exit: { ...exitedWell, exitCode: 137, oomKilled: true } },
    { exitCode: 137, reason: 'OOMKilled' },
  ],
  [
    'has stopped with an unknown exit',
    { status: 'stopped', exit: undefined },
    { exitCode: 255, reason: 'Unknown' },
  ],
  ['is missing', { status: 'missing' }, { exitCode: 255, reason: 'Unknown' }],
  ['is missing in the survey', undefined, { exitCode: 255, reason: 'Unknown' }],
  ['runs', { status: 'running', pid: 5 }, undefined],
])('a running container that %s', async (_, alive, exit) => {
  const id = 'c'.repeat(64);
  const bench = benchWith(survey(alive ? { [id]: alive } : {}));
  await bench.running(await bench.pod(), { id });
  await recover(bench.services);
  const record = bench.services.store.containers.get(id);
  if (exit) expect(record?.exit).toMatchObject(exit);
  else expect(record?.exit).toBeUndefined();
});

test('a start is recorded whose answer was never recorded', async () => {
  const id = 'd'.repeat(64);
  const bench = benchWith(survey({ [id]: { status: 'running', pid: 77 } }));
  await bench.container(await bench.pod(), { id });
  await recover(bench.services);
  expect(bench.services.store.containers.get(id)).toMatchObject({
    pid: 77,
    startedAt: expect.stringMatching(/^\d+$/),
  });
});

test('no conclusion is drawn about a container whose state cannot be read', async () => {
  const bench = benchWith({ backend: { survey: () => Promise.reject(new Error('no program')) } });
  const before = await bench.running(await bench.pod());
  await recover(bench.services);
  expect(bench.services.store.containers.get(before.id)).toEqual(before);
});

test('an incomplete creation is undone', async () => {
  const bench = benchWith();
  const pod = await bench.pod();
  const half = await bench.container(pod, { complete: false });
  mkdirSync(half.folder, { recursive: true });
  const halfPod = await bench.pod({ complete: false });
  mkdirSync(halfPod.plan.folder, { recursive: true });
  await recover(bench.services);
  expect(bench.services.store.containers.get(half.id)).toBeUndefined();
  expect(bench.services.store.sandboxes.get(halfPod.id)).toBeUndefined();
  expect(bench.services.store.sandboxes.get(pod.id)).toBeDefined();
  expect([existsSync(half.folder), existsSync(halfPod.plan.folder)]).toEqual([false, false]);
  expect(bench.toldOf('backend.delete')).toEqual([`backend.delete ${half.id}`]);
});

test('an unclaimed pod is hidden, waits for its retry and is removed after a time', async () => {
  fakeTimeouts();
  const bench = benchWith({ keepMs: 5_000, ...survey({ ['e'.repeat(64)]: { status: 'created', pid: 3 } }) });
  const pod = await bench.pod({ unclaimed: true });
  const other = await bench.pod();
  const exit = { exitCode: 0, finishedAt: '1', reason: '', message: '' };
  const container = await bench.container(other, { id: 'e'.repeat(64), unclaimed: true, exit });
  const recovered = recover(bench.services);
  await recovered;
  expect([pod.id, container.id, other.id].map((id) => bench.services.creations.hides(id))).toEqual([
    true,
    true,
    false,
  ]);
  jest.advanceTimersByTime(5_001);
  await until(() => !bench.services.store.sandboxes.get(pod.id), 'the pod is removed');
  await until(() => !bench.services.store.containers.get(container.id), 'the container is removed');
  expect(bench.services.store.sandboxes.get(other.id)).toBeDefined();
});

test('an unreadable record does not stop the start, and is kept', async () => {
  const bench = benchWith();
  const broken = 'f'.repeat(64);
  for (const kind of ['sandboxes', 'containers'])
    writeFileSync(join(bench.folder, kind, `${broken}.json`), '{"id":');
  for (const kind of ['pods', 'bundles']) mkdirSync(join(bench.folder, kind, broken), { recursive: true });
  const pod = await bench.pod();
  const store = new Store(bench.folder);
  await store.load();
  Object.assign(bench.services, { store });
  await recover(bench.services);
  expect(bench.services.store.sandboxes.get(pod.id)).toBeDefined();
  expect(missing(join(bench.folder, 'sandboxes', `${broken}.json`))).toEqual([]);
  // It is not an orphan.
  for (const kind of ['pods', 'bundles']) expect(missing(join(bench.folder, kind, broken))).toEqual([]);
  expect(bench.toldOf('network.collectGarbage')).toEqual([expect.stringContaining(broken)]);
});

test('a runtime that does not answer leaves its container unchanged, and the start waits for the others', async () => {
  fakeTimeouts();
  const [silent, slow] = ['1'.repeat(64), '2'.repeat(64)];
  const answers = new Map<string, (alive: Alive) => void>();
  const bench = benchWith({
    backend: {
      survey: ({ id }) => new Promise((resolve) => answers.set(id, resolve)),
      list: () => new Promise(() => undefined),
    },
  });
  const pod = await bench.pod();
  for (const id of [silent, slow]) await bench.running(pod, { id });
  let isOver = false;
  const recovering = recover(bench.services).then(() => {
    isOver = true;
  });
  await until(() => answers.size === 2, 'both are asked');
  jest.advanceTimersByTime(9_000);
  answers.get(slow)?.({ status: 'stopped', exit: undefined });
  await settled();
  jest.advanceTimersByTime(9_000);
  await settled();
  expect(bench.services.store.containers.get(slow)?.exit).toBeUndefined(); // still waiting
  for (let seconds = 0; !isOver && seconds < 60; seconds++) {
    jest.advanceTimersByTime(1_000);
    await settled(200);
  }
  expect(isOver).toBe(true);
  await recovering;
  expect(bench.services.store.containers.get(silent)?.exit).toBeUndefined();
  expect(bench.services.store.containers.get(slow)?.exit).toBeDefined();
});

test('a repair that hangs delays the others by ten seconds at most', async () => {
  fakeTimeouts();
  const [hanging, other] = ['1'.repeat(64), '2'.repeat(64)];
  const bench = benchWith({
    backend: { delete: ({ id }) => (id === hanging ? new Promise(() => undefined) : Promise.resolve()) },
  });
  const pod = await bench.pod();
  await bench.container(pod, { id: hanging, complete: false });
  await bench.container(pod, { id: other, complete: false });
  let isOver = false;
  const recovering = recover(bench.services).then(() => {
    isOver = true;
  });
  await until(() => !bench.services.store.containers.get(other), 'the other one is removed');
  await settled();
  expect(isOver).toBe(false);
  jest.advanceTimersByTime(9_000);
  await settled();
  expect(isOver).toBe(false);
  jest.advanceTimersByTime(1_001);
  await recovering;
  expect(bench.services.store.containers.get(hanging)).toBeDefined();
  expect(bench.services.store.containers.get(other)).toBeUndefined();
});

test('a failed repair keeps its record, and the others are repaired', async () => {
  const [failing, other] = ['1'.repeat(64), '2'.repeat(64)];
  const bench = benchWith({
    backend: { delete: ({ id }) => (id === failing ? Promise.reject(new Error('busy')) : Promise.resolve()) },
  });
  const pod = await bench.pod();
  await bench.container(pod, { id: failing, complete: false });
  await bench.container(pod, { id: other, complete: false });
  await recover(bench.services);
  expect(bench.services.store.containers.all().map(({ id }) => id)).toEqual([failing]);
});

test('the leftovers of interrupted tools are ended first, one after the other', async () => {
  const ended: string[] = [];
  const bench = benchWith({
    backend: {
      remnants: async () => [
        { name: 'broken', end: () => Promise.reject(new Error('busy')) },
        { name: 'CT 1', end: async () => void ended.push('CT 1') },
      ],
    },
  });
  await recover(bench.services);
  expect(ended).toEqual(['CT 1']);
});

test('files without a record are removed, others are kept', async () => {
  const [known, lost] = ['3'.repeat(64), '4'.repeat(64)];
  const bench = benchWith({
    ...survey({ [known]: { status: 'running', pid: 2 } }),
    rootfs: { list: () => Promise.resolve([known, lost]) },
  });
  const found = (id: string) => ({
    id,
    folder: join(bench.folder, 'bundles', id),
    logPath: '',
    state: undefined,
  });
  bench.backend.list = () => Promise.resolve([found(known), found(lost)]);
  const pod = await bench.pod();
  await bench.running(pod, { id: known });
  for (const id of [known, lost]) mkdirSync(join(bench.folder, 'bundles', id), { recursive: true });
  for (const id of [pod.id, lost]) mkdirSync(join(bench.folder, 'pods', id), { recursive: true });
  await recover(bench.services);
  expect(bench.toldOf('backend.delete')).toEqual([`backend.delete ${lost}`]);
  expect(bench.toldOf('rootfs.unmount')).toEqual([`rootfs.unmount ${lost}`]); // the rootfs of the running container is in use
  expect([known, lost].map((id) => existsSync(join(bench.folder, 'bundles', id)))).toEqual([true, false]);
  expect([pod.id, lost].map((id) => existsSync(join(bench.folder, 'pods', id)))).toEqual([true, false]);
});

test('a container whose pod has no record is removed, with its record', async () => {
  const bench = benchWith();
  const record = await bench.container(
    { id: '5'.repeat(64) },
    { exit: { exitCode: 0, finishedAt: '1', reason: '', message: '' } },
  );
  await recover(bench.services);
  expect(bench.services.store.containers.get(record.id)).toBeUndefined();
  expect(bench.toldOf('backend.delete')).toEqual([`backend.delete ${record.id}`]);
});

test('the network keeps the attachments of ready pods', async () => {
  const bench = benchWith();
  const attachment = { ips: ['10.0.0.2'], interfaceName: 'eth0' } as never;
  const ready = await bench.pod({ attachment }, onNetwork);
  const stopped = await bench.pod({ attachment, stoppedAt: now() }, onNetwork);
  await recover(bench.services);
  const [collected = ''] = bench.toldOf('network.collectGarbage');
  expect(collected).toContain(ready.id);
  expect(collected).not.toContain(stopped.id);
  expect(bootId).toBe(bench.services.bootId);
});

test('each phase begins when the one before has ended', async () => {
  const noted: string[] = [];
  /** Longer than the work between two phases. */
  const slow =
    <T>(name: string, result: T) =>
    async (): Promise<T> => {
      noted.push(`${name} begins`);
      await pause(50);
      noted.push(`${name} ends`);
      return result;
    };
  const unowned = { id: '8'.repeat(64), folder: '', logPath: '', state: undefined };
  const bench = benchWith({
    backend: {
      remnants: async () =>
        ['CT 1', 'CT 2'].map((name) => ({ name, end: slow(`remnant ${name}`, undefined) })),
      list: slow('list', [unowned]),
      reclaim: () => Promise.resolve(undefined),
      survey: slow<Alive>('survey', { status: 'running', pid: 2 }),
      stopSandbox: slow('stop of the pod', undefined),
      delete: ({ id }) => slow(id === unowned.id ? 'removal of the orphan' : 'removal', undefined)(),
    },
    network: { collectGarbage: slow('addresses', undefined) },
    rootfs: { list: async () => [unowned.id.replaceAll('8', '9')], unmount: slow('rootfs', undefined) },
  });
  const pod = await bench.pod({ bootId: 'the boot before' });
  await bench.running(pod);
  await bench.container(pod, { complete: false });
  const { sandboxes } = bench.services.store;
  const change = sandboxes.change.bind(sandboxes);
  sandboxes.change = async (id, changes) => {
    await slow('record of the pod', undefined)();
    return change(id, changes);
  };
  await recover(bench.services);
  expect(noted).toEqual(
    [
      'remnant CT 1',
      'remnant CT 2',
      'list', // for pods without a record
      'survey',
      'removal',
      'rootfs',
      'stop of the pod',
      'record of the pod',
      'list', // for containers without a record
      'removal of the orphan',
      'addresses',
      'rootfs',
    ].flatMap((name) => [`${name} begins`, `${name} ends`]),
  );
});

test('the start of a container is on disk when the recovery ends, and a container without a pod is removed', async () => {
  const id = 'd'.repeat(64);
  const bench = benchWith({
    ...survey({ [id]: { status: 'running', pid: 77 } }),
    rootfs: { unmount: () => pause(50) },
  });
  await bench.container(await bench.pod(), { id });
  const exit = { exitCode: 0, finishedAt: '1', reason: '', message: '' };
  const lost = await bench.container({ id: '5'.repeat(64) }, { exit });
  const { containers } = bench.services.store;
  const change = containers.change.bind(containers);
  containers.change = async (...all) => {
    await pause(200);
    return change(...all);
  };
  await recover(bench.services);
  expect(containers.get(id)?.pid).toBe(77);
  expect(containers.get(lost.id)).toBeUndefined();
});

test('a program of an earlier run is waited for, and nothing is changed before its end', async () => {
  const bench = benchWith();
  const half = await bench.container(await bench.pod(), { complete: false });
  const program = spawn('sh', ['-c', 'echo up; read line'], {
    cwd: bench.folder,
    env: { ...process.env, STARTED_BY: 'crisp' }, // as host/run.ts marks them
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(program.stdout, 'data');
  const recovering = recover(bench.services);
  await pause(100);
  expect(bench.services.store.containers.get(half.id)).toBeDefined();
  expect(bench.told).toEqual([]);
  program.stdin.end();
  await recovering;
  expect(bench.services.store.containers.get(half.id)).toBeUndefined();
});

test('only containers that may run are inspected, and it is told whether they were started in this boot', async () => {
  const bench = benchWith();
  const pod = await bench.pod();
  const { id } = await bench.running(pod);
  await bench.running(pod, { exit: { exitCode: 0, finishedAt: '1', reason: '', message: '' } });
  await bench.container(pod, { complete: false });
  const created = await bench.container(pod);
  const before = await bench.running(pod, { bootId: 'the boot before' });
  await recover(bench.services);
  expect(bench.toldOf('backend.survey')).toEqual([
    `backend.survey ${id} true`,
    `backend.survey ${created.id} false`,
    `backend.survey ${before.id} false`,
  ]);
});

test('a container that was created and not started remains created', async () => {
  const id = 'e'.repeat(64);
  const bench = benchWith(survey({ [id]: { status: 'created', pid: 3 } }));
  const before = await bench.container(await bench.pod(), { id });
  await recover(bench.services);
  expect(bench.services.store.containers.get(id)).toEqual(before);
});

test.each(['container', 'pod'])(
  'an unfinished %s that cannot be removed is tried again later',
  async (kind) => {
    fakeTimeouts();
    let isBroken = true;
    const removal = () => (isBroken ? Promise.reject(new Error('busy')) : Promise.resolve());
    const bench = benchWith({ keepMs: 5_000, backend: { delete: removal, stopSandbox: removal } });
    const pod = await bench.pod({ complete: kind !== 'pod' });
    const { id } = kind === 'pod' ? pod : await bench.container(pod, { complete: false });
    const table = kind === 'pod' ? bench.services.store.sandboxes : bench.services.store.containers;
    await recover(bench.services);
    expect([table.get(id)?.complete, bench.services.creations.hides(id)]).toEqual([false, true]);
    isBroken = false;
    jest.advanceTimersByTime(5_000);
    await until(() => !table.get(id), 'it is removed');
  },
);

test('a container that cannot be removed keeps its pod and its own files, with a record or without', async () => {
  const [recorded, pod, unowned, unreadable, gone] = ['1', '2', '3', '4', '5'].map((digit) =>
    digit.repeat(64),
  ) as [string, string, string, string, string];
  const bench = benchWith({
    backend: {
      list: async () =>
        [unowned, unreadable].map((id) => ({
          id,
          folder: '',
          logPath: '',
          state: undefined,
          ...(id === unreadable ? { recoveryLabel: 'forged' } : {}),
        })),
      delete: () => Promise.reject(new Error('busy')),
    },
    rootfs: { list: () => Promise.resolve([recorded, unowned, unreadable, gone]) },
  });
  await bench.container({ id: pod }, { id: recorded });
  const folders = ['pods', 'bundles'].flatMap((kind) =>
    [pod, recorded, unowned, unreadable, gone].map((id) => join(bench.folder, kind, id)),
  );
  for (const folder of folders) mkdirSync(folder, { recursive: true });
  await recover(bench.services);
  expect(bench.services.store.containers.has(recorded)).toBe(true);
  expect(folders.filter((folder) => !existsSync(folder))).toEqual(
    ['pods', 'bundles'].map((kind) => join(bench.folder, kind, gone)),
  );
  expect(bench.toldOf('rootfs.unmount')).toEqual([`rootfs.unmount ${gone}`]);
  expect(bench.toldOf('backend.delete')).not.toContain(`backend.delete ${unreadable}`);
});

test('the addresses of ready pods, unreadable records and standalone containers are kept', async () => {
  const kept: string[][] = [];
  const networks: string[] = [];
  const bench = benchWith({
    network: {
      collectGarbage: (ids: string[], namespaceOf: (id: string) => string) => {
        kept.push(ids);
        networks.push(namespaceOf('ID'));
        return Promise.resolve();
      },
    },
  });
  const [unreadable, standalone] = ['6'.repeat(64), '7'.repeat(64)];
  const cli = join(bench.folder, 'cli');
  mkdirSync(join(cli, 'containers'), { recursive: true });
  writeFileSync(join(cli, 'containers', `${standalone}.json`), '{}');
  writeFileSync(join(bench.folder, 'sandboxes', `${unreadable}.json`), '{}');
  Object.assign(bench.services.config, { cli_state: cli });
  const network = {
    name: 'net',
    cniVersion: '1.0.0' as const,
    offered: [],
    disableCheck: false,
    disableGC: false,
  };
  const attachment = {
    ips: ['10.0.0.2'],
    containerId: 'c',
    interfaceName: 'eth0',
    network: { ...network, plugins: [] },
    runtimeConfig: {},
    result: {},
  };
  const ready = await bench.pod({ attachment }, onNetwork);
  await bench.pod({ attachment, stoppedAt: now() }, onNetwork);
  await bench.pod(); // on the network of the host
  const store = new Store(bench.folder);
  await store.load();
  Object.assign(bench.services, { store });
  await recover(bench.services);
  expect(kept).toEqual([[ready.id, unreadable, standalone]]);
  expect(networks).toEqual([join(bench.folder, 'pods', 'ID', 'ns', 'net')]);
});

test('the parts of unfinished checkpoints are removed', async () => {
  const bench = benchWith();
  const part = join(bench.folder, 'root', 'checkpoints', 'a');
  mkdirSync(part, { recursive: true });
  await recover(bench.services);
  expect(existsSync(part)).toBe(false);
});

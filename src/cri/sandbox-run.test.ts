// RunPodSandbox, and its undo if a later step fails: real namespaces and mounts, a
// stand-in for the network and the backend.
import { afterEach, expect, test } from '@jest/globals';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mountPoints } from '../host/mounts.js';
import { metrics } from '../metrics.js';
import { Bench, call, gate, podConfigOf, settled, type StandIns } from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { holderRuntimes, runPodSandbox } from './sandbox-run.js';
import { removePodSandbox, stopPodSandbox } from './sandbox-stop.js';

let bench: Bench;
afterEach(() => bench?.end());

const attachment = { ips: ['10.1.2.3'], interfaceName: 'eth0' };
const network = { attach: () => Promise.resolve(attachment) };
const onNetwork = {
  linux: {
    security_context: { namespace_options: { network: 'POD', ipc: 'POD', pid: 'CONTAINER' } },
    cgroup_parent: '/crisp-test-none',
  },
};
const run = (more: object = onNetwork, handler = '') =>
  runPodSandbox(bench.services, { config: podConfigOf('u1', more), runtime_handler: handler }, call);
const verbs = (): string[] => bench.told.map((line) => line.split(' ')[0] ?? '');

async function nothingIsLeft(): Promise<void> {
  expect(bench.services.store.sandboxes.all()).toEqual([]);
  expect((await mountPoints()).filter(({ target }) => target.startsWith(bench.folder))).toEqual([]);
  for (const kind of ['pods', 'sandboxes'])
    expect(existsSync(`${bench.folder}/${kind}`) ? readdirSync(`${bench.folder}/${kind}`) : []).toEqual([]);
}

test('a pod has its network, its record, and its events', async () => {
  bench = new Bench({ network, backend: { startSandbox: () => Promise.resolve('state of the backend') } });
  const heard = bench.listen();
  const { pod_sandbox_id: id = '' } = await run();
  const record = bench.services.store.sandboxes.get(id);
  expect(record).toMatchObject({
    complete: true,
    handler: 'fake',
    bootId: bench.services.bootId,
    attachment,
    backendState: 'state of the backend',
  });
  expect(Object.keys(record?.plan.namespaces ?? {}).sort()).toEqual(['ipc', 'network', 'uts']);
  expect(verbs()).toEqual(['network.attach', 'backend.startSandbox']);
  await until(() => heard.length > 1, 'its events are told');
  expect(heard.map(({ container_event_type: type }) => type)).toEqual([
    'CONTAINER_CREATED_EVENT',
    'CONTAINER_STARTED_EVENT',
  ]);
  expect(heard[0]?.pod_sandbox_status).toMatchObject({
    id,
    state: 'SANDBOX_READY',
    network: { ip: '10.1.2.3' },
  });
  await removePodSandbox(bench.services, { pod_sandbox_id: id });
  expect(verbs().slice(2)).toEqual(['backend.stopSandbox', 'network.detach']);
  await nothingIsLeft();
});

test.each<[string, StandIns, string[]]>([
  [
    'the backend',
    { network, backend: { startSandbox: () => Promise.reject(new Error('no room')) } },
    ['network.attach', 'backend.startSandbox', 'network.detach'],
  ],
  ['the network', { network: { attach: () => Promise.reject(new Error('no room')) } }, ['network.attach']],
])('a pod leaves nothing behind if its last step, by %s, fails', async (_, standIns, told) => {
  bench = new Bench(standIns);
  const heard = bench.listen();
  await expect(run()).rejects.toThrow('no room');
  expect(verbs()).toEqual(told);
  expect(heard).toEqual([]);
  await nothingIsLeft();
});

test('a pod that could not be undone keeps its record, and the retry removes the rest first', async () => {
  let isBroken = true;
  const detach = () => (isBroken ? Promise.reject(new Error('busy')) : Promise.resolve());
  bench = new Bench({
    network: { ...network, detach },
    backend: {
      startSandbox: () => (isBroken ? Promise.reject(new Error('no room')) : Promise.resolve(undefined)),
    },
  });
  await expect(run()).rejects.toThrow('no room');
  expect(bench.services.store.sandboxes.all()).toMatchObject([{ complete: false }]);
  isBroken = false;
  const { pod_sandbox_id: id } = await run();
  expect(bench.services.store.sandboxes.all().map((record) => record.id)).toEqual([id]);
  expect(bench.toldOf('network.detach')).toHaveLength(2);
});

test('a repeated request returns the same pod, and a different one with its name is refused', async () => {
  bench = new Bench();
  const first = await run({});
  expect(await run({})).toEqual(first);
  await expect(run({ labels: { a: 'b' } })).rejects.toMatchObject({ id: 'NameInUse' });
  await expect(run({}, 'fake')).rejects.toMatchObject({ id: 'NameInUse' });
  expect(bench.services.store.sandboxes.all()).toHaveLength(1);
  expect(bench.toldOf('network')).toEqual([]); // it is on the node's
});

test('an unknown handler is refused before anything is created', async () => {
  bench = new Bench();
  await expect(run(onNetwork, 'gvisor')).rejects.toMatchObject({ id: 'UnknownHandler' });
  await nothingIsLeft();
});

test('a retry during the removal of its pod waits, and gets a new one', async () => {
  const { passed, open } = gate();
  let begun = false;
  bench = new Bench({
    backend: {
      stopSandbox: () => {
        begun = true;
        return passed;
      },
    },
  });
  const { pod_sandbox_id: first = '' } = await run({});
  const removed = removePodSandbox(bench.services, { pod_sandbox_id: first });
  await until(() => begun, 'it is being removed');
  let answered = false;
  const again = run({}).finally(() => (answered = true));
  await settled();
  expect(answered).toBe(false);
  open();
  await removed;
  const { pod_sandbox_id: second } = await again;
  expect(second).not.toBe(first);
  expect(bench.services.store.sandboxes.all().map(({ id }) => id)).toEqual([second]);
});

test('the record of the request is on disk before anything is made', async () => {
  let before: unknown;
  bench = new Bench({
    network: {
      attach: () => {
        const [file = ''] = readdirSync(`${bench.folder}/sandboxes`);
        before = JSON.parse(readFileSync(`${bench.folder}/sandboxes/${file}`, 'utf8'));
        return Promise.resolve(attachment);
      },
    },
  });
  const { pod_sandbox_id: id = '' } = await run();
  expect(before).toMatchObject({
    version: 1,
    id,
    complete: false,
    handler: 'fake',
    rule: 'default_container_type',
    bootId: bench.services.bootId,
    runtimeHandler: '',
    config: { metadata: { name: 'pod', namespace: 'test', uid: 'u1' } },
    plan: { folder: `${bench.folder}/pods/${id}` },
  });
  expect(JSON.parse(readFileSync(`${bench.folder}/sandboxes/${id}.json`, 'utf8'))).toMatchObject({
    complete: true,
  });
});

const samples = (metric: { lines(): string[] }): Record<string, number> =>
  Object.fromEntries(
    metric.lines().map((line) => [line.replace(/^[^{]*|} .*$/g, ''), Number(/ (\d+)$/.exec(line)?.[1])]),
  );

test('a pod whose handler is not ready runs on the fallback, which is probed first and counted', async () => {
  bench = new Bench();
  const { handlers } = bench.services;
  const fake = handlers.get('fake');
  if (!fake) throw new Error('the handler of the bench is missing');
  const other = {
    ...fake,
    backend: { ...fake.backend, startSandbox: () => Promise.resolve('of the other'), name: 'other' },
    probe: { ...fake.probe },
  };
  const probed: string[] = [];
  const broken = {
    ...fake,
    probe: { ...fake.probe },
    refresh: async () => {
      await settled();
      probed.push('fake');
      Object.assign(broken.probe, { ready: false, reason: 'no program' });
    },
  };
  const unused = { ...fake, refresh: async () => void probed.push('unused') };
  Object.assign(bench.services, {
    handlers: new Map<string, object>([
      ['fake', broken],
      ['other', { ...other, refresh: async () => void probed.push('other') }],
      ['unused', unused],
    ]),
  });
  Object.assign(bench.services.config, { fallback: { fake: 'other' } });
  const before = { fallbacks: samples(metrics.fallbacks), routed: samples(metrics.routed) };
  const { pod_sandbox_id: id = '' } = await run({});
  expect(probed.sort()).toEqual(['fake', 'other']);
  expect(bench.services.store.sandboxes.get(id)).toMatchObject({
    handler: 'other',
    backendState: 'of the other',
    rule: expect.stringContaining('fallback of fake'),
  });
  const more = (name: 'fallbacks' | 'routed') =>
    Object.entries(samples(metrics[name])).filter(([labels, value]) => value !== before[name][labels]);
  expect(more('fallbacks')).toEqual([['{from="fake",to="other"', 1]]);
  expect(more('routed')).toEqual([
    [expect.stringMatching(/^\{handler="other",rule="default_container_type/), 1],
  ]);
});

test.each<[string, object, object]>([
  ['namespace', { namespace: 'te*' }, {}],
  ['name', { pod: 'po?' }, {}],
  ['labels', { labels: { tier: 'front' } }, { labels: { tier: 'front' }, annotations: { tier: 'back' } }],
  ['annotations', { annotations: { a: 'x' } }, { labels: { a: 'y' }, annotations: { a: 'x' } }],
])('a pod is routed by its %s', async (_, rule, more) => {
  bench = new Bench();
  Object.assign(bench.services.config, { default_container_type: 'absent' });
  Object.assign(bench.services.config.routing, { rules: [{ handler: 'fake', ...rule }] });
  const { pod_sandbox_id: id = '' } = await run(more);
  expect(bench.services.store.sandboxes.get(id)?.rule).toMatch(/^routing\.rules\[0\]/);
});

test('a pod of the same name that has stopped is not used again, and one with another name is not touched', async () => {
  bench = new Bench();
  const { pod_sandbox_id: first = '' } = await run({});
  await stopPodSandbox(bench.services, { pod_sandbox_id: first });
  await expect(run({})).rejects.toMatchObject({
    id: 'NameInUse',
    message: expect.stringMatching(/SANDBOX_NOTREADY/),
  });
  const other = await runPodSandbox(bench.services, { config: podConfigOf('u2'), runtime_handler: '' }, call);
  expect(other.pod_sandbox_id).not.toBe(first);
  expect(bench.services.store.sandboxes.all().map(({ id }) => id)).toEqual([first, other.pod_sandbox_id]);
});

test('a pod whose holder has ended is not used again', async () => {
  bench = new Bench();
  const { pod_sandbox_id: id = '' } = await run({});
  await bench.services.store.sandboxes.change(id, { holder: { pid: 2 ** 22 - 1, startTime: '1' } });
  await expect(run({})).rejects.toMatchObject({ id: 'NameInUse' });
});

test('a holder is started by the runtime of its pod, then by those that are ready, then by name', () => {
  const runtime = (path: string, ready = true) => ({
    backend: { ...bench.backend, ociRuntime: { path, args: [] } },
    probe: { ready },
  });
  bench = new Bench();
  const [own, ready, broken] = [runtime('/own'), runtime('/ready'), runtime('/broken', false)];
  const ct = { backend: { ...bench.backend, ociRuntime: undefined }, probe: { ready: true } };
  const handlers = new Map(Object.entries({ ct, ready, broken })) as never;
  const paths = (backend?: object) => holderRuntimes({ handlers }, backend as never).map(({ path }) => path);
  expect(paths(own.backend)).toEqual(['/own', '/ready', 'crun', 'runc']);
  expect(paths(ct.backend)).toEqual(['/ready', 'crun', 'runc']);
  expect(paths()).toEqual(['/ready', 'crun', 'runc']);
});

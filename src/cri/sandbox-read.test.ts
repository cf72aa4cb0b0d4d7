import { afterEach, expect, test } from '@jest/globals';
import { identify } from '../host/proc.js';
import { Bench, type StandIns } from '../../test/helpers/services.js';
import { listPodSandbox, podSandboxStatus, streamPodSandboxes } from './sandbox-read.js';
import { podSandboxConfigOf } from './proto.js';

let bench: Bench;
afterEach(() => bench?.end());
const open = (standIns: StandIns = {}): Bench => (bench = new Bench(standIns));

const status = (id: string, verbose = false) =>
  podSandboxStatus(bench.services, { pod_sandbox_id: id, verbose });
const verbose = async (id: string) => {
  const { info } = await status(id, true);
  return JSON.parse(String(info?.['info'])) as Record<string, unknown>;
};
type Filter = Partial<NonNullable<Parameters<typeof listPodSandbox>[1]['filter']>>;
const list = async (filter?: Filter) => {
  const request = { filter: filter ? { id: '', state: null, label_selector: {}, ...filter } : null };
  const { items } = await listPodSandbox(bench.services, request);
  const streamed = [];
  for await (const page of streamPodSandboxes(bench.services, request))
    streamed.push(...(page.pod_sandboxes ?? []));
  expect(streamed).toEqual(items);
  return items?.map(({ id }) => id);
};
const id = (digit: string) => digit.repeat(64);
const attachment = { ips: ['10.0.0.1', 'fd00::1', '10.0.0.2'] } as never;
const ended = { exitCode: 0, finishedAt: '5', reason: '', message: '' };

test('the status of a pod has its names, labels, addresses and namespaces', async () => {
  open();
  const pod = await bench.pod(
    { attachment, runtimeHandler: 'named', createdAt: '7' },
    { labels: { a: 'b' }, annotations: { c: 'd' } },
  );
  expect((await status(pod.id)).status).toEqual({
    id: pod.id,
    metadata: { name: 'pod', namespace: 'test', uid: pod.id, attempt: 0 },
    labels: { a: 'b' },
    annotations: { c: 'd' },
    state: 'SANDBOX_READY',
    created_at: '7',
    runtime_handler: 'named',
    network: { ip: '10.0.0.1', additional_ips: [{ ip: 'fd00::1' }, { ip: '10.0.0.2' }] },
    linux: {
      namespaces: { options: expect.objectContaining({ network: 'NODE', pid: 'CONTAINER', ipc: 'NODE' }) },
    },
  });
  await bench.services.store.sandboxes.change(pod.id, {
    config: podSandboxConfigOf({ metadata: { name: 'pod', namespace: 'test', uid: pod.id } }),
  });
  expect((await status(pod.id)).status?.linux?.namespaces?.options).toMatchObject({
    network: 'POD',
    pid: 'CONTAINER',
    ipc: 'POD',
  });
});

test('a stopped pod has no address', async () => {
  open();
  const pod = await bench.pod({ attachment, stoppedAt: '9' });
  expect((await status(pod.id)).status).toMatchObject({
    state: 'SANDBOX_NOTREADY',
    network: { ip: '', additional_ips: [] },
  });
});

test('it lists its containers, the newest first, without unclaimed ones', async () => {
  open();
  const pod = await bench.pod();
  const other = await bench.pod({ id: id('f') });
  for (const [digit, createdAt] of [
    ['1', '1'],
    ['2', '10'],
    ['3', '2'],
  ] as const)
    await bench.container(pod, { id: id(digit), createdAt });
  await bench.container(pod, { id: id('4'), complete: false });
  await bench.container(other);
  const { containers_statuses: containers } = await status(pod.id);
  expect(containers?.map((container) => container.id)).toEqual([id('2'), id('3'), id('1')]);
});

test('the verbose status has additional information', async () => {
  open();
  const pod = await bench.pod();
  expect((await status(pod.id)).info).toEqual({});
  expect(await verbose(pod.id)).toMatchObject({
    handler: 'fake',
    rule: 'default',
    runtimeHandler: '',
    cgroupParent: '/crisp-test-none',
    folder: pod.plan.folder,
    config: { metadata: { name: 'pod' } },
  });
});

test('the pid of a pod is that of its holder, else of its newest running container', async () => {
  open();
  const pod = await bench.pod();
  expect((await verbose(pod.id))['pid']).toBe(0);
  await bench.running(pod, { pid: 11, createdAt: '1' });
  await bench.running(pod, { pid: 12, createdAt: '2' });
  await bench.running(pod, { pid: 13, createdAt: '3', exit: ended });
  expect((await verbose(pod.id))['pid']).toBe(11);
  await bench.services.store.sandboxes.change(pod.id, { holder: await identify(process.pid) });
  expect((await verbose(pod.id))['pid']).toBe(process.pid);
  await bench.services.store.sandboxes.change(pod.id, { stoppedAt: '4' });
  expect((await verbose(pod.id))['pid']).toBe(0);
});

test('its namespaces are listed while they exist', async () => {
  open();
  const pod = await bench.pod();
  await bench.services.store.sandboxes.change(pod.id, {
    plan: { ...pod.plan, namespaces: { network: '/net', ipc: '/ipc' }, hostname: 'box' },
  });
  const spec = async () => (await verbose(pod.id))['runtimeSpec'];
  expect(await spec()).toMatchObject({
    hostname: 'box',
    linux: {
      cgroupsPath: '/crisp-test-none',
      namespaces: [
        { type: 'network', path: '/net' },
        { type: 'ipc', path: '/ipc' },
      ],
    },
  });
  await bench.services.store.sandboxes.change(pod.id, { stoppedAt: '4' });
  expect(await spec()).toMatchObject({ linux: { namespaces: [] } });
});

test.each<[string, () => Promise<unknown>, unknown]>([
  ['as it was made', () => Promise.resolve(true), 'as it was made'],
  ['not checked', () => Promise.resolve(false), expect.stringContaining('not checked')],
  ['broken', () => Promise.reject(new Error('no bridge')), expect.stringContaining('no bridge')],
])('the verbose status checks the network of a pod: %s', async (_, check, told) => {
  open({ network: { check } });
  const pod = await bench.pod({ attachment });
  await status(pod.id);
  expect(bench.toldOf('network.check')).toEqual([]);
  expect(await verbose(pod.id)).toMatchObject({ networkCheck: told });
  await bench.services.store.sandboxes.change(pod.id, { stoppedAt: '4' });
  expect(await verbose(pod.id)).not.toHaveProperty('networkCheck');
  expect(await verbose((await bench.pod({ id: id('e') })).id)).not.toHaveProperty('networkCheck');
});

test('the address of a container with its own network is queried while one runs, and kept', async () => {
  open({ backend: { addresses: () => Promise.resolve(['192.0.2.7', 'fd00::7']) } });
  const pod = await bench.pod();
  const plan = { ...pod.plan, ownNetwork: true };
  const network = async () => (await status(pod.id)).status?.network;
  await bench.running(pod);
  expect(await network()).toEqual({ ip: '', additional_ips: [] }); // its network is the host's
  await bench.services.store.sandboxes.change(pod.id, { plan });
  expect(await network()).toEqual({ ip: '192.0.2.7', additional_ips: [{ ip: 'fd00::7' }] });
  expect(await network()).toEqual({ ip: '192.0.2.7', additional_ips: [{ ip: 'fd00::7' }] });
  expect(bench.toldOf('backend.addresses')).toHaveLength(1);
  const idle = await bench.pod({ id: id('d'), plan });
  await bench.container(idle);
  expect((await status(idle.id)).status?.network?.ip).toBe('');
  expect(bench.toldOf('backend.addresses')).toHaveLength(1);
});

test('a pod whose holder has ended is not ready, which is reported once', async () => {
  open();
  const heard = bench.listen();
  const pod = await bench.pod({ holder: { pid: 2 ** 22 + 1, startTime: '1' } });
  for (let times = 0; times < 2; times++)
    expect((await status(pod.id)).status?.state).toBe('SANDBOX_NOTREADY');
  expect(heard.map(({ container_event_type: type }) => type)).toEqual(['CONTAINER_STOPPED_EVENT']);
  expect(bench.services.store.sandboxes.get(pod.id)?.endedAt).toBeDefined();
});

test('complete pods are listed from the oldest to the newest', async () => {
  open();
  expect(await list()).toEqual([]);
  await bench.pod({ id: id('1'), createdAt: '30' }, { labels: { app: 'a', tier: 'x' } });
  await bench.pod({ id: id('2'), createdAt: '4' }, { labels: { app: 'a' } });
  await bench.pod({ id: id('3'), createdAt: '5', stoppedAt: '6' }, { labels: { app: 'b' } });
  await bench.pod({ id: id('4'), complete: false });
  expect(await list()).toEqual([id('2'), id('3'), id('1')]);
  expect(await list({})).toEqual([id('2'), id('3'), id('1')]);
  expect(await list({ state: { state: 'SANDBOX_READY' } })).toEqual([id('2'), id('1')]);
  expect(await list({ state: { state: 'SANDBOX_NOTREADY' } })).toEqual([id('3')]);
  expect(await list({ label_selector: { app: 'a' } })).toEqual([id('2'), id('1')]);
  expect(await list({ label_selector: { app: 'a', tier: 'x' } })).toEqual([id('1')]);
  expect(await list({ label_selector: { tier: '' } })).toEqual([]);
  expect(await list({ id: '3' })).toEqual([id('3')]);
  expect(await list({ id: '9' })).toEqual([]);
});

test.each([
  [1000, [500, 500]],
  [1001, [500, 500, 1]],
])('a list of %i is complete, in pages of 500', async (length, expected) => {
  open();
  const pod = await bench.pod();
  const { sandboxes } = bench.services.store;
  const all = Array.from({ length }, (_, index) => ({
    ...pod,
    id: index.toString(16).padStart(64, '0'),
  }));
  Object.assign(bench.services.store, { sandboxes: { all: () => all, get: () => undefined } });
  const pages = [];
  for await (const page of streamPodSandboxes(bench.services, { filter: null }))
    pages.push(page.pod_sandboxes?.length);
  Object.assign(bench.services.store, { sandboxes });
  expect(pages).toEqual(expected);
});

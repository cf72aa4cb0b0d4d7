import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Bench } from '../../test/helpers/services.js';
import { containerStatusOf, listContainers, streamContainers } from './container-read.js';
import { linuxResourcesOf } from './proto.js';

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.end());

const status = (id: string, verbose = false) =>
  containerStatusOf(bench.services, { container_id: id, verbose });
const id = (digit: string) => digit.repeat(64);
const ended = { exitCode: 3, finishedAt: '9', reason: 'Error', message: 'it failed' };

test('the status of a container has the right value in each field', async () => {
  const pod = await bench.pod();
  const mounts = [{ container_path: '/a' }, { container_path: '/b', image: { image: 'volume' } }];
  const container = await bench.running(
    pod,
    {
      createdAt: '7',
      startedAt: '8',
      imageVolumes: { 1: 'volume-id' },
      imageName: 'name:1',
      logPath: '/logs/0.log',
      stopSignal: 'SIGNAL_SIGQUIT',
      user: { uid: 1, gid: 2, supplementalGroups: [3, 4] },
      resources: linuxResourcesOf({ cpu_shares: '5' }),
    },
    { labels: { a: 'b' }, annotations: { c: 'd' }, mounts },
  );
  const { status: told, info } = await status(container.id);
  expect(info).toEqual({});
  expect(told).toMatchObject({
    id: container.id,
    metadata: { name: container.id.slice(0, 8), attempt: 0 },
    image: { image: 'name:1' },
    labels: { a: 'b' },
    annotations: { c: 'd' },
    mounts: [{ container_path: '/a' }, { container_path: '/b', image: { image_ref: 'volume-id' } }],
    image_ref: 'image@digest',
    image_id: 'image-id',
    state: 'CONTAINER_RUNNING',
    created_at: '7',
    started_at: '8',
    finished_at: '0',
    exit_code: 0,
    reason: '',
    message: '',
    log_path: '/logs/0.log',
    resources: { linux: { cpu_shares: '5' } },
    user: { linux: { uid: 1, gid: 2, supplemental_groups: [3, 4] } },
    stop_signal: 'SIGNAL_SIGQUIT',
  });
  expect(told?.mounts?.[0]?.image?.image_ref ?? '').toBe('');
});

test('containers that were not started, have ended or have lost their monitor are reported as such', async () => {
  const pod = await bench.pod();
  const created = await bench.container(pod);
  expect((await status(created.id)).status).toMatchObject({
    state: 'CONTAINER_CREATED',
    started_at: '0',
    resources: null,
    image: { image: 'image' },
  });
  const exited = await bench.running(pod, { exit: ended, unwatchedAt: '8' });
  expect((await status(exited.id)).status).toMatchObject({
    state: 'CONTAINER_EXITED',
    exit_code: 3,
    finished_at: '9',
    reason: 'Error',
    message: 'it failed',
  });
  const unwatched = await bench.running(pod, { unwatchedAt: '8' });
  expect((await status(unwatched.id)).status).toMatchObject({
    state: 'CONTAINER_RUNNING',
    reason: 'MonitorLost',
    message: expect.stringContaining('monitor'),
  });
});

test('the verbose status has the spec with the current limits, and the pid while it runs', async () => {
  const pod = await bench.pod();
  const container = await bench.running(pod, {
    pid: 77,
    notHonoured: ['linux.x'],
    madeMountSources: ['/made'],
    backendState: { vmid: 1 },
  });
  const more = async (of = container.id) => {
    const { info } = await status(of, true);
    return JSON.parse(String(info?.['info'])) as Record<string, unknown>;
  };
  expect((await more())['runtimeSpec']).toBeUndefined(); // no bundle
  mkdirSync(container.folder, { recursive: true });
  const resources = {
    devices: [{ allow: false }],
    memory: { limit: 1000, swap: 1000 },
    cpu: { shares: 2, period: 100 },
    unified: { 'memory.high': '1' },
  };
  writeFileSync(
    join(container.folder, 'config.json'),
    JSON.stringify({ ociVersion: '1', linux: { namespaces: [], resources } }),
  );
  expect(await more()).toMatchObject({
    sandboxID: pod.id,
    pid: 77,
    handler: 'fake',
    bundle: container.folder,
    notHonoured: ['linux.x'],
    madeMountSources: ['/made'],
    backendState: { vmid: 1 },
    runtimeSpec: { ociVersion: '1', linux: { namespaces: [], resources } },
  });
  await bench.services.store.containers.change(container.id, {
    resources: linuxResourcesOf({
      cpu_shares: '512',
      memory_limit_in_bytes: '8192',
      unified: { 'memory.low': '3' },
    }),
  });
  expect((await more())['runtimeSpec']).toMatchObject({
    linux: {
      namespaces: [],
      resources: {
        devices: [{ allow: false }],
        memory: { limit: 8192, swap: 1000 },
        cpu: { shares: 512, period: 100 },
        unified: { 'memory.high': '1', 'memory.low': '3' },
      },
    },
  });
  await bench.services.store.containers.change(container.id, { exit: ended });
  expect((await more())['pid']).toBe(0);
  const created = await bench.container(pod);
  const others = await more(created.id);
  expect(others['pid']).toBe(0);
  expect(others).not.toHaveProperty('madeMountSources');
});

test('limits are reported also if the container was created without limits', async () => {
  const pod = await bench.pod();
  const container = await bench.running(pod, {
    resources: linuxResourcesOf({ cpu_shares: '512', memory_limit_in_bytes: '8192' }),
  });
  mkdirSync(container.folder, { recursive: true });
  writeFileSync(join(container.folder, 'config.json'), JSON.stringify({ linux: {} }));
  const { info } = await status(container.id, true);
  const { runtimeSpec } = JSON.parse(String(info?.['info'])) as { runtimeSpec: unknown };
  expect(runtimeSpec).toMatchObject({
    linux: { resources: { memory: { limit: 8192 }, cpu: { shares: 512 } } },
  });
  expect(runtimeSpec).not.toHaveProperty('linux.resources.unified');
});

test('containers are listed from the oldest to the newest, with each filter', async () => {
  type Filter = Partial<NonNullable<Parameters<typeof listContainers>[1]['filter']>>;
  const list = async (filter?: Filter) => {
    const request = {
      filter: filter ? { id: '', state: null, pod_sandbox_id: '', label_selector: {}, ...filter } : null,
    };
    const { containers } = await listContainers(bench.services, request);
    const streamed = [];
    for await (const page of streamContainers(bench.services, request))
      streamed.push(...(page.containers ?? []));
    expect(streamed).toEqual(containers);
    return containers?.map((container) => container.id);
  };
  expect(await list()).toEqual([]);
  const [one, two] = [await bench.pod({ id: id('a') }), await bench.pod({ id: id('b') })];
  await bench.container(one, { id: id('1'), createdAt: '30' }, { labels: { app: 'a' } });
  await bench.running(one, { id: id('2'), createdAt: '4' }, { labels: { app: 'b' } });
  await bench.running(two, { id: id('3'), createdAt: '5', exit: ended }, { labels: { app: 'a' } });
  await bench.container(two, { id: id('4'), complete: false });
  expect(await list()).toEqual([id('2'), id('3'), id('1')]);
  expect(await list({})).toEqual([id('2'), id('3'), id('1')]);
  expect(await list({ id: '1' })).toEqual([id('1')]);
  expect(await list({ pod_sandbox_id: 'a' })).toEqual([id('2'), id('1')]);
  expect(await list({ pod_sandbox_id: 'c' })).toEqual([]);
  expect(await list({ state: { state: 'CONTAINER_RUNNING' } })).toEqual([id('2')]);
  expect(await list({ state: { state: 'CONTAINER_CREATED' } })).toEqual([id('1')]);
  expect(await list({ label_selector: { app: 'a' } })).toEqual([id('3'), id('1')]);
});

test('an unambiguous prefix of an id is accepted', async () => {
  const pod = await bench.pod();
  await bench.container(pod, { id: `a1${'0'.repeat(62)}` });
  await bench.container(pod, { id: `a2${'0'.repeat(62)}` });
  await bench.container(pod, { id: `a3${'0'.repeat(62)}`, complete: false });
  expect((await status('a1')).status?.id).toMatch(/^a10/);
  await expect(status('a')).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringMatching(/beginning of 2 ids: a10+, a20+$/),
  });
  await expect(status('')).rejects.toMatchObject({ id: 'InvalidArgument' });
  await expect(status('a3')).rejects.toMatchObject({ id: 'ContainerNotFound' });
  await expect(status('b')).rejects.toMatchObject({ id: 'ContainerNotFound' });
  for (let index = 0; index < 11; index++)
    await bench.container(pod, { id: `c${index.toString(16)}${'0'.repeat(62)}` });
  await expect(status('c')).rejects.toMatchObject({ message: expect.stringContaining(' and 1 more') });
});

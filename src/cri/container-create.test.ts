// CreateContainer: its results, records and undo. The rootfs is a real folder, the
// backend a stand-in.
import { afterEach, expect, test } from '@jest/globals';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ContainerPlan } from '../backends/backend.js';
import { readHostFacts } from '../oci/host-facts.js';
import { unpack } from '../records/recovery-label.js';
import { Bench, call, settled, type StandIns } from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { createContainer } from './container-create.js';
import { containerConfigOf } from './proto.js';

let bench: Bench;
afterEach(() => bench?.end());

const image = {
  id: 'image-id',
  tags: ['docker.io/library/i:1', 'docker.io/library/i:2'],
  digests: ['docker.io/library/i@sha256:1'],
  config: { Cmd: ['/bin/sh'], StopSignal: 'SIGQUIT' },
};
const volume = { ...image, id: 'volume-id' };
let plan: ContainerPlan | undefined;
function open({ backend, images, rootfs }: StandIns = {}): void {
  plan = undefined;
  bench = new Bench({
    backend: {
      create: async (its) => {
        plan = its;
        return 'state of the backend';
      },
      ...backend,
    },
    images: { find: async (name: string) => (name === 'volume' ? volume : image), ...images },
    rootfs: {
      provide: async () => {
        const folder = join(bench.folder, 'rootfs');
        mkdirSync(join(folder, 'etc'), { recursive: true });
        return folder;
      },
      mountImage: async () => {
        const folder = join(bench.folder, 'view');
        mkdirSync(folder, { recursive: true });
        return folder;
      },
      volumes: (id: string) => join(bench.folder, 'volumes', id),
      ...rootfs,
    },
  });
  Object.assign(bench.services, { host: { ...readHostFacts(bench.services.config), systemdCgroup: false } });
}
const create = (pod: { readonly id: string; readonly config: object }, config: object = {}) =>
  createContainer(
    bench.services,
    {
      pod_sandbox_id: pod.id,
      config: containerConfigOf({ metadata: { name: 'c' }, image: { image: 'image' }, ...config }),
      sandbox_config: pod.config as never,
    },
    call,
  );
const records = () => bench.services.store.containers.all();

test('a container has its record, its bundle and its event', async () => {
  open({ backend: { notHonoured: () => ['spec.x'] } });
  const pod = await bench.pod({}, { log_directory: '/var/log/pods/p' });
  const heard = bench.listen();
  const resources = { cpu_shares: '512' };
  const source = join(bench.folder, 'not-there');
  const { container_id: id = '' } = await create(pod, {
    log_path: 'c.log',
    linux: { resources },
    mounts: [{ container_path: '/m', host_path: source }],
    envs: [{ key: 'SECRET', value: Buffer.from('word') }],
  });
  expect(bench.services.store.containers.get(id)).toMatchObject({
    id,
    sandboxId: pod.id,
    handler: 'fake',
    bootId: bench.services.bootId,
    complete: true,
    imageId: 'image-id',
    imageRef: 'docker.io/library/i@sha256:1',
    imageName: 'docker.io/library/i:1',
    imageVolumes: {},
    folder: join(bench.folder, 'bundles', id),
    logPath: '/var/log/pods/p/c.log',
    stopSignal: 'SIGNAL_SIGQUIT',
    user: { uid: 0, gid: 0 },
    notHonoured: ['spec.x'],
    madeMountSources: [source],
    resources,
    backendState: 'state of the backend',
  });
  expect(plan).toMatchObject({ id, name: 'c', image: 'docker.io/library/i@sha256:1', stopSignal: '3' });
  const bundle = join(bench.folder, 'bundles', id);
  expect([statSync(bundle).mode & 0o777, statSync(join(bundle, 'config.json')).mode & 0o777]).toEqual([
    0o700, 0o600,
  ]);
  expect(JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8'))).toMatchObject({
    process: { args: ['/bin/sh'], env: expect.arrayContaining(['SECRET=word']) },
    linux: { resources: { cpu: { shares: 512 } } },
  });
  const label = unpack(plan?.recoveryLabel?.() ?? '');
  expect(label).toMatchObject({ sandbox: { id: pod.id }, container: { id, complete: true } });
  expect(label?.container.config.envs).toEqual([]); // other users of the container could read it
  await until(() => heard.length > 0, 'its event is told');
  expect(heard).toMatchObject([{ container_event_type: 'CONTAINER_CREATED_EVENT', container_id: id }]);
});

test('an image that is mounted is recorded by its id, with the index of its mount', async () => {
  open();
  const { container_id: id = '' } = await create(await bench.pod(), {
    mounts: [
      { container_path: '/a', host_path: bench.folder },
      { container_path: '/b', image: { image: 'volume' }, readonly: true },
    ],
  });
  const record = bench.services.store.containers.get(id);
  expect(record?.imageVolumes).toEqual({ 1: 'volume-id' });
  expect(record).not.toHaveProperty('madeMountSources');
  expect(record).not.toHaveProperty('resources');
});

test.each<[string, object, string]>([
  ['no tag', { tags: [] }, 'docker.io/library/i@sha256:1'],
  ['no name', { tags: [], digests: [] }, 'image-id'],
  ['a template', { tags: [], digests: [], template: 'debian' }, 'pve/debian'],
])('an image with %s is known by another name', async (_, less, name) => {
  open({ images: { find: async () => ({ ...image, ...less }) } });
  const { container_id: id = '' } = await create(await bench.pod());
  expect(bench.services.store.containers.get(id)).toMatchObject({
    imageName: name,
    imageRef: name,
  });
});

test.each<[string, StandIns, string[]]>([
  ['the image', { images: { find: () => Promise.reject(new Error('broken')) } }, ['images.find']],
  [
    'the rootfs',
    { rootfs: { provide: () => Promise.reject(new Error('broken')) } },
    ['images.find', 'backend.rootfs', 'rootfs.provide', 'rootfs.unmount'],
  ],
  [
    'the backend',
    { backend: { create: () => Promise.reject(new Error('broken')) } },
    [
      'images.find',
      'backend.rootfs',
      'rootfs.provide',
      'rootfs.volumes',
      'backend.notHonoured',
      'backend.create',
      'rootfs.unmount',
    ],
  ],
])('a creation leaves nothing behind if its step, by %s, fails', async (_, standIns, told) => {
  open({ ...standIns, backend: { notHonoured: () => [], ...standIns.backend } });
  const pod = await bench.pod();
  const heard = bench.listen();
  await expect(create(pod)).rejects.toThrow('broken');
  expect(bench.told.map((line) => line.split(' ')[0])).toEqual(told);
  expect(records()).toEqual([]);
  expect(readdirSync(join(bench.folder, 'containers'))).toEqual([]);
  const bundles = join(bench.folder, 'bundles');
  expect(existsSync(bundles) ? readdirSync(bundles) : []).toEqual([]);
  expect(heard).toEqual([]);
});

test('a creation that could not be undone keeps its record, and the retry removes the rest first', async () => {
  let isBroken = true;
  open({
    backend: {
      create: () => (isBroken ? Promise.reject(new Error('broken')) : Promise.resolve('made')),
    },
    rootfs: { unmount: () => (isBroken ? Promise.reject(new Error('busy')) : Promise.resolve()) },
  });
  const pod = await bench.pod();
  await expect(create(pod)).rejects.toThrow('broken');
  expect(records()).toMatchObject([{ complete: false }]);
  const [left] = records();
  isBroken = false;
  const { container_id: id } = await create(pod);
  expect(id).not.toBe(left?.id);
  expect(records().map((record) => record.id)).toEqual([id]);
});

test('a repeated request returns the same container until it is started; a different request is refused', async () => {
  open();
  const pod = await bench.pod();
  const first = await create(pod);
  expect(await create(pod)).toEqual(first);
  await expect(create(pod, { tty: true })).rejects.toMatchObject({ id: 'NameInUse' });
  expect((await create(pod, { metadata: { name: 'c', attempt: 1 } })).container_id).not.toBe(
    first.container_id,
  );
  await bench.services.store.containers.change(first.container_id ?? '', { startedAt: '1' });
  await expect(create(pod)).rejects.toMatchObject({ id: 'NameInUse' });
  expect(records()).toHaveLength(2);
});

test.each<[string, object, string]>([
  ['no name', { metadata: { name: '' } }, 'InvalidArgument'],
  ['no image', { image: { image: '' } }, 'InvalidArgument'],
  [
    'a writable image mount',
    { mounts: [{ container_path: '/b', image: { image: 'volume' } }] },
    'InvalidArgument',
  ],
])('a request with %s is refused before any lookup', async (_, config, id) => {
  open();
  await expect(create(await bench.pod(), config)).rejects.toMatchObject({ id });
  expect(bench.told).toEqual([]);
});

test('a missing image has its own error', async () => {
  open({ images: { find: async () => undefined } });
  await expect(create(await bench.pod())).rejects.toMatchObject({ id: 'ImageNotFound' });
});

test('a target for the pid namespace must be a container of the same pod', async () => {
  open();
  const [pod, other] = [await bench.pod(), await bench.pod()];
  const [mine, foreign] = [
    await bench.running(pod, { pid: process.pid }),
    await bench.running(other, { pid: process.pid }),
  ];
  const targeting = (target_id: string) =>
    create(pod, { linux: { security_context: { namespace_options: { pid: 'TARGET', target_id } } } });
  await expect(targeting(foreign.id)).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringContaining('another pod'),
  });
  await expect(targeting('f'.repeat(64))).rejects.toMatchObject({ id: 'ContainerNotFound' });
  await targeting(mine.id);
  expect(plan?.spec.linux.namespaces).toContainEqual({ type: 'pid', path: `/proc/${process.pid}/ns/pid` });
});

test('a request that is repeated sends no second event, and one without a config is refused', async () => {
  open();
  const pod = await bench.pod();
  const heard = bench.listen();
  await create(pod);
  await until(() => heard.length > 0, 'the event is sent');
  await create(pod);
  await settled();
  expect(heard).toHaveLength(1);
  await expect(
    createContainer(
      bench.services,
      { pod_sandbox_id: pod.id, config: null, sandbox_config: pod.config },
      call,
    ),
  ).rejects.toMatchObject({ id: 'InvalidArgument', message: 'config is missing' });
});

test('a container whose record cannot be completed is deleted by the backend', async () => {
  open();
  const pod = await bench.pod();
  const { containers } = bench.services.store;
  const put = containers.put.bind(containers);
  containers.put = (record) => (record.complete ? Promise.reject(new Error('no space')) : put(record));
  const deleted: unknown[] = [];
  bench.backend.delete = async (container) => void deleted.push(container);
  await expect(create(pod)).rejects.toThrow('no space');
  expect(deleted).toMatchObject([
    { folder: expect.stringContaining('bundles'), logPath: '', state: 'state of the backend' },
  ]);
  expect(records()).toEqual([]);
});

test('a creation that fails because a namespace of the pod is unmounted says so', async () => {
  open({ backend: { create: () => Promise.reject(new Error('setns: invalid argument')) } });
  const pod = await bench.pod();
  const ipc = join(bench.folder, 'ipc');
  writeFileSync(ipc, '');
  await bench.services.store.sandboxes.put({ ...pod, plan: { ...pod.plan, namespaces: { ipc } } });
  await expect(create(pod)).rejects.toMatchObject({
    id: 'SandboxNotReady',
    message: expect.stringContaining(`${ipc} is unmounted`),
  });
});

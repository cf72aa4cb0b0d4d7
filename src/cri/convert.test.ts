// The messages of the CRI for records: all input values differ, so that none can be in the wrong field.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Bench } from '../../test/helpers/services.js';
import { containerItem, containerStatus, sandboxItem, sandboxStatus } from './convert.js';
import { linuxResourcesOf } from './proto.js';

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.end());

const parts = {
  imageId: 'image-id',
  imageRef: 'image@digest',
  imageName: 'image:1',
  createdAt: '11',
  logPath: '/log',
  user: { uid: 21, gid: 22, supplementalGroups: [23] },
};
const requested = {
  metadata: { name: 'c', attempt: 1 },
  image: { image: 'sha' },
  labels: { l: '1' },
  annotations: { a: '2' },
  mounts: [
    { container_path: '/m', host_path: '/m' },
    { container_path: '/i', image: { image: 'volume' } },
  ],
};

test('the status of a container that was created has no later values', async () => {
  const pod = await bench.pod();
  const record = await bench.container(pod, parts, requested);
  expect(containerStatus(record)).toMatchObject({
    id: record.id,
    metadata: { name: 'c', attempt: 1 },
    image: { image: 'image:1' },
    labels: { l: '1' },
    annotations: { a: '2' },
    image_ref: 'image@digest',
    image_id: 'image-id',
    state: 'CONTAINER_CREATED',
    created_at: '11',
    started_at: '0',
    finished_at: '0',
    exit_code: 0,
    reason: '',
    message: '',
    log_path: '/log',
    resources: null,
    user: { linux: { uid: 21, gid: 22, supplemental_groups: [23] } },
    stop_signal: 'SIGNAL_SIGTERM',
  });
  expect(containerItem(record)).toMatchObject({
    id: record.id,
    pod_sandbox_id: pod.id,
    image: { image: 'sha' },
    image_ref: 'image@digest',
    image_id: 'image-id',
    created_at: '11',
  });
});

test('the status of a container has its exit, its limits and the images of its volumes', async () => {
  const exit = { exitCode: 7, finishedAt: '13', reason: 'Error', message: 'words' };
  const resources = linuxResourcesOf({ cpu_shares: '512' });
  const change = { ...parts, startedAt: '12', unwatchedAt: '14', exit, resources, imageVolumes: { 1: 'v' } };
  const status = containerStatus(await bench.container(await bench.pod(), change, requested));
  expect(status).toMatchObject({
    started_at: '12',
    finished_at: '13',
    exit_code: 7,
    reason: 'Error',
    message: 'words',
    resources: { linux: { cpu_shares: '512' } },
  });
  expect(status.mounts?.map(({ image }) => image?.image_ref)).toEqual([undefined, 'v']);
});

test('a container without a monitor says so while it runs; one without an image has none', async () => {
  const change = { startedAt: '12', unwatchedAt: '14', imageName: undefined };
  const status = containerStatus(await bench.container(await bench.pod(), change, requested));
  expect(status).toMatchObject({
    reason: 'MonitorLost',
    message: expect.stringContaining('has ended'),
    image: { image: 'sha' },
  });
  expect(containerStatus(await bench.container(await bench.pod(), {}, { image: null })).image).toBeNull();
});

test('the status of a pod has its addresses while it is ready', async () => {
  const pod = await bench.pod({ createdAt: '11', runtimeHandler: 'runc', ips: ['10.1.2.3', 'fd00::1'] });
  expect(sandboxItem(pod)).toMatchObject({ created_at: '11', runtime_handler: 'runc' });
  expect(sandboxStatus(pod)).toMatchObject({
    state: 'SANDBOX_READY',
    network: { ip: '10.1.2.3', additional_ips: [{ ip: 'fd00::1' }] },
    linux: { namespaces: { options: { network: 'NODE' } } },
  });
  const stopped = { ...pod, stoppedAt: '1', config: { ...pod.config, linux: null } };
  expect(sandboxStatus(stopped)).toMatchObject({
    state: 'SANDBOX_NOTREADY',
    network: { ip: '', additional_ips: [] },
    linux: { namespaces: { options: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } } },
  });
});

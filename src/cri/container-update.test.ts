import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Bench, podConfigOf } from '../../test/helpers/services.js';
import type { Resources } from '../shapes/spec.js';
import {
  reopenContainerLog,
  updateContainerResources,
  updatePodSandboxResources,
} from './container-update.js';
import { containerStatusOf } from './container-read.js';
import { linuxResourcesOf } from './proto.js';

let bench: Bench;
let asked: Resources[];
beforeEach(() => {
  asked = [];
  bench = new Bench({ backend: { update: async (_, resources) => void asked.push(resources) } });
});
afterEach(() => bench.end());

const update = (id: string, linux: object | null) =>
  updateContainerResources(bench.services, {
    container_id: id,
    linux: linux && linuxResourcesOf(linux),
    windows: null,
    annotations: {},
  });

test('an update changes only the given values', async () => {
  const { id } = await bench.running(await bench.pod(), {
    resources: linuxResourcesOf({
      cpu_shares: '512',
      cpu_quota: '70000',
      memory_limit_in_bytes: '1000000',
      cpuset_cpus: '0',
      oom_score_adj: '12',
      unified: { 'memory.high': '5' },
      hugepage_limits: [{ page_size: '2MB', limit: '6' }],
    }),
  });
  await update(id, { memory_limit_in_bytes: '2000000' });
  expect(asked).toEqual([{ memory: { limit: 2_000_000 } }]);
  expect(bench.services.store.containers.get(id)?.resources).toMatchObject({
    cpu_shares: '512',
    cpu_quota: '70000',
    memory_limit_in_bytes: '2000000',
    cpuset_cpus: '0',
    unified: { 'memory.high': '5' },
    hugepage_limits: [{ page_size: '2MB', limit: '6' }],
  });
  await update(id, {
    unified: { 'memory.high': '7' },
    cpuset_cpus: '1',
    hugepage_limits: [{ page_size: '2MB', limit: '8' }],
  });
  expect(bench.services.store.containers.get(id)?.resources).toMatchObject({
    memory_limit_in_bytes: '2000000',
    cpuset_cpus: '1',
    unified: { 'memory.high': '7' },
    hugepage_limits: [{ page_size: '2MB', limit: '8' }],
  });
});

test.each([
  ['more memory keeps the amount of swap', ['2000', '3000'], ['9000', '0'], ['9000', '10000']],
  ['less memory as well', ['2000', '3000'], ['1000', '0'], ['1000', '2000']],
  ['unlimited swap stays unlimited', ['2000', '-1'], ['9000', '0'], ['9000', '-1']],
  ['unlimited memory has unlimited swap', ['2000', '3000'], ['-1', '0'], ['-1', '-1']],
  ['more swap keeps the memory', ['2000', '3000'], ['0', '5000'], ['2000', '5000']],
  ['both are set', ['2000', '3000'], ['4000', '4000'], ['4000', '4000']],
  ['a container without a limit of swap gets none', ['2000', '0'], ['9000', '0'], ['9000', '0']],
])('the limits of memory and swap fit each other after an update: %s', async (_, made, asks, result) => {
  const limits = ([limit = '', swap = '']: string[]) => ({
    memory_limit_in_bytes: limit === '0' || limit === '-1' ? limit : `${limit}000`,
    memory_swap_limit_in_bytes: swap === '0' || swap === '-1' ? swap : `${swap}000`,
  });
  const { id } = await bench.running(await bench.pod(), { resources: linuxResourcesOf(limits(made)) });
  await update(id, limits(asks));
  expect(bench.services.store.containers.get(id)?.resources).toMatchObject(limits(result));
  await containerStatusOf(bench.services, { container_id: id, verbose: true }); // checks them
});

test('the first update sets the limits of a container without limits', async () => {
  const { id } = await bench.container(await bench.pod());
  await update(id, { cpu_shares: '99' });
  expect(bench.services.store.containers.get(id)?.resources).toMatchObject({ cpu_shares: '99' });
});

test('an update that the backend refuses is not recorded', async () => {
  bench.backend.update = () => Promise.reject(new Error('no room'));
  const before = await bench.running(await bench.pod());
  await expect(update(before.id, { cpu_shares: '99' })).rejects.toThrow('no room');
  expect(bench.services.store.containers.get(before.id)).toEqual(before);
});

test.each<[string, object, object | null, string]>([
  [
    'one that has exited',
    { exit: { exitCode: 0, finishedAt: '1', reason: '', message: '' } },
    {},
    'WrongContainerState',
  ],
  ['one for another system', {}, null, 'InvalidArgument'],
])('an update of %s is refused', async (_, change, linux, id) => {
  const record = await bench.running(await bench.pod(), change);
  await expect(update(record.id, linux)).rejects.toMatchObject({ id });
  expect(asked).toEqual([]);
});

test('limits of a pod cgroup that the kubelet owns are recorded, but not written', async () => {
  const pod = await bench.pod();
  expect(pod.config).toEqual(podConfigOf(pod.id));
  // The cgroup does not exist: to write into it would fail.
  await updatePodSandboxResources(bench.services, {
    pod_sandbox_id: pod.id,
    resources: linuxResourcesOf({ memory_limit_in_bytes: '1' }),
    overhead: linuxResourcesOf({ cpu_shares: '2' }),
  });
  expect(bench.services.store.sandboxes.get(pod.id)).toMatchObject({
    resources: { memory_limit_in_bytes: '1' },
    overhead: { cpu_shares: '2' },
  });
  await updatePodSandboxResources(bench.services, {
    pod_sandbox_id: pod.id,
    resources: null,
    overhead: null,
  });
  expect(bench.services.store.sandboxes.get(pod.id)).toMatchObject({
    resources: { memory_limit_in_bytes: '1' },
    overhead: { cpu_shares: '2' },
  });
});

test('limits of a pod cgroup that crisp owns are written', async () => {
  const pod = await bench.pod({}, { linux: { cgroup_parent: '' } });
  await expect(
    updatePodSandboxResources(bench.services, {
      pod_sandbox_id: pod.id,
      resources: linuxResourcesOf({ memory_limit_in_bytes: '1048576' }),
      overhead: null,
    }),
  ).rejects.toThrow(/crisp-test-none/); // it is not there
  expect(bench.services.store.sandboxes.get(pod.id)?.resources).toBeUndefined();
});

test('the log of a running container is reopened', async () => {
  const pod = await bench.pod();
  const { id } = await bench.running(pod);
  await reopenContainerLog(bench.services, { container_id: id });
  expect(bench.told).toEqual([`backend.reopenLog ${id}`]);
  const created = await bench.container(pod);
  await expect(reopenContainerLog(bench.services, { container_id: created.id })).rejects.toMatchObject({
    id: 'WrongContainerState',
  });
});

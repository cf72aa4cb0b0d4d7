// Series of a pod and its containers, read from the cgroups and interfaces of this test
// process.
import { afterEach, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { Bench } from '../../test/helpers/services.js';
import { listMetricDescriptors, listPodSandboxMetrics, streamPodSandboxMetrics } from './pod-metrics.js';

let bench: Bench;
const measured: unknown[] = [];
afterEach(() => bench?.end());

function own(cgroup = '/'): void {
  measured.splice(0);
  bench = new Bench({
    backend: { cgroup: () => cgroup },
    usageCache: { layersMeasured: async (...all: unknown[]) => void measured.push(all) },
  });
  mkdirSync(bench.services.config.root);
}
const ask = async () => (await listPodSandboxMetrics(bench.services, {})).pod_metrics ?? [];

test('every series has a descriptor, with its labels in order', async () => {
  own();
  const { descriptors = [] } = await listMetricDescriptors(bench.services, {});
  expect(descriptors.length).toBeGreaterThan(20);
  for (const { name, help, label_keys: labels } of descriptors) {
    expect(name).toMatch(/^(container|machine)_/);
    expect(help).toBeTruthy();
    expect(labels?.slice(0, 6)).toEqual(['id', 'name', 'image', 'namespace', 'pod', 'container']);
  }
  const more = descriptors.flatMap(({ name = '', label_keys: labels = [] }) =>
    labels.length > 6 ? [[name.replace(/^container_/, ''), labels.slice(6).join()]] : [],
  );
  expect(Object.fromEntries(more)).toMatchObject({
    cpu_usage_seconds_total: 'cpu',
    fs_limit_bytes: 'device',
    fs_inodes_free: 'device',
    fs_inodes_total: 'device',
    fs_usage_bytes: 'device',
    hugetlb_usage_bytes: 'pagesize',
    hugetlb_max_usage_bytes: 'pagesize',
    memory_failures_total: 'failure_type,scope',
    blkio_device_usage_total: 'device,major,minor,operation',
    network_receive_bytes_total: 'interface',
    network_transmit_errors_total: 'interface',
  });
});

test('a running container has series, with as many labels as described', async () => {
  own();
  const pod = await bench.pod();
  const ended = { exitCode: 0, finishedAt: '1', reason: '', message: '' };
  const { id } = await bench.running(
    pod,
    { pid: process.pid },
    { metadata: { name: 'main' }, image: { image: 'sha', user_specified_image: 'asked:1' } },
  );
  await bench.running(pod, { exit: ended });
  await bench.container(pod);
  const [metrics] = await ask();
  expect(metrics?.pod_sandbox_id).toBe(pod.id);
  expect(metrics?.metrics).toEqual([]); // on the host's network
  expect(metrics?.container_metrics?.map((one) => one.container_id)).toEqual([id]);
  expect(measured).toEqual([[[id], 2_000]]);
  const { descriptors = [] } = await listMetricDescriptors(bench.services, {});
  const series = metrics?.container_metrics?.[0]?.metrics ?? [];
  expect(series.length).toBeGreaterThan(10);
  for (const { name, timestamp, label_values: labels, value } of series) {
    expect(labels?.slice(1, 6)).toEqual([id, 'asked:1', 'test', 'pod', 'main']);
    expect([name, labels?.length]).toEqual([
      name,
      descriptors.find((one) => one.name === name)?.label_keys?.length,
    ]);
    expect([timestamp, value?.value]).toEqual(['0', expect.stringMatching(/^\d+$/)]);
  }
});

test('the network of a pod has series of the pod only', async () => {
  const holder = spawn(
    'unshare',
    ['--net', 'sh', '-c', 'ip link add v0 type veth peer name v1 && echo up && exec sleep 600'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  await once(holder.stdout, 'data');
  own();
  const pod = await bench.pod();
  await bench.services.store.sandboxes.change(pod.id, {
    plan: { ...pod.plan, namespaces: { network: `/proc/${holder.pid}/ns/net` } },
  });
  expect((await ask())[0]?.metrics).toEqual([]); // nothing runs there by which it could be read
  await bench.running(pod, { pid: holder.pid });
  const series = (await ask())[0]?.metrics ?? [];
  holder.kill('SIGKILL');
  const received = series.filter(({ name }) => name === 'container_network_receive_bytes_total');
  expect(received.map(({ label_values: labels }) => labels).sort()).toEqual(
    ['v0', 'v1'].map((name) => ['/crisp-test-none', pod.id, '', 'test', 'pod', '', name]),
  );
});

test('only ready pods that were returned to a caller are listed', async () => {
  own();
  const pod = await bench.pod();
  await bench.pod({ stoppedAt: '1' });
  await bench.pod({ complete: false });
  expect((await ask()).map((one) => one.pod_sandbox_id)).toEqual([pod.id]);
  const streamed = [];
  for await (const page of streamPodSandboxMetrics(bench.services, {}))
    streamed.push(...(page.pod_sandbox_metrics ?? []));
  expect(streamed.map((one) => one.pod_sandbox_id)).toEqual([pod.id]);
});

test('a container without a cgroup has no series', async () => {
  own('/crisp-test-none/gone');
  await bench.running(await bench.pod());
  expect((await ask())[0]?.container_metrics).toEqual([]);
});

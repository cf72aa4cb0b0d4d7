// Statistics and metrics of real containers, as requested by the kubelet and crictl.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { removePodCgroup } from '../../src/host/cgroup.js';
import type { ContainerStatsFilter } from '../../src/cri/generated/runtime/v1/ContainerStatsFilter.js';
import type { ContainerStats__Output } from '../../src/cri/generated/runtime/v1/ContainerStats.js';
import type { PodSandboxStatsFilter } from '../../src/cri/generated/runtime/v1/PodSandboxStatsFilter.js';
import type { StreamContainerStatsResponse__Output } from '../../src/cri/generated/runtime/v1/StreamContainerStatsResponse.js';
import type { StreamPodSandboxMetricsResponse__Output } from '../../src/cri/generated/runtime/v1/StreamPodSandboxMetricsResponse.js';
import type { StreamPodSandboxStatsResponse__Output } from '../../src/cri/generated/runtime/v1/StreamPodSandboxStatsResponse.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';

const memoryLimit = 64 << 20;
const resources = {
  cpu_period: '100000',
  cpu_quota: '50000',
  cpu_shares: '512',
  memory_limit_in_bytes: String(memoryLimit),
  memory_swap_limit_in_bytes: String(memoryLimit),
};

let daemon: Daemon;
let pod: { id: string; config: Awaited<ReturnType<typeof runPod>>['config'] };
let busy: string;
let exited: string;
let unstarted: string;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  pod = await runPod(daemon, { labels: { app: 'shop' } });
  const named = (name: string) => ({ metadata: { name, attempt: 0 }, log_path: `${name}.log` });
  busy = await startContainer(
    daemon,
    pod,
    containerConfig(
      'head -c 1000000 /dev/zero > /data; ping -c 3 -i 0.1 $(ip route | sed -n "s/default via //p" | cut -d" " -f1) >/dev/null; echo ready; while :; do :; done',
      { ...named('busy'), labels: { tier: 'front' }, linux: { resources } },
    ),
  );
  exited = await startContainer(daemon, pod, containerConfig('echo 1 > /data', named('exited')));
  unstarted = await createContainer(daemon, pod, containerConfig(untilStopped(), named('unstarted')));
  await waitForExit(daemon, exited);
});
afterAll(() => daemon?.destroy());

/** Repeats the call until the answer is as expected: the counters of a busy container grow. */
async function until<T>(ask: () => Promise<T>, good: (answer: T) => boolean): Promise<T> {
  for (let tries = 1; ; tries++) {
    const answer = await ask();
    if (good(answer) || tries === 100) return answer;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
const statsOf = async (id: string): Promise<ContainerStats__Output | null | undefined> =>
  (await daemon.client.runtime.ContainerStats({ container_id: id })).stats;
const number = (value: { value: string } | null | undefined): number => Number(value?.value ?? NaN);

describe('containers', () => {
  test('CPU, memory and writable layer of a running one', async () => {
    const stats = await until(
      () => statsOf(busy),
      (answer) =>
        number(answer?.cpu?.usage_nano_cores) > 1_000_000 &&
        number(answer?.writable_layer?.used_bytes) >= 1_000_000,
    );
    expect(stats?.attributes).toMatchObject({
      id: busy,
      metadata: { name: 'busy', attempt: 0 },
      labels: { tier: 'front' },
    });
    expect(number(stats?.cpu?.usage_core_nano_seconds)).toBeGreaterThan(0);
    expect(number(stats?.cpu?.usage_nano_cores)).toBeGreaterThan(1_000_000);
    expect(number(stats?.cpu?.usage_nano_cores)).toBeLessThan(1_500_000_000);
    expect(number(stats?.memory?.usage_bytes)).toBeGreaterThan(0);
    expect(number(stats?.memory?.working_set_bytes) + number(stats?.memory?.available_bytes)).toBe(
      memoryLimit,
    );
    expect(stats?.writable_layer?.fs_id?.mountpoint).toBe(daemon.root);
    expect(number(stats?.writable_layer?.inodes_used)).toBeGreaterThan(1);
    for (const part of [stats?.cpu, stats?.memory, stats?.writable_layer]) {
      expect(Math.abs(Number(BigInt(part?.timestamp ?? 0) / 1_000_000n) - Date.now())).toBeLessThan(60_000);
    }
  });

  test('an exited one has its layer, and null for the rest', async () => {
    const stats = await statsOf(exited);
    expect(stats).toMatchObject({ cpu: null, memory: null, swap: null });
    expect(number(stats?.writable_layer?.used_bytes)).toBeGreaterThan(0);
  });

  test('without a limit there are no available bytes', async () => {
    expect((await statsOf(unstarted))?.memory).toMatchObject({
      available_bytes: null,
      usage_bytes: { value: expect.any(String) },
    });
  });

  test.each<[string, ContainerStatsFilter | (() => ContainerStatsFilter), string[]]>([
    ['nothing', {}, ['busy', 'exited', 'unstarted']],
    ['the beginning of an id', () => ({ id: busy.slice(0, 12) }), ['busy']],
    ['the pod', () => ({ pod_sandbox_id: pod.id.slice(0, 20) }), ['busy', 'exited', 'unstarted']],
    ['another pod', { pod_sandbox_id: 'f00' }, []],
    ['labels', { label_selector: { tier: 'front' } }, ['busy']],
    ['other labels', { label_selector: { tier: 'back' } }, []],
  ])('are listed by %s', async (_, filter, names) => {
    const wanted = typeof filter === 'function' ? filter() : filter;
    const { stats } = await daemon.client.runtime.ListContainerStats({ filter: wanted });
    expect(stats.map(({ attributes }) => attributes?.metadata?.name).sort()).toEqual(names);
    const streamed: string[] = [];
    for await (const page of daemon.client.streams.StreamContainerStats({
      filter: wanted,
    }) as AsyncIterable<StreamContainerStatsResponse__Output>) {
      streamed.push(...page.container_stats.map(({ attributes }) => attributes?.metadata?.name ?? ''));
    }
    expect(streamed.sort()).toEqual(names);
  });

  test('an unknown id is NOT_FOUND', async () => {
    await expect(daemon.client.runtime.ContainerStats({ container_id: 'f00' })).rejects.toMatchObject({
      code: 5,
    });
    await expect(daemon.client.runtime.PodSandboxStats({ pod_sandbox_id: 'f00' })).rejects.toMatchObject({
      code: 5,
    });
  });
});

describe('pods', () => {
  test('have the numbers of their cgroup, their network and their containers', async () => {
    const ask = async () => (await daemon.client.runtime.PodSandboxStats({ pod_sandbox_id: pod.id })).stats;
    const stats = await until(
      ask,
      (answer) =>
        number(answer?.linux?.cpu?.usage_nano_cores) > 0 &&
        number(answer?.linux?.network?.default_interface?.tx_bytes) > 300,
    );
    expect(stats?.attributes).toMatchObject({
      id: pod.id,
      metadata: { name: pod.config.metadata?.name },
      labels: { app: 'shop' },
    });
    const linux = stats?.linux;
    const container = linux?.containers.find(({ attributes }) => attributes?.id === busy);
    expect(linux?.containers).toHaveLength(3);
    expect(number(linux?.cpu?.usage_core_nano_seconds)).toBeGreaterThanOrEqual(
      number(container?.cpu?.usage_core_nano_seconds),
    );
    expect(number(linux?.cpu?.usage_nano_cores)).toBeGreaterThan(0);
    expect(number(linux?.memory?.working_set_bytes)).toBeGreaterThan(0);
    expect(linux?.network?.default_interface?.name).toBe('eth0');
    expect(number(linux?.network?.default_interface?.rx_bytes)).toBeGreaterThan(300);
    expect(linux?.network?.interfaces).toEqual([]);
    expect(number(linux?.process?.process_count)).toBeGreaterThanOrEqual(2);
  });

  test('one in a shared cgroup has the sum of its containers', async () => {
    const parent = `/crisp-test-${process.pid}`;
    const shared = await runPod(daemon, { linux: { cgroup_parent: parent } });
    await startContainer(daemon, shared, containerConfig(untilStopped()));
    const { stats } = await daemon.client.runtime.PodSandboxStats({ pod_sandbox_id: shared.id });
    const [container] = stats?.linux?.containers ?? [];
    expect(number(stats?.linux?.cpu?.usage_core_nano_seconds)).toBeGreaterThan(0);
    expect(number(stats?.linux?.cpu?.usage_core_nano_seconds)).toBe(
      number(container?.cpu?.usage_core_nano_seconds),
    );
    await removePod(daemon, shared.id);
    await removePodCgroup(parent); // who names a parent keeps it
  });

  test('a pod without a running container has no network statistics', async () => {
    const empty = await runPod(daemon);
    expect(
      (await daemon.client.runtime.PodSandboxStats({ pod_sandbox_id: empty.id })).stats?.linux,
    ).toMatchObject({ network: null, containers: [] });
    await removePod(daemon, empty.id);
  });

  test('are listed by labels and by the prefix of an id', async () => {
    const names = async (filter: PodSandboxStatsFilter) =>
      (await daemon.client.runtime.ListPodSandboxStats({ filter })).stats.map(
        ({ attributes }) => attributes?.id,
      );
    expect(await names({ label_selector: { app: 'shop' } })).toEqual([pod.id]);
    expect(await names({ id: pod.id.slice(0, 10) })).toEqual([pod.id]);
    expect(await names({ label_selector: { app: 'other' } })).toEqual([]);
    for (const [label, ids] of [
      ['shop', [pod.id]],
      ['other', []],
    ] as const) {
      const streamed: (string | undefined)[] = [];
      for await (const page of daemon.client.streams.StreamPodSandboxStats({
        filter: { label_selector: { app: label } },
      }) as AsyncIterable<StreamPodSandboxStatsResponse__Output>) {
        streamed.push(...page.pod_sandbox_stats.map(({ attributes }) => attributes?.id));
      }
      expect(streamed).toEqual(ids);
    }
  });
});

describe('metrics', () => {
  /** Values that are unknown without the accounting of the kernel. */
  const optional = /^container_(pressure_|hugetlb_|blkio_|fs_(reads|writes)_)/;

  test('each described metric has a value, with as many labels', async () => {
    const { descriptors } = await daemon.client.runtime.ListMetricDescriptors({});
    const {
      pod_metrics: [metrics],
    } = await daemon.client.runtime.ListPodSandboxMetrics({});
    expect(metrics?.pod_sandbox_id).toBe(pod.id);
    expect(metrics?.container_metrics.map(({ container_id }) => container_id)).toEqual([busy]);
    const series = [
      ...(metrics?.metrics ?? []),
      ...(metrics?.container_metrics.flatMap((one) => one.metrics) ?? []),
    ];
    for (const { name, help, label_keys: labels } of descriptors) {
      expect(help).not.toBe('');
      const found = series.filter((one) => one.name === name);
      if (!optional.test(name))
        expect({ name, missing: found.length === 0 }).toEqual({ name, missing: false });
      for (const one of found)
        expect({ name, labels: one.label_values.length }).toEqual({ name, labels: labels.length });
    }
    expect(new Set(series.map(({ name }) => name)).size).toBeLessThanOrEqual(descriptors.length);
  });

  test('report what was requested and what is used', async () => {
    const { descriptors } = await daemon.client.runtime.ListMetricDescriptors({});
    const {
      pod_metrics: [metrics],
    } = await daemon.client.runtime.ListPodSandboxMetrics({});
    const value = (name: string): number => {
      const found = [...(metrics?.container_metrics[0]?.metrics ?? []), ...(metrics?.metrics ?? [])].find(
        (one) => one.name === name,
      );
      return number(found?.value);
    };
    expect(value('container_spec_memory_limit_bytes')).toBe(memoryLimit);
    expect(value('container_spec_cpu_quota')).toBe(50_000);
    expect(value('container_spec_cpu_shares')).toBe(512);
    expect(value('container_threads')).toBeGreaterThanOrEqual(1);
    expect(value('container_processes')).toBeGreaterThanOrEqual(1);
    expect(value('container_file_descriptors')).toBeGreaterThanOrEqual(3);
    expect(value('container_cpu_cfs_periods_total')).toBeGreaterThan(0);
    expect(value('container_memory_working_set_bytes')).toBeGreaterThan(0);
    expect(value('container_start_time_seconds')).toBeLessThanOrEqual(value('container_last_seen'));
    expect(value('container_network_receive_bytes_total')).toBeGreaterThan(0);
    const keys = descriptors.find(({ name }) => name === 'container_threads')?.label_keys ?? [];
    const labels =
      metrics?.container_metrics[0]?.metrics.find(({ name }) => name === 'container_threads')?.label_values ??
      [];
    expect(Object.fromEntries(keys.map((key, index) => [key, labels[index]]))).toEqual({
      id: expect.stringMatching(new RegExp(`^/.*${busy}`)),
      name: busy,
      image: testImage,
      namespace: 'test',
      pod: pod.config.metadata?.name,
      container: 'busy',
    });
  });

  test('are streamed as they are listed', async () => {
    const streamed: string[] = [];
    for await (const page of daemon.client.streams.StreamPodSandboxMetrics(
      {},
    ) as AsyncIterable<StreamPodSandboxMetricsResponse__Output>) {
      streamed.push(...page.pod_sandbox_metrics.map((one) => one.pod_sandbox_id));
    }
    expect(streamed).toEqual([pod.id]);
  });
});

describe('crictl', () => {
  test.each<[string, () => string]>([
    ['stats', () => busy],
    ['statsp', () => pod.id],
    ['metricdescs', () => 'container_threads'],
    ['metricsp', () => pod.id],
  ])('%s', async (command, expected) => {
    const { stdout, stderr, exitCode } = await daemon.crictl(command, '-o', 'json');
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(stdout).toContain(expected());
  });
});

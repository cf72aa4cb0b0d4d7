// All input values are different numbers, so that none can be in the wrong field.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Bench } from '../../test/helpers/services.js';
import type { Usage } from '../host/cgroup-stats.js';
import { containerStats, listContainerStats, network, podUsage, podSandboxStats, statsOf } from './stats.js';

let bench: Bench;
const rates: [string, bigint][] = [];
beforeEach(() => {
  rates.splice(0);
  bench = new Bench({
    usageCache: {
      layer: () => ({ usedBytes: 31, inodesUsed: 32, measuredAtMs: 33 }),
      nanoCores: (id: string, cpuNs: bigint) => {
        rates.push([id, cpuNs]);
        return 34n;
      },
    },
  });
});
afterEach(() => bench.end());

const line = (first: number) => ({
  totalUs: first,
  avg10: first + 0.1,
  avg60: first + 0.2,
  avg300: first + 0.3,
});
const usage: Usage = {
  cpuNs: 1n,
  memory: {
    usageBytes: 102,
    workingSetBytes: 103,
    rssBytes: 104,
    cacheBytes: 105,
    mappedFileBytes: 106,
    limitBytes: 1107,
    pageFaults: 108,
    majorPageFaults: 109,
  },
  swap: { usageBytes: 110, limitBytes: 2111 },
  pressure: {
    cpu: { some: line(1), full: line(2) },
    memory: { some: line(3), full: line(4) },
    io: { some: line(5), full: line(6) },
  },
};
const shownLine = (first: number) => ({
  Total: `${first}000`,
  Avg10: first + 0.1,
  Avg60: first + 0.2,
  Avg300: first + 0.3,
});
const shownPressure = (some: number, full: number) => ({ Some: shownLine(some), Full: shownLine(full) });

test('the statistics of a container have the right value in each field', async () => {
  const record = await bench.running(await bench.pod());
  const shown = statsOf(bench.services, record, usage);
  expect(shown).toMatchObject({
    attributes: { id: record.id, metadata: record.config.metadata },
    cpu: {
      usage_core_nano_seconds: { value: '1' },
      usage_nano_cores: { value: '34' },
      psi: shownPressure(1, 2),
    },
    memory: {
      usage_bytes: { value: '102' },
      working_set_bytes: { value: '103' },
      rss_bytes: { value: '104' },
      available_bytes: { value: String(1107 - 103) },
      page_faults: { value: '108' },
      major_page_faults: { value: '109' },
      psi: shownPressure(3, 4),
    },
    swap: { swap_usage_bytes: { value: '110' }, swap_available_bytes: { value: String(2111 - 110) } },
    io: { psi: shownPressure(5, 6) },
    writable_layer: {
      timestamp: '33000000',
      fs_id: { mountpoint: bench.services.config.root },
      used_bytes: { value: '31' },
      inodes_used: { value: '32' },
    },
  });
  expect(rates).toEqual([[record.id, 1n]]);
});

test('unknown values are null, and nothing is available above the limit', async () => {
  const record = await bench.running(await bench.pod());
  const { memory } = usage;
  expect(statsOf(bench.services, record, { ...usage, swap: undefined, pressure: undefined })).toMatchObject({
    cpu: { psi: null },
    memory: { psi: null },
    swap: null,
    io: null,
  });
  const unlimited = {
    ...usage,
    memory: { ...memory, limitBytes: undefined },
    swap: { usageBytes: 1, limitBytes: undefined },
  };
  expect(statsOf(bench.services, record, unlimited)).toMatchObject({
    memory: { available_bytes: null },
    swap: { swap_available_bytes: null },
  });
  expect(statsOf(bench.services, record, { ...usage, memory: { ...memory, limitBytes: 1 } })).toMatchObject({
    memory: { available_bytes: { value: '0' } },
  });
});

test('a container that has ended has only its writable layer', async () => {
  const record = await bench.running(await bench.pod(), {
    exit: { exitCode: 0, finishedAt: '1', reason: '', message: '' },
  });
  const { stats } = await containerStats(bench.services, { container_id: record.id });
  expect(stats).toMatchObject({ writable_layer: { used_bytes: { value: '31' } } });
  expect([stats?.cpu, stats?.memory, stats?.swap, stats?.io]).toEqual([
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
});

test('lists can be filtered', async () => {
  const [pod, other] = [await bench.pod(), await bench.pod()];
  const a = await bench.running(pod, {}, { labels: { tier: 'front' } });
  const b = await bench.container(other);
  await bench.container(other, { complete: false });
  const ids = async (filter: object | null) =>
    (
      await listContainerStats(bench.services, {
        filter: filter && { id: '', pod_sandbox_id: '', label_selector: {}, ...filter },
      })
    ).stats?.map(({ attributes }) => attributes?.id);
  expect(await ids(null)).toEqual([a.id, b.id]);
  expect(await ids({ id: a.id.slice(0, 12) })).toEqual([a.id]);
  expect(await ids({ pod_sandbox_id: other.id })).toEqual([b.id]);
  expect(await ids({ label_selector: { tier: 'front' } })).toEqual([a.id]);
});

test('the statistics of a pod are the sums of its containers if its cgroup is shared', async () => {
  const record = await bench.pod();
  expect(podUsage(record, [], [])).toBeUndefined();
  const double = podUsage(record, ['/a', '/b'], [usage, usage]);
  expect(double).toEqual({
    cpuNs: 2n,
    memory: {
      usageBytes: 204,
      workingSetBytes: 206,
      rssBytes: 208,
      cacheBytes: 210,
      mappedFileBytes: 212,
      limitBytes: undefined,
      pageFaults: 216,
      majorPageFaults: 218,
    },
    swap: undefined,
    pressure: undefined,
  });
});

test('the statistics of an interface have the right value in each field, and the default one is separate', () => {
  const counters = (name: string, first: number) => ({
    name,
    receive: { bytes: first, packets: first + 1, errors: first + 2, dropped: first + 3 },
    transmit: { bytes: first + 4, packets: first + 5, errors: first + 6, dropped: first + 7 },
  });
  const usageOf = (name: string, first: number) => ({
    name,
    rx_bytes: { value: String(first) },
    rx_errors: { value: String(first + 2) },
    tx_bytes: { value: String(first + 4) },
    tx_errors: { value: String(first + 6) },
  });
  expect(network([counters('net1', 10), counters('eth0', 20)], 'eth0', '7')).toEqual({
    timestamp: '7',
    default_interface: usageOf('eth0', 20),
    interfaces: [usageOf('net1', 10)],
  });
  expect(network([counters('net1', 10)], 'eth0', '7')).toMatchObject({ default_interface: null });
  expect(network(undefined, 'eth0', '7')).toBeNull();
});

test('a pod lists its containers, the newest first, and the number of their processes', async () => {
  const pod = await bench.pod();
  const older = await bench.container(pod);
  const newer = await bench.container(pod);
  const { stats } = await podSandboxStats(bench.services, { pod_sandbox_id: pod.id });
  expect(stats?.linux?.containers?.map(({ attributes }) => attributes?.id)).toEqual([newer.id, older.id]);
  expect(stats?.linux?.process).toMatchObject({ process_count: { value: '0' } });
  expect(stats?.attributes).toMatchObject({ id: pod.id, metadata: pod.config.metadata });
});

// All input values are different numbers, so that none can be in the wrong field.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { Bench, settled } from '../../test/helpers/services.js';
import { cgroupFolder, cgroupLayout, makePodCgroup, removeCgroup } from '../host/cgroup.js';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Usage } from '../host/cgroup-stats.js';
import { newId } from '../records/records.js';
import {
  cgroupOf,
  containerStats,
  listContainerStats,
  listPodSandboxStats,
  network,
  podInterfaces,
  podSandboxStats,
  podUsage,
  statsOf,
  streamContainerStats,
  streamPodSandboxStats,
} from './stats.js';

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

const filter = (more: object) => ({ id: '', pod_sandbox_id: '', label_selector: {}, ...more });

/** A bench whose layers take several turns of the event loop to be measured. */
async function measuring() {
  const measured: { ids: readonly string[]; waitMs: number }[] = [];
  const kept: ((id: string) => boolean)[] = [];
  await bench.end();
  bench = new Bench({
    usageCache: {
      layersMeasured: async (ids: readonly string[], waitMs: number) => {
        await settled();
        measured.push({ ids, waitMs });
      },
      layer: () => (measured.length > 0 ? { usedBytes: 31, inodesUsed: 32, measuredAtMs: 33 } : undefined),
      keepOnly: (exists: (id: string) => boolean) => void kept.push(exists),
    },
  });
  return { measured, kept };
}
const exit = { exitCode: 0, finishedAt: '1', reason: '', message: '' };

test('each call waits for the sizes of the layers that it shows, for a quarter of a second at most', async () => {
  const { measured } = await measuring();
  const [pod, other] = [await bench.pod(), await bench.pod()];
  const [a, b] = [await bench.running(pod), await bench.running(other, { exit })];
  const calls: [() => Promise<object>, string[]][] = [
    [() => containerStats(bench.services, { container_id: a.id }), [a.id]],
    [() => podSandboxStats(bench.services, { pod_sandbox_id: pod.id }), [a.id]],
    [() => listContainerStats(bench.services, { filter: null }), [a.id, b.id]],
    [() => listPodSandboxStats(bench.services, { filter: null }), [a.id, b.id]],
  ];
  for (const [ask, ids] of calls) {
    measured.splice(0);
    expect(JSON.stringify(await ask())).toContain('"used_bytes":{"value":"31"}');
    expect(measured).toEqual([{ ids, waitMs: 250 }]);
  }
});

test('a list forgets the figures of what was removed, and of nothing else', async () => {
  const { kept } = await measuring();
  const pod = await bench.pod();
  const { id } = await bench.running(pod);
  await listContainerStats(bench.services, { filter: null });
  await listPodSandboxStats(bench.services, { filter: null });
  expect(kept.map((exists) => [exists(pod.id), exists(id), exists('removed')])).toEqual([
    [true, true, false],
    [true, true, false],
  ]);
});

test('a list of pods has those that are ready and visible, by id and by labels', async () => {
  const pod = await bench.pod({}, { labels: { tier: 'front' } });
  const other = await bench.pod();
  await bench.pod({ stoppedAt: '1' }, { labels: { tier: 'front' } });
  const hidden = await bench.pod();
  bench.services.creations.keep(hidden.id, { discard: () => Promise.resolve() });
  const ids = async (more: object | null) =>
    (await listPodSandboxStats(bench.services, { filter: more && filter(more) })).stats?.map(
      ({ attributes }) => attributes?.id,
    );
  expect(await ids(null)).toEqual([pod.id, other.id]);
  expect(await ids({ id: other.id.slice(0, 12) })).toEqual([other.id]);
  expect(await ids({ label_selector: { tier: 'front' } })).toEqual([pod.id]);
  await expect(ids({ id: '' })).resolves.toHaveLength(2);
});

test('a list of containers accepts the beginning of the id of a pod', async () => {
  const [pod, other] = [await bench.pod(), await bench.pod()];
  const { id } = await bench.running(pod);
  await bench.running(other);
  const { stats } = await listContainerStats(bench.services, {
    filter: filter({ pod_sandbox_id: pod.id.slice(0, 12) }),
  });
  expect(stats?.map(({ attributes }) => attributes?.id)).toEqual([id]);
});

test('an ambiguous id in a filter is refused, with the name of its field', async () => {
  for (const digit of ['1', '2']) await bench.pod({ id: `ab${digit}`.padEnd(64, '0') });
  await expect(listPodSandboxStats(bench.services, { filter: filter({ id: 'ab' }) })).rejects.toThrow(
    /^filter\.id: "ab" is the beginning of 2 ids/,
  );
});

test('the streams have the items of the lists', async () => {
  const pod = await bench.pod();
  const { id } = await bench.running(pod);
  const shown: unknown[] = [];
  for await (const { container_stats: stats } of streamContainerStats(bench.services, { filter: null }))
    shown.push(...(stats ?? []).map(({ attributes }) => attributes?.id));
  for await (const { pod_sandbox_stats: stats } of streamPodSandboxStats(bench.services, { filter: null }))
    shown.push(...(stats ?? []).map(({ attributes }) => attributes?.id));
  expect(shown).toEqual([id, pod.id]);
});

test('only a container that can have processes has a cgroup', async () => {
  const pod = await bench.pod();
  const running = await bench.running(pod);
  const created = await bench.container(pod);
  for (const record of [running, created])
    expect(cgroupOf(bench.services, record)).toBe(`/crisp-test-none/${record.id}`);
  expect(cgroupOf(bench.services, await bench.running(pod, { exit }))).toBeUndefined();
  expect(cgroupOf(bench.services, await bench.container(pod, { complete: false }))).toBeUndefined();
  expect(cgroupOf(bench.services, { ...running, handler: 'gone' })).toBeUndefined();
});

test('the first rate of a container is not zero but unknown', async () => {
  await bench.end();
  bench = new Bench();
  const record = await bench.running(await bench.pod());
  expect(statsOf(bench.services, record, usage)).toMatchObject({
    cpu: { usage_nano_cores: null },
    writable_layer: null,
  });
});

describe('a pod with processes', () => {
  let process: ChildProcess;
  const parent = `/crisp-test-${newId()}`;
  beforeEach(async () => {
    process = spawn('unshare', ['--net', 'sh', '-c', 'ip link set lo up; echo up; exec sleep 600'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    if (process.stdout) await once(process.stdout, 'data');
  });
  afterEach(async () => {
    process.kill('SIGKILL');
    await once(process, 'exit');
    await removeCgroup(parent);
  });
  /** A pod whose cgroup is `parent`, with the process in the cgroup of its container. */
  async function podInItsCgroup() {
    await bench.end();
    bench = new Bench({ backend: { cgroup: ({ id }) => `${parent}/${id}` } });
    const pod = await bench.pod();
    const plan = { ...pod.plan, id: parent.slice('/crisp-test-'.length), cgroupParent: parent };
    await bench.services.store.sandboxes.put({ ...pod, plan });
    const { id } = await bench.running(pod, { pid: process.pid ?? 0 });
    await makePodCgroup(`${parent}/${id}`);
    const layout = cgroupLayout();
    const trees = layout.version === 'v2' ? [''] : Object.keys(layout.controllers);
    for (const controller of trees) {
      const folder = cgroupFolder(layout, controller || 'memory', `${parent}/${id}`);
      if (folder) writeFileSync(join(folder, 'cgroup.procs'), String(process.pid));
    }
    return { ...pod, plan };
  }

  test('has the usage of its own cgroup, the number of its processes, and its interfaces', async () => {
    const pod = await podInItsCgroup();
    const { stats } = await podSandboxStats(bench.services, { pod_sandbox_id: pod.id });
    expect(Number(stats?.linux?.memory?.usage_bytes?.value)).toBeGreaterThan(0);
    expect(stats?.linux?.cpu?.usage_core_nano_seconds).toBeDefined();
    expect(stats?.linux?.process?.process_count).toEqual({ value: '1' });
    expect(stats?.linux?.containers?.[0]?.memory).toBeDefined();
    expect(stats?.linux?.network).toBeNull(); // it is on the network of the host
  });

  test('has the sum of its containers if one of them is elsewhere, and if its cgroup is not its own', async () => {
    const pod = await podInItsCgroup();
    const [container] = bench.services.store.containersOf(pod.id);
    const inside = [`${parent}/${container?.id}`];
    expect(podUsage(pod, inside, [usage])?.cpuNs).not.toBe(1n);
    expect(podUsage(pod, [...inside, '/lxc/1'], [usage])?.cpuNs).toBe(1n);
    expect(podUsage(pod, [`${parent}-of-another/x`], [usage])?.cpuNs).toBe(1n);
    const shared = { ...pod, plan: { ...pod.plan, id: 'x', uid: 'y' } };
    expect(podUsage(shared, inside, [usage])?.cpuNs).toBe(1n);
    expect(podUsage(shared, inside, [])).toBeUndefined();
  });

  test('has eth0 as its default interface if the network belongs to its containers', async () => {
    const pod = await bench.pod();
    await bench.services.store.sandboxes.put({ ...pod, plan: { ...pod.plan, ownNetwork: true } });
    await bench.running(pod, { pid: process.pid ?? 0 });
    const inside = ['--target', String(process.pid), '--net'];
    execFileSync('nsenter', [...inside, 'ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'net1']);
    const { stats } = await podSandboxStats(bench.services, { pod_sandbox_id: pod.id });
    expect(stats?.linux?.network?.default_interface?.name).toBe('eth0');
    expect(stats?.linux?.network?.interfaces?.map(({ name }) => name)).toEqual(['net1']);
  });

  test('has the interfaces of a process that runs, its own network or that of the pod', async () => {
    const pod = await bench.pod(
      {},
      { linux: { security_context: { namespace_options: { network: 'POD' } } } },
    );
    const own = { ...pod, plan: { ...pod.plan, ownNetwork: true } };
    const pinned = { ...pod, plan: { ...pod.plan, namespaces: { network: `/proc/${process.pid}/ns/net` } } };
    const names = (record: typeof pod) => podInterfaces(bench.services, record)?.map(({ name }) => name);
    expect([names(own), names(pinned)]).toEqual([undefined, undefined]);
    await bench.container(pod);
    await bench.running(pod, { pid: process.pid ?? 0, exit });
    expect([names(own), names(pinned)]).toEqual([undefined, undefined]);
    await bench.running(pod, { pid: 2 ** 22 - 1 }); // it has just ended
    await bench.running(pod, { pid: process.pid ?? 0 });
    expect([names(own), names(pinned)]).toEqual([[], []]);
    expect(names(pod)).toBeUndefined();
  });
});

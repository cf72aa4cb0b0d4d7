// Real control groups of this host, v1 or v2, with processes of the test.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  cgroupFolder,
  cgroupLayout,
  killCgroup,
  makePodCgroup,
  removePodCgroup,
  writeResources,
} from '../../src/host/cgroup.js';
import { readDetails, readProcesses, readUsage } from '../../src/host/cgroup-stats.js';
import { missing, present } from '../helpers/offenders.js';

const layout = cgroupLayout();
const parent = `/crisp-test-${process.pid}`;
const group = `${parent}/pod`;
const controllers = layout.version === 'v2' ? ['memory'] : Object.keys(layout.controllers);
const children: ChildProcess[] = [];

beforeEach(() => makePodCgroup(group));
afterEach(async () => {
  await killCgroup(group);
  await removePodCgroup(group);
  children.length = 0;
});

/** A shell that waits to be moved into the group, and then runs `script` there. */
async function runInGroup(script: string): Promise<ChildProcess> {
  const child = spawn('/bin/sh', ['-c', `read go; ${script}`], { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  for (const controller of controllers)
    await writeFile(join(cgroupFolder(layout, controller, group) ?? '', 'cgroup.procs'), String(child.pid));
  child.stdin?.write('go\n');
  return child;
}

async function outputOf(child: ChildProcess): Promise<string> {
  const [chunk] = (await once(child.stdout ?? child, 'data')) as [Buffer];
  return chunk.toString().trim();
}

test('creates the cgroup under every controller, ready for processes', async () => {
  for (const controller of controllers)
    expect(missing(cgroupFolder(layout, controller, group) ?? '')).toEqual([]);
  await makePodCgroup(group); // idempotent
  const child = await runInGroup('echo here; sleep 60');
  expect(await outputOf(child)).toBe('here');
  expect(readProcesses(group)).toContain(child.pid);
});

test('cgroups with the same parent are created and removed concurrently', async () => {
  await removePodCgroup(group);
  const name = (index: number) => `${parent}/beside-${index}`;
  await makePodCgroup(name(0));
  for (let index = 0; index < 100; index++) {
    await Promise.all([makePodCgroup(name(index + 1)), removePodCgroup(name(index))]);
    const cpus = cgroupFolder(layout, 'cpuset', name(index + 1));
    if (layout.version === 'v1' && cpus)
      expect(readFileSync(join(cpus, 'cpuset.cpus'), 'utf8').trim()).not.toBe('');
  }
  await removePodCgroup(name(100));
  for (const controller of controllers)
    expect(present(cgroupFolder(layout, controller, parent) ?? '')).toEqual([]);
});

test('counts CPU time, memory and processes', async () => {
  const before = readUsage(group);
  const child = await runInGroup(
    'x=$(head -c 16000000 /dev/zero | tr "\\0" x); i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 60 & echo done; wait',
  );
  expect(await outputOf(child)).toBe('done');
  const after = readUsage(group);
  expect(Number((after?.cpuNs ?? 0n) - (before?.cpuNs ?? 0n))).toBeGreaterThan(10_000_000);
  expect(after?.memory).toMatchObject({ limitBytes: undefined });
  expect(after?.memory.rssBytes).toBeGreaterThan(8_000_000);
  expect(after?.memory.workingSetBytes).toBeLessThanOrEqual(after?.memory.usageBytes ?? 0);
  expect(after?.memory.pageFaults).toBeGreaterThan(10);
  const details = readDetails(group);
  expect(details?.tasks.current).toBe(2);
  expect((details?.cpu.userNs ?? 0n) + (details?.cpu.systemNs ?? 0n)).toBeGreaterThan(10_000_000n);
  expect(readProcesses(group)).toHaveLength(2);
});

test('an OOM kill is counted', async () => {
  await writeResources(group, { memory: { limit: 16 << 20, swap: 17 << 20 } });
  const child = await runInGroup('x=$(head -c 100000000 /dev/zero | tr "\\0" x)');
  const [, signal] = (await once(child, 'exit')) as [number | null, string | null];
  expect(signal).toBe('SIGKILL');
  expect(readDetails(group)?.memory.oomKills).toBeGreaterThan(0);
  expect(readDetails(group)?.memory.limitHits).toBeGreaterThan(0);
});

test('limits are raised and lowered in any order', async () => {
  for (const mib of [64, 128, 32]) {
    await writeResources(group, {
      cpu: { shares: 512, quota: mib * 1000, period: 100_000 },
      memory: { limit: mib << 20, swap: mib << 20 },
    });
    expect(readUsage(group)?.memory.limitBytes).toBe(mib << 20);
  }
  await writeResources(group, { memory: { limit: -1, swap: -1 }, cpu: { quota: -1, period: 50_000 } });
  expect(readUsage(group)?.memory.limitBytes).toBeUndefined();
  const quota = layout.version === 'v2' ? 'cpu.max' : 'cpu.cfs_quota_us';
  expect(readFileSync(join(cgroupFolder(layout, 'cpu', group) ?? '', quota), 'utf8').trim()).toMatch(
    /^(-1|max 50000)$/,
  );
});

test('a value that the kernel refuses is named with its file', async () => {
  await expect(writeResources(group, { cpu: { cpus: '4000' } })).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringContaining('cpuset.cpus'),
  });
});

test('removal waits for processes to leave, and reports if they do not', async () => {
  const child = await runInGroup('echo here; sleep 60');
  await outputOf(child);
  await expect(removePodCgroup(group)).rejects.toMatchObject({ id: 'Internal', stage: 'remove cgroup' });
  await killCgroup(group);
  expect(readProcesses(group)).toEqual([]);
  await removePodCgroup(group);
  for (const controller of controllers)
    expect(present(cgroupFolder(layout, controller, parent) ?? '')).toEqual([]);
  await removePodCgroup(group); // idempotent
  expect(readUsage(group)).toBeUndefined();
});

test('removal includes empty subgroups', async () => {
  await makePodCgroup(`${group}/container/nested`);
  await removePodCgroup(group);
  for (const controller of controllers)
    expect(present(cgroupFolder(layout, controller, parent) ?? '')).toEqual([]);
});

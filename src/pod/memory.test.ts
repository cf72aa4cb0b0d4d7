import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtempSync, readFileSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { unmountBelow } from '../host/mounts.js';
import { repairPodMemory, mountPodMemory, podMemory, sharedMemory } from './memory.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-memory-'));
});
afterEach(async () => {
  await unmountBelow(folder);
  rmSync(folder, { recursive: true });
});

const files = { 'resolv.conf': 'nameserver 10.0.0.1\n', hosts: '127.0.0.1 localhost\n', hostname: 'box\n' };
const mountLine = (): string[] =>
  (
    readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .find((line) => line.includes(` ${podMemory(folder)} `)) ?? ''
  ).split(' ');

test('is noexec, nodev and nosuid, and has a size limit', async () => {
  await mountPodMemory(folder, files);
  expect(mountLine()[5]?.split(',')).toEqual(expect.arrayContaining(['nosuid', 'nodev', 'noexec']));
  const { blocks, bsize } = statfsSync(sharedMemory(folder));
  expect(blocks * bsize).toBe(64 << 20);
});

test('all users can create files in the shared memory, and remove only their own', async () => {
  await mountPodMemory(folder, files);
  expect((statSync(sharedMemory(folder)).mode & 0o7777).toString(8)).toBe('1777');
  expect((statSync(podMemory(folder)).mode & 0o7777).toString(8)).toBe('755');
  for (const [name, content] of Object.entries(files))
    expect(readFileSync(join(podMemory(folder), name), 'utf8')).toBe(content);
});

test('is created if it is missing, and otherwise kept', async () => {
  let asked = 0;
  const ask = async () => (asked++, files);
  await repairPodMemory(folder, ask);
  writeFileSync(join(sharedMemory(folder), 'kept'), 'kept');
  await repairPodMemory(folder, ask);
  expect(asked).toBe(1);
  expect(readFileSync(join(sharedMemory(folder), 'kept'), 'utf8')).toBe('kept');
});

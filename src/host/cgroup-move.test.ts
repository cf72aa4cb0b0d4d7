import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../../test/helpers/wait.js';
import { expectCgroupMove, ownProcessesFile } from './cgroup-move.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-cgroup-move-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('the file is that of our own cgroup', () => {
  const pids = readFileSync(ownProcessesFile() ?? 'there is none', 'utf8').split('\n');
  expect(pids).toContain(String(process.pid));
});

test('moves the writing process, and leaves it in its own cgroup', async () => {
  const before = readFileSync('/proc/self/cgroup', 'utf8');
  const file = join(folder, 'cgroup.procs');
  writeFileSync(file, '');
  expectCgroupMove(file);
  await until(() => readFileSync(file, 'utf8') !== '', 'it is written');
  expect(readFileSync(file, 'utf8')).toBe('0'); // cgroups(7): the process that writes
  expectCgroupMove();
  expect(readFileSync('/proc/self/cgroup', 'utf8')).toBe(before);
});

test('never throws', () => {
  expectCgroupMove(join(folder, 'not', 'there'));
  expectCgroupMove(undefined);
});

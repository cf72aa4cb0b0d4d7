import { expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { expectCgroupMove } from './cgroup-move.js';

test('leaves us in the cgroups that we are in, and never throws', async () => {
  const before = readFileSync('/proc/self/cgroup', 'utf8');
  expectCgroupMove();
  await new Promise((resolve) => setTimeout(resolve, 100)); // the write is not awaited by anybody: it takes about 10 ms
  expect(readFileSync('/proc/self/cgroup', 'utf8')).toBe(before);
});

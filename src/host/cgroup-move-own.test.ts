// Which file is that of our own group, in layouts that this machine does not have.
import { expect, jest, test } from '@jest/globals';
import * as fs from 'node:fs';
import type { CgroupLayout } from './cgroup.js';

let layout: CgroupLayout;
let groups = '';
jest.unstable_mockModule('./cgroup.js', () => ({ cgroupLayout: () => layout }));
jest.unstable_mockModule('node:fs', () => ({ ...fs, readFileSync: () => groups }));
const { ownProcessesFile } = await import('./cgroup-move.js');

const v1: CgroupLayout = { version: 'v1', controllers: { pids: '/t/pids', cpu: '/t/cpu' }, unified: '/t/u' };
const v2: CgroupLayout = { version: 'v2', controllers: {}, unified: '/t' };

test.each([
  ['12:rdma:/r\n9:pids:/a/b\n4:cpu,cpuacct:/c\n0::/d\n', v1, '/t/pids/a/b/cgroup.procs'],
  ['4:cpu,cpuacct:/c\n0::/d\n', v1, '/t/cpu/c/cgroup.procs'],
  ['12:rdma:/r\n', v1, undefined],
  ['0::/a/b\n', v2, '/t/a/b/cgroup.procs'],
  ['', v2, undefined],
])('of the groups %j it is in a tree that is mounted', (text, wanted, file) => {
  [groups, layout] = [text, wanted];
  expect(ownProcessesFile()).toBe(file);
});

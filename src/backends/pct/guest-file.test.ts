import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { StandInNode } from '../../../test/helpers/stand-in-node.js';
import { appendLines } from './guest-file.js';

let node: StandInNode;
let pct: ChildProcess | undefined;
beforeEach(async () => {
  node = await StandInNode.make();
});
afterEach(async () => {
  pct?.kill('SIGKILL');
  await node.remove();
});
const conf = (vmid: number): string => `pve/lxc/${vmid}.conf`;

test('lines are added while no pct has the lock of this CT', async () => {
  for (const vmid of [100, 101]) node.write(conf(vmid), 'arch: amd64\n');
  // In place of a pct that changes CT 100.
  pct = spawn('flock', [node.path('lock/pve-config-100.lock'), 'sh', '-c', 'echo locked; read end'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(pct.stdout as NonNullable<ChildProcess['stdout']>, 'data');
  const added = appendLines(node.ctx, 100, ['a: 1', 'b: 2']);
  await appendLines(node.ctx, 101, ['c: 3']);
  expect(node.read(conf(101))).toBe('arch: amd64\nc: 3\n');
  expect(node.read(conf(100))).toBe('arch: amd64\n');
  pct.stdin?.end();
  await added;
  expect(node.read(conf(100))).toBe('arch: amd64\na: 1\nb: 2\n');
});

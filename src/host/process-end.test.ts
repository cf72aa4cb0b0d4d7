import { afterEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { until } from '../../test/helpers/wait.js';
import { identify, type ProcessIdentity } from './proc.js';
import { onProcessEnd } from './process-end.js';

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});
async function running(): Promise<{ child: ChildProcess; identity: ProcessIdentity }> {
  const child = spawn('sleep', ['1000']);
  children.push(child);
  await once(child, 'spawn');
  const identity = await identify(child.pid ?? 0);
  if (!identity) throw new Error('it does not run');
  return { child, identity };
}

test('the end of a process is told once, and not before', async () => {
  const { child, identity } = await running();
  let told = 0;
  onProcessEnd(identity, () => told++);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(told).toBe(0);
  child.kill('SIGKILL');
  await until(() => told > 0);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(told).toBe(1);
});

test.each([
  ['that is gone', { pid: 2 ** 22 + 1, startTime: '1' }],
  ['whose pid another one has now', { pid: process.pid, startTime: '1' }],
])('of a process %s it is told after the call', async (_, identity) => {
  let told = 0;
  onProcessEnd(identity, () => told++);
  expect(told).toBe(0);
  await until(() => told === 1);
});

test('a watch that is cancelled tells nothing', async () => {
  const { child, identity } = await running();
  let told = 0;
  onProcessEnd(identity, () => told++)();
  onProcessEnd({ pid: 2 ** 22 + 1, startTime: '1' }, () => told++)();
  child.kill('SIGKILL');
  await once(child, 'exit');
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(told).toBe(0);
});

test('a watch that is cancelled keeps no descriptor, and neither does one of a reused pid', async () => {
  const { identity } = await running();
  const watched = (): number => readdirSync('/proc/self/fd').filter(isPidfd).length;
  const before = watched();
  const cancel = onProcessEnd(identity, () => undefined);
  expect(watched()).toBe(before + 1);
  cancel();
  await until(() => watched() === before);
  onProcessEnd({ pid: process.pid, startTime: '1' }, () => undefined);
  expect(watched()).toBe(before);
});

test('a watch does not keep the program running', async () => {
  const { identity } = await running();
  const pipes = (): string[] => process.getActiveResourcesInfo().filter((name) => name === 'PipeWrap');
  const before = pipes();
  const cancel = onProcessEnd(identity, () => undefined);
  expect(pipes()).toEqual(before);
  cancel();
});

test('a failure to open a process that may be there is an error, not an end', () => {
  expect(() => onProcessEnd({ pid: 0, startTime: '1' }, () => undefined)).toThrow(
    expect.objectContaining({ code: 'EINVAL' }),
  );
});

function isPidfd(fd: string): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).includes('pidfd');
  } catch {
    return false; // that of the folder, which is closed
  }
}

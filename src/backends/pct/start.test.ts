// Starting a CT on a stand-in for a node; the watcher is real, and nothing runs in the CT.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { StandInNode } from '../../../test/helpers/stand-in-node.js';
import { until } from '../../../test/helpers/wait.js';
import { log } from '../../log.js';
import type { ContainerPlan, ContainerRef } from '../backend.js';
import { create } from './create.js';
import { lxcWords, start, wasStarted } from './start.js';

let node: StandInNode;
let container: ContainerRef;
let child: ChildProcess | undefined;
beforeEach(async () => {
  log.level = 'silent';
  node = await StandInNode.make();
});
afterEach(async () => {
  child?.kill('SIGKILL');
  child = undefined;
  await node.remove(node.path('bundle'));
});

async function make(change: Partial<ContainerPlan> = {}): Promise<void> {
  const plan = node.plan(change);
  const { id, folder, logPath } = plan;
  container = { id, folder, logPath, state: await create(node.ctx, plan) };
}
const watcherListens = async (): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(node.path('bundle/watch'));
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });

test('a start has a watcher before pct, and knows the first process', async () => {
  await make();
  child = spawn('sleep', ['1000']);
  node.write('pid', `${child.pid}\n`);
  expect(await start(node.ctx, container)).toEqual({ pid: child.pid });
  expect(node.calls().at(-1)).toBe(`start ${(container.state as { vmid: number }).vmid}`);
  for (const name of ['stdout', 'stderr', 'permit']) expect(existsSync(node.path(`seen/${name}`))).toBe(true);
  expect(node.ctx.processes.get(container.id)?.pid).toBe(child.pid);
  expect(node.ctx.watched.has(container.id)).toBe(true);
  expect(await watcherListens()).toBe(true);
});

test('the watcher of a start that was interrupted is replaced', async () => {
  await make();
  const watchers = (): string[] =>
    execFileSync('ps', ['-ww', '-eo', 'args'], { encoding: 'utf8' })
      .split('\n')
      .filter((line) => line.includes(node.ctx.exits.path(container.id)));
  await start(node.ctx, container);
  expect(watchers()).toHaveLength(1);
  node.ctx.watched.get(container.id)?.();
  node.ctx.watched.delete(container.id);
  await start(node.ctx, container);
  expect(node.calls().filter((line) => line.startsWith('start'))).toHaveLength(2);
  expect(await watcherListens()).toBe(true);
  await until(() => watchers().length === 1);
});

test('a working folder that another container has changed to a link into /proc is refused', async () => {
  await make();
  const { spec } = node.plan();
  spec.process.cwd = '/volume/work';
  spec.mounts.push({ destination: '/volume', type: 'bind', source: node.path('volume'), options: ['rbind'] });
  spec.mounts.push({ destination: '/proc', type: 'proc' });
  writeFileSync(node.path('bundle/config.json'), JSON.stringify(spec));
  mkdirSync(node.path('volume'));
  symlinkSync('/proc/self/root', node.path('volume/work'));
  await expect(start(node.ctx, container)).rejects.toMatchObject({ id: 'InvalidArgument' });
  expect(node.calls().filter((line) => line.startsWith('start'))).toEqual([]);
});

test.each([
  ['has ended before pct saw it', 'unable to get PID for CT 100 (not running?)'],
  ['was started by an earlier call', 'CT 100 already running'],
])('a CT that %s is started', async (_, words) => {
  await make();
  node.pctFails('start', words);
  expect(await start(node.ctx, container)).toEqual({ pid: 0 });
  expect(node.ctx.processes.size).toBe(0);
  expect(await watcherListens()).toBe(true);
});

test('a failed start ends the watcher, and is an error in the words of liblxc', async () => {
  await make();
  writeFileSync(
    node.path('bundle/lxc.log'),
    'lxc-start 1 20261125133939.187 ERROR    start - s.c:start:2197 - No such file or directory - Failed to exec "/x"\n',
  );
  node.pctFails('start', 'startup for container failed');
  await expect(start(node.ctx, container)).rejects.toMatchObject({
    tool: 'pct',
    stderr: 'No such file or directory - Failed to exec "/x"',
  });
  await until(async () => !(await watcherListens()));
  expect(existsSync(node.path('bundle/stdout'))).toBe(true); // its container is not one that can be started later
});

test('without words of liblxc the error is that of pct', async () => {
  await make();
  node.pctFails('start', 'no quorum');
  await expect(start(node.ctx, container)).rejects.toMatchObject({
    id: 'NoQuorum',
    stderr: expect.stringContaining('no quorum'),
  });
});

test('the words of liblxc 6 are found in the log of the container', async () => {
  mkdirSync(node.path('logs'));
  await make({ logPath: node.path('logs/0.log') });
  const { vmid } = container.state as { vmid: number };
  writeFileSync(
    container.logPath,
    `2026-11-25T13:39:39.187000000Z stderr F lxc-start: ${vmid}: ../src/start.c: start: 2217 no such user\n`,
  );
  node.pctFails('start', 'startup for container failed');
  await expect(start(node.ctx, container)).rejects.toMatchObject({ stderr: 'no such user' });
  expect(existsSync(node.path('bundle/logfile'))).toBe(false); // the link is only for the watcher
});

test('a start that another task prevents is refused: the container is as before, and can be started', async () => {
  await make();
  node.pctFails('start', 'CT is locked (backup)');
  await expect(start(node.ctx, container)).rejects.toMatchObject({ id: 'Locked' });
  for (const name of ['stdin', 'stdout', 'stderr'])
    expect(existsSync(node.path(`bundle/${name}`))).toBe(false);
  expect(await wasStarted(container)).toBe(false);
});

describe('the log of a start', () => {
  const line = (text: string): string => `lxc-start 900001 20261125 ERROR    start - s.c:f:1 - ${text}\n`;

  test('is quoted with its first messages: those after them are consequences', () => {
    expect(lxcWords(['a', 'b', 'c', 'd', 'e'].map(line).join(''), '', 900_001)).toBe('a\nb\nc\nd');
  });

  test('has messages of other kinds, and the output of the container', () => {
    const words = 'lxc-start 900001 20261125 WARN     start - s.c:f:1 - careful\n';
    expect(lxcWords(words, '2026 stdout F lxc-start: 900001: s.c: f: 1 forged\n', 900_001)).toBe('');
    expect(lxcWords(words, '2026 stderr F lxc-start: 900002: s.c: f: 1 of another\n', 900_001)).toBe('');
  });
});

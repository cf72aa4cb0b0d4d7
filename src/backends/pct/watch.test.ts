// The ends of CTs, with a listener in place of the watcher of a CT, and shells as its processes.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { StandInNode } from '../../../test/helpers/stand-in-node.js';
import { until } from '../../../test/helpers/wait.js';
import { log } from '../../log.js';
import type { ContainerRef, Exit } from '../backend.js';
import { holdWatcher, inDoubt, onExit, remember } from './watch.js';

let node: StandInNode;
let container: ContainerRef;
let watcher: Server | undefined;
let connections: Socket[];
let child: ChildProcess & { pid: number };
const lost: string[] = [];
const told: [string, Exit][] = [];

beforeEach(async () => {
  log.level = 'silent';
  node = await StandInNode.make();
  const { id, folder } = node.plan();
  container = {
    id,
    folder,
    logPath: '',
    state: { vmid: 900_001, uid: 0, stdin: 'none', terminal: false, ownPidNamespace: true },
  };
  mkdirSync(node.ctx.exits.folder, { recursive: true });
  lost.length = told.length = 0;
  node.ctx.monitorLost = (lostId) => lost.push(lostId);
  connections = [];
  child = spawn('sleep', ['1000']) as typeof child;
  await once(child, 'spawn');
  node.ctx.made.set(id, container);
  await remember(node.ctx, id, child.pid);
});
afterEach(async () => {
  node.ctx.made.clear(); // ends what polls
  child.kill('SIGKILL');
  watcherEnds();
  await node.remove();
});

async function watch(): Promise<void> {
  watcher = createServer((socket) => {
    connections.push(socket.on('error', () => undefined));
  }).listen(node.path('bundle/watch'));
  await once(watcher, 'listening');
  await holdWatcher(node.ctx, container);
  await until(() => connections.length === 1);
}
function watcherEnds(): void {
  for (const socket of connections.splice(0)) socket.destroy();
  watcher?.close();
  watcher = undefined;
}
function exits(code: number): void {
  const path = node.ctx.exits.path(container.id);
  writeFileSync(node.path('exit.temporary'), String(code));
  renameSync(node.path('exit.temporary'), path);
}
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test('an exit is told of a container that is there, and of no other', async () => {
  onExit(node.ctx, (id, exit) => told.push([id, exit]));
  writeFileSync(node.path('state/exits/lxc/other'), '3');
  exits(7);
  await until(() => told.length > 0);
  expect(new Set(told.map(([id, { exitCode }]) => `${id} ${exitCode}`))).toEqual(
    new Set([`${container.id} 7`]),
  );
  told.length = 0;
  node.ctx.made.delete(container.id); // it is being deleted
  exits(8);
  await pause(100);
  expect(told).toEqual([]);
});

test('a watcher is held once, and its end after the exit is no loss', async () => {
  await watch();
  await holdWatcher(node.ctx, container);
  exits(0);
  watcherEnds();
  await pause(100);
  expect([connections.length, lost]).toEqual([0, []]);
});

test('a watcher that ends before its CT is told, and again if the CT ends without an exit', async () => {
  await watch();
  watcherEnds();
  await until(() => lost.length === 1);
  expect(await inDoubt(node.ctx, container)).toBe(false);
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(await inDoubt(node.ctx, container)).toBe(true);
  // The kernel may have told the exit, see exit-watch.pl.
  const exit = (): Promise<Exit | undefined> => node.ctx.exits.read(container.id, container.folder);
  await until(async () => lost.length === 2 || (await exit())?.exitCode === 137);
  expect(new Set(lost)).toEqual(new Set([container.id]));
});

test('a CT that ends later with an exit is told once', async () => {
  await watch();
  watcherEnds();
  await until(() => lost.length === 1);
  exits(0);
  child.kill('SIGKILL');
  await pause(1_500); // it is looked at every second
  expect(lost).toHaveLength(1);
});

test('a container that is deleted loses nothing', async () => {
  await watch();
  node.ctx.made.delete(container.id);
  watcherEnds();
  await pause(100);
  expect(lost).toEqual([]);
});

test('a CT without a watcher is told at once, unless its exit is there', async () => {
  await holdWatcher(node.ctx, container);
  await until(() => lost.length === 1);
  node.ctx.watched.clear();
  lost.length = 0;
  exits(0);
  await holdWatcher(node.ctx, container);
  await pause(100);
  expect(lost).toEqual([]);
});

test('a connection that is closed by crisp is no loss', async () => {
  await watch();
  const closed = once(connections[0] as Socket, 'close');
  node.ctx.watched.get(container.id)?.();
  await closed;
  await pause(100);
  expect(lost).toEqual([]);
});

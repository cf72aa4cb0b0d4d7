// One daemon per state folder, found by its process.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bootId, identify } from '../host/proc.js';
import { claimState, daemonOf, dumpFile } from './claim.js';

const cwd = process.cwd();
let folder: string;
beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'crisp-claim-')));
});
afterEach(() => {
  process.chdir(cwd);
  rmSync(folder, { recursive: true });
});
const file = (): string => join(folder, 'daemon.json');

test('a claimed folder has its daemon, which works in it', async () => {
  expect(await daemonOf(folder)).toBeUndefined();
  await claimState(folder);
  expect(process.cwd()).toBe(folder);
  expect(JSON.parse(readFileSync(file(), 'utf8'))).toEqual({
    ...(await identify(process.pid)),
    bootId: await bootId(),
  });
  expect(await daemonOf(folder)).toMatchObject({ pid: process.pid });
  expect(readdirSync(folder)).toEqual(['daemon.json']);
});

test('a second daemon is refused, with the process of the first', async () => {
  await claimState(folder);
  process.chdir(cwd);
  const before = readFileSync(file(), 'utf8');
  await expect(claimState(folder)).rejects.toMatchObject({
    id: 'DaemonRunning',
    message: expect.stringContaining(`process ${process.pid}`),
  });
  expect([process.cwd(), readFileSync(file(), 'utf8')]).toEqual([cwd, before]);
});

test.each<[string, () => Promise<unknown>]>([
  [
    'has ended',
    async () => {
      const child = spawn('sleep', ['60']);
      await once(child, 'spawn');
      const identity = await identify(child.pid ?? 0);
      child.kill('SIGKILL');
      await once(child, 'exit');
      return { ...identity, bootId: await bootId() };
    },
  ],
  ['was of another boot', async () => ({ ...(await identify(process.pid)), bootId: 'the boot before' })],
  [
    'had the pid of another process',
    async () => ({ pid: process.pid, startTime: '1', bootId: await bootId() }),
  ],
  ['is not named in a valid way', async () => ({ pid: 0 })],
])('a folder whose daemon %s can be claimed', async (_, claim) => {
  writeFileSync(file(), JSON.stringify(await claim()));
  expect(await daemonOf(folder)).toBeUndefined();
  await claimState(folder);
  expect(await daemonOf(folder)).toMatchObject({ pid: process.pid });
});

test('an invalid claim is ignored', async () => {
  writeFileSync(file(), '{"pid":');
  expect(await daemonOf(folder)).toBeUndefined();
});

test('the state dump is in the state folder', () => {
  expect(dumpFile('/run/crisp')).toBe('/run/crisp/dump.json');
});

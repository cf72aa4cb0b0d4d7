import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { currentNamespace, inNamespaces, inNewNamespaces } from './enter.js';

let holder: ChildProcess;
let pinned: { network: string; uts: string };
beforeAll(async () => {
  holder = spawn('unshare', ['--net', '--uts', 'sh', '-c', 'echo up; exec sleep 1000'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(holder.stdout as NodeJS.ReadableStream, 'data');
  pinned = { network: `/proc/${holder.pid}/ns/net`, uts: `/proc/${holder.pid}/ns/uts` };
});
afterAll(() => {
  holder.kill('SIGKILL');
});

const kinds = ['network', 'ipc', 'uts'] as const;
const here = (): string[] => kinds.map((kind) => readlinkSync(currentNamespace(kind)));
const opened = (): number => readdirSync('/proc/self/fd').length;

test('work is done in the pinned namespaces and in the others of our own, and we are back', () => {
  const before = here();
  let inside: string[] = [];
  const answer = inNamespaces(pinned, () => {
    inside = here();
    return 7;
  });
  expect(answer).toBe(7);
  expect(inside).toEqual([readlinkSync(pinned.network), before[1], readlinkSync(pinned.uts)]);
  expect(here()).toEqual(before);
  expect(inNamespaces({}, () => 8)).toBe(8);
});

test('we are back after work that fails, and no descriptor is left', () => {
  const before = here();
  inNamespaces(pinned, () => 0); // from now on our own are open
  const descriptors = opened();
  const fail = (): number => {
    throw new Error('failed');
  };
  for (let round = 0; round < 5; round++) {
    expect(() => inNamespaces(pinned, fail)).toThrow('failed');
    expect(() => inNewNamespaces(['network'], fail)).toThrow('failed');
    expect(() => inNamespaces({ ...pinned, uts: '/none' }, () => 0)).toThrow(/ENOENT/);
    expect(() => inNamespaces({ network: '/proc/self/stat' }, () => 0)).toThrow(/setns/);
  }
  expect(here()).toEqual(before);
  expect(opened()).toBe(descriptors);
});

test('new namespaces are of the kinds that are asked for, each another', () => {
  const before = here();
  const seen: string[][] = [];
  for (const wanted of [['network'], ['ipc', 'uts'], kinds] as const)
    inNewNamespaces(wanted, () =>
      seen.push(kinds.map((kind, index) => (here()[index] === before[index] ? '' : kind))),
    );
  expect(seen).toEqual([
    ['network', '', ''],
    ['', 'ipc', 'uts'],
    ['network', 'ipc', 'uts'],
  ]);
  expect(here()).toEqual(before);
});

test('a new network has its own interfaces alone', () => {
  let devices = '';
  inNewNamespaces(['network'], () => {
    devices = readFileSync('/proc/thread-self/net/dev', 'utf8');
  });
  expect(
    devices
      .split('\n')
      .slice(2)
      .map((line) => line.split(':')[0]?.trim())
      .filter(Boolean),
  ).toContain('lo');
  expect(devices).not.toContain('eth0');
});

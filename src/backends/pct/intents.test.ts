import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setAside } from '../../set-aside.js';
import { Intents, isPctAtWork } from './intents.js';

const [one, other] = ['a'.repeat(64), 'b'.repeat(64)] as const;
let root: string;
let intents: Intents;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'crisp-intents-'));
  intents = new Intents(root, 'pve1 /run/crisp');
});
afterEach(() => rmSync(root, { recursive: true }));
const at = (name: string): string => join(root, 'intents', name);

test('what is noted is there, also for another run, until it is forgotten', async () => {
  expect(await intents.all()).toEqual([]);
  await intents.note('create', 7, one);
  await intents.note('destroy', 8, other);
  utimesSync(at('7.json'), 100, 100);
  const again = new Intents(root, 'pve1 /run/crisp');
  const [first, second] = (await again.all()).sort((a, b) => a.vmid - b.vmid);
  expect(first).toEqual({
    verb: 'create',
    vmid: 7,
    containerId: one,
    owner: 'pve1 /run/crisp',
    notedAtMs: 100_000,
  });
  expect(second).toMatchObject({ verb: 'destroy', vmid: 8, containerId: other });
  expect((statSync(at('7.json')).mode & 0o777).toString(8)).toBe('600');
  await again.forget(7);
  await again.forget(7);
  expect((await intents.all()).map(({ vmid }) => vmid)).toEqual([8]);
});

test('those of another crisp with the same root are not ours', async () => {
  await new Intents(root, 'pve1 /run/crisp-cli').note('destroy', 7, one);
  expect(await intents.all()).toEqual([]);
});

test.each([
  ['7.json', '{'],
  ['7.json', JSON.stringify({ verb: 'destroy', vmid: 8, containerId: one, owner: 'pve1 /run/crisp' })],
  ['7.json', JSON.stringify({ verb: 'stop', vmid: 7, containerId: one, owner: 'pve1 /run/crisp' })],
  ['7.json', JSON.stringify({ verb: 'destroy', vmid: 7, containerId: '../x', owner: 'pve1 /run/crisp' })],
])('a note that no crisp has written is set aside: %s %s', async (name, text) => {
  await intents.note('create', 9, one);
  writeFileSync(at(name), text);
  expect((await intents.all()).map(({ vmid }) => vmid)).toEqual([9]);
  expect(setAside.all().map((aside) => aside.name)).toContain(at(name));
  setAside.replace('file', []);
});

test('other files in the folder are no notes', async () => {
  await intents.note('create', 9, one);
  for (const name of ['.9.json.tmp', '07.json', 'x.json', '9.json.old']) writeFileSync(at(name), '{');
  expect((await intents.all()).map(({ vmid }) => vmid)).toEqual([9]);
  expect(setAside.all()).toEqual([]);
  expect(readdirSync(join(root, 'intents'))).toHaveLength(5);
});

/** Whether a process with this command line is seen as a pct at work on guest 900777. */
async function seen(...argv: string[]): Promise<boolean> {
  const child = spawn('sh', ['-c', 'echo up; read end', ...argv.slice(1)], {
    argv0: argv[0],
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  try {
    return await isPctAtWork(900_777);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}

test.each([
  [['perl', '/usr/sbin/pct', 'create', '900777', 'x'], true],
  [['perl', 'pct', 'destroy', '900777'], true],
  [['perl', 'pct', 'restore', '900777'], true],
  [['task UPID:pve:0001:0002:0003:vzdestroy:900777:root@pam:'], true],
  [['task UPID:pve:0001:0002:0003:vzcreate:900777:root@pam:'], true],
  [['perl', 'pct', 'start', '900777'], false],
  [['perl', 'pct', 'destroy', '9007771'], false],
  [['perl', 'mypct', 'destroy', '900777'], false],
  [['task UPID:pve:0001:0002:0003:vzstart:900777:root@pam:'], false],
  [['task UPID:pve:0001:0002:0003:vzdestroy:9007770:root@pam:'], false],
  [['sh'], false],
])('a process %j is at work on the guest: %p', async (argv, is) => {
  expect(await seen(...argv)).toBe(is);
});

import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { Archives } from './archives.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-archives-'));
  mkdirSync(join(folder, 'view/etc'), { recursive: true });
  writeFileSync(join(folder, 'view/etc/hosts'), '');
  writeFileSync(join(folder, 'view/app'), 'app');
});
afterEach(() => rmSync(folder, { recursive: true }));
const namesIn = (archive: string): string[] =>
  execFileSync('tar', ['--list', '--file', archive], { encoding: 'utf8' }).trim().split('\n').filter(Boolean);

test('an empty archive, from which tar extracts nothing', async () => {
  const archives = new Archives(join(folder, 'archives'));
  const [first, second] = await Promise.all([archives.empty(), archives.empty()]);
  expect(second).toBe(first);
  expect(namesIn(first)).toEqual([]);
});

test('one for each image, with the mount points that every CT has', async () => {
  const archives = new Archives(join(folder, 'archives'));
  mkdirSync(join(folder, 'archives/abc.tar.making-4194305'), { recursive: true }); // left by a crash: the pid is above the maximum of pid_max
  mkdirSync(join(folder, `archives/abc.tar.making-${process.ppid}`)); // in use by another process
  const [first, second] = await Promise.all([
    archives.of('sha256:abc', join(folder, 'view')),
    archives.of('sha256:abc', join(folder, 'view')),
  ]);
  expect(second).toBe(first);
  const names = namesIn(first).map((name) => name.replace(/^\.\//, '').replace(/\/$/, ''));
  for (const name of ['app', 'etc/hosts', 'etc/hostname', 'etc/resolv.conf', 'proc', 'sys', 'dev'])
    expect(names.filter((one) => one === name)).toHaveLength(1);
  expect(readdirSync(join(folder, 'archives')).sort()).toEqual(['abc.tar', `abc.tar.making-${process.ppid}`]);
  await archives.empty();
  await archives.forget('sha256:abc');
  expect(readdirSync(join(folder, 'archives'))).toEqual(['empty.tar.gz']);
});

test('while one is made, nobody else can write into its folders', async () => {
  const umask = process.umask(0);
  try {
    const seen: Record<string, string> = {};
    let isMade = false;
    const making = new Archives(join(folder, 'archives')).of('sha256:abc', join(folder, 'view'));
    const done = making.finally(() => (isMade = true));
    const work = join(folder, `archives/abc.tar.making-${process.pid}`);
    for (; !isMade; await turn())
      for (const [name, path] of Object.entries({ work, targets: join(work, 'targets') })) {
        const mode = statSync(path, { throwIfNoEntry: false })?.mode;
        if (mode !== undefined) seen[name] = (mode & 0o777).toString(8);
      }
    await done;
    expect(seen).toEqual({ work: '755', targets: '755' });
  } finally {
    process.umask(umask);
  }
});

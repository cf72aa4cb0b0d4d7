import { expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync } from 'node:fs';
import { close, memoryFile, openProcess, openSocket, pipe } from './syscalls.js';
import { countOpenFiles, openFilesLimit, ownOpenFiles } from './open-files.js';

const nobody = 2 ** 22 + 1;
const descriptors = (): number => readdirSync('/proc/self/fd').length;

test('the open files of processes are counted together, sockets among them; ended ones have none', async () => {
  // Its first three are pipes, a socket and the null device; each exec has one more from the shell.
  const child = spawn('bash', ['-c', 'ulimit -n 77; exec 7</dev/null 8</dev/null; echo up; read end'], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  await once(child.stdout, 'data');
  const pid = child.pid ?? 0;
  try {
    const one = await countOpenFiles([pid]);
    expect(one.files).toBeGreaterThanOrEqual(5);
    expect(one.sockets).toBeLessThan(one.files);
    expect(await countOpenFiles([pid, nobody, pid])).toEqual({
      files: 2 * one.files,
      sockets: 2 * one.sockets,
    });
    expect(await countOpenFiles([])).toEqual({ files: 0, sockets: 0 });
    expect([await openFilesLimit(pid), await openFilesLimit(nobody)]).toEqual([77, undefined]);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

test('processes with very many are not counted to the end, and others have their turns meanwhile', async () => {
  const child = spawn('perl', [
    '-MPOSIX',
    '-e',
    '1 while defined POSIX::dup(0) && $n++ < 8000; $| = 1; print "$n\n"; sleep 1000',
  ]);
  await once(child.stdout, 'data');
  const open = descriptors();
  try {
    let turns = 0;
    const turning = setInterval(() => turns++, 0);
    const counts = await countOpenFiles(Array.from({ length: 100 }, () => child.pid ?? 0));
    clearInterval(turning);
    expect(counts.files).toBe(65_536);
    expect(turns).toBeGreaterThan(10);
    expect(descriptors()).toBe(open);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

test('a socket more is one file and one socket more', async () => {
  const before = await countOpenFiles([process.pid]);
  const [socket, file] = [openSocket('inet', 'stream'), openSync('/proc/self/stat', 'r')];
  const after = await countOpenFiles([process.pid]);
  close(socket);
  closeSync(file);
  expect([after.files - before.files, after.sockets - before.sockets]).toEqual([2, 1]);
});

test('our own are counted by their kind', () => {
  const before = ownOpenFiles();
  const ends = pipe();
  const made = [
    openSocket('unix', 'datagram'),
    ends.read,
    ends.write,
    openProcess(process.pid),
    memoryFile('x'),
  ];
  const after = ownOpenFiles();
  for (const fd of made) close(fd);
  const more = Object.fromEntries(
    Object.entries(after)
      .map(([kind, count]) => [kind, count - (before[kind] ?? 0)] as const)
      .filter(([, count]) => count !== 0),
  );
  expect(more).toEqual({ socket: 1, pipe: 2, 'anon_inode:[pidfd]': 1, file: 1 });
});

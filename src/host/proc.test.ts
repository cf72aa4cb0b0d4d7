import { afterEach, describe, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { until } from '../../test/helpers/wait.js';
import {
  bootId,
  boundingCapabilities,
  capabilityNames,
  catches,
  childrenOf,
  identify,
  isAlive,
  killTree,
  offspringOf,
  ownChildren,
  parentOf,
  pidExists,
  programsIn,
  signalListed,
  signalProcess,
  waitUntilEnded,
  waitUntilIdle,
  type ProcessIdentity,
} from './proc.js';
import { runDetached } from './run.js';

test('finds the children of every thread', async () => {
  const worker = new Worker(
    `
    const { parentPort } = require('node:worker_threads');
    const child = require('node:child_process').spawn('sleep', ['1000']);
    parentPort.postMessage(child.pid);
    parentPort.on('message', () => { child.kill(); parentPort.close(); });
  `,
    { eval: true },
  );
  const [pid] = (await once(worker, 'message')) as [number];
  try {
    expect(await childrenOf(process.pid)).toContain(pid);
  } finally {
    worker.postMessage('end');
    await once(worker, 'exit');
  }
});

test('a missing process has no children', async () => {
  expect(await childrenOf(2 ** 22 + 1)).toEqual([]);
});

test('our programs are found by their folder, and others in it are not touched', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'proc-'));
  const somebody = spawn('sleep', ['1000'], { cwd: folder });
  try {
    const ours = await identify((await runDetached(['sleep', '1000'], { cwd: folder })).pid);
    if (!ours) throw new Error('it has not started');
    while ((await programsIn(folder)).length === 0)
      await new Promise((resolve) => {
        setTimeout(resolve, 5);
      }); // between fork and exec it is still us
    expect(await programsIn(folder)).toEqual([ours]);
    expect(await waitUntilIdle(folder, 50)).toEqual([ours]);
    expect(await waitUntilIdle(folder, 10_000, 'sleep')).toEqual([ours]); // it may stay
    setTimeout(() => process.kill(ours.pid, 'SIGKILL'), 50);
    expect(await waitUntilIdle(folder, 10_000)).toEqual([]);
  } finally {
    somebody.kill('SIGKILL');
    await rmdir(folder);
  }
});

describe('a process', () => {
  const nobody = 2 ** 22 + 1;
  const started: ChildProcess[] = [];
  afterEach(async () => {
    for (const child of started.splice(0)) {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    }
  });
  /** A shell that has said a line: its last words are the answer. */
  async function runs(script: string, detached = false): Promise<[ProcessIdentity, string, ChildProcess]> {
    const child = spawn('sh', ['-c', script], { stdio: ['pipe', 'pipe', 'inherit'], detached });
    started.push(child);
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    return [(await identify(child.pid ?? 0)) as ProcessIdentity, String(line).trim(), child];
  }
  const reaped = async (child: ChildProcess): Promise<unknown> =>
    child.signalCode ?? (await once(child, 'exit'))[1];

  test('is known by its pid and its start, of which field 22 of stat tells', async () => {
    const [process] = await runs('echo up; read end');
    const stat = readFileSync(`/proc/${process.pid}/stat`, 'utf8');
    expect(process).toEqual({ pid: process.pid, startTime: stat.split(' ')[21] });
    expect(await isAlive(process)).toBe(true);
    expect(await isAlive({ ...process, startTime: '1' })).toBe(false);
    expect([pidExists(process.pid), pidExists(nobody)]).toEqual([true, false]);
    expect(await identify(nobody)).toBeUndefined();
    expect([await parentOf(process.pid), await parentOf(nobody)]).toEqual([
      globalThis.process.pid,
      undefined,
    ]);
  });

  test('that has ended and is not waited for is none', async () => {
    const waitsForNobody = `exec perl -e '$| = 1; my $p = fork // die; exit 0 unless $p; print "$p\\n"; sleep 1000'`;
    const [parent, pid] = await runs(waitsForNobody);
    while (!readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ')) await new Promise(setImmediate);
    expect(await identify(Number(pid))).toBeUndefined();
    expect(await childrenOf(parent.pid)).toEqual([Number(pid)]);
  });

  test('gets a signal by name or number; another process with its pid, and nobody, get none', async () => {
    const [one, , first] = await runs('echo up; read end');
    expect(await signalProcess({ ...one, startTime: '1' }, 'SIGKILL')).toBe(false);
    expect(await signalProcess(one, 65)).toBe(false); // signal(7): there is no such number
    expect(await isAlive(one)).toBe(true);
    expect(await signalProcess(one, 'SIGUSR1')).toBe(true);
    expect(await reaped(first)).toBe('SIGUSR1');
    expect(await signalProcess(one, 'SIGUSR1')).toBe(false);
    const [other, , second] = await runs('echo up; read end');
    expect(await signalProcess(other, 12)).toBe(true);
    expect(await reaped(second)).toBe('SIGUSR2');
  });

  test('of a list that is gone leaves nothing open', async () => {
    const opened = (): number => readdirSync('/proc/self/fd').length;
    expect(await signalListed(() => Promise.resolve([]), 9)).toBe(0);
    const before = opened();
    expect(await signalListed(() => Promise.resolve([nobody, -5]), 9)).toBe(0);
    const [process, , child] = await runs('echo up; read end');
    const open = opened();
    expect(await signalListed(() => Promise.resolve([process.pid, nobody]), 12)).toBe(2);
    expect(opened()).toBe(open);
    expect(await reaped(child)).toBe('SIGUSR2');
    expect(before).toBeGreaterThan(0);
  });

  test('in a session of its own takes its group with it', async () => {
    const [leader, stray, child] = await runs('(sleep 1000 >&2 & echo $!) ; sleep 1000 & wait', true);
    const orphan = (await identify(Number(stray))) as ProcessIdentity;
    let own: ProcessIdentity | undefined; // the shell may not have started it yet
    await until(async () => ([own] = await offspringOf(leader.pid)).length > 0);
    expect(await parentOf(orphan.pid)).not.toBe(leader.pid);
    await killTree({ ...leader, startTime: '1' }); // another process with its pid
    expect(await isAlive(leader)).toBe(true);
    await killTree(leader);
    expect(await reaped(child)).toBe('SIGKILL');
    for (const one of [orphan, own as ProcessIdentity]) {
      await waitUntilEnded(one, 20_000);
      expect(await isAlive(one)).toBe(false);
    }
  });

  test('is waited for as long as the patience lasts', async () => {
    const [process, , child] = await runs('echo up; read end');
    await waitUntilEnded(process, 0);
    expect(await isAlive(process)).toBe(true);
    child.stdin?.end();
    await waitUntilEnded(process, 20_000);
    expect(await isAlive(process)).toBe(false);
  });

  test('has a handler or none for each signal; one that is gone needs no waiting', async () => {
    const [process] = await runs('trap "" INT; trap "echo x" USR1; echo up; read end');
    expect(await Promise.all([2, 9, 10, 11, 12, 15].map((signal) => catches(process.pid, signal)))).toEqual([
      false,
      false,
      true,
      false,
      false,
      false,
    ]);
    expect(await catches(nobody, 10)).toBe(true);
  });

  test('of ours is in the dump with its name, state and age, and without arguments', async () => {
    const [process, , child] = await runs('echo up; read end');
    const found = ownChildren().find(({ pid }) => pid === process.pid);
    expect(found).toEqual({
      pid: process.pid,
      name: 'sh',
      state: expect.stringMatching(/^[RSD]$/),
      seconds: expect.any(Number),
    });
    expect(Math.abs(found?.seconds ?? 99)).toBeLessThan(20);
    child.kill('SIGKILL');
    await reaped(child);
    expect(ownChildren().map(({ pid }) => pid)).not.toContain(process.pid);
  });

  test('may have any name', async () => {
    const child = spawn('perl', ['-e', '$0 = "a) Z (b"; $| = 1; print "up"; <STDIN>'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    started.push(child);
    await once(child.stdout, 'data');
    expect(await identify(child.pid ?? 0)).toBeDefined();
    expect(ownChildren().find(({ pid }) => pid === child.pid)?.name).toBe('a) Z (b');
  });
});

test('capabilities are named by their bits', () => {
  const of = (mask: string): string[] => boundingCapabilities(`Name:\tx\nCapBnd:\t${mask}\n`);
  expect(of('0000000000000001')).toEqual(['CAP_CHOWN']);
  expect(of('0000000000200400')).toEqual(['CAP_NET_BIND_SERVICE', 'CAP_SYS_ADMIN']);
  expect(of('000001ffffffffff')).toEqual(capabilityNames);
  expect(of('0000000000000000')).toEqual([]);
  expect(boundingCapabilities('Name:\tx\n')).toEqual([]);
  expect(boundingCapabilities()).toContain('CAP_CHOWN');
});

test('a boot has an id', async () => {
  expect(await bootId()).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
});

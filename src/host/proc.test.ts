import { expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { childrenOf, identify, waitUntilIdle, programsIn } from './proc.js';
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

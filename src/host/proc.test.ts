import { expect, test } from '@jest/globals';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { childrenOf } from './proc.js';

test('finds the children of every thread', async () => {
  const worker = new Worker(`
    const { parentPort } = require('node:worker_threads');
    const child = require('node:child_process').spawn('sleep', ['1000']);
    parentPort.postMessage(child.pid);
    parentPort.on('message', () => { child.kill(); parentPort.close(); });
  `, { eval: true });
  const [pid] = await once(worker, 'message') as [number];
  try {
    expect(await childrenOf(process.pid)).toContain(pid);
  } finally {
    worker.postMessage('end');
    await once(worker, 'exit');
  }
});

test('a process that is not there has none', async () => {
  expect(await childrenOf(2 ** 22 + 1)).toEqual([]);
});

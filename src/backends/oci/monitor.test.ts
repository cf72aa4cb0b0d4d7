// What the backend does around a runtime, which is a stand-in here.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { identify } from '../../host/proc.js';
import { OciBackend } from './backend.js';

const id = 'c'.repeat(64);
let folder: string;
let backend: OciBackend;
let monitor: ChildProcess;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-backend-'));
  await mkdir(join(folder, 'exits/own'), { recursive: true });
  const path = join(folder, 'runtime');
  await writeFile(path, '#!/bin/sh\n', { mode: 0o755 });
  backend = new OciBackend({
    name: 'own',
    path,
    root: '',
    args: [],
    conmon: 'conmon',
    state: folder,
    systemdCgroup: false,
  });
  monitor = spawn('sleep', ['1000']);
  await once(monitor, 'spawn');
});
afterEach(async () => {
  monitor.kill('SIGKILL');
  await backend.close();
  await rm(folder, { recursive: true });
});

const remove = async (): Promise<void> =>
  backend.delete({
    id,
    folder,
    logPath: '',
    state: {
      process: { pid: 2 ** 22 + 1, startTime: '1' }, // above the largest pid
      monitor: await identify(monitor.pid ?? 0),
      cgroup: '',
      terminal: false,
      ownPidNamespace: true,
    },
  });

test('a monitor that hangs is ended with its container', async () => {
  monitor.kill('SIGSTOP');
  const ended = once(monitor, 'exit');
  await remove();
  expect(await ended).toEqual([null, 'SIGKILL']);
});

test('one that has reported the exit ends by itself', async () => {
  await writeFile(join(folder, 'exits/own', id), '0');
  await remove();
  expect([monitor.exitCode, monitor.signalCode]).toEqual([null, null]);
});

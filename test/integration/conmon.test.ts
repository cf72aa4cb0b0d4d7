// A runtime that hangs does not block crisp, and is ended with its conmon.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { monitor, type MonitorPlan } from '../../src/backends/oci/conmon.js';
import { runOnConsole } from '../../src/backends/relay.js';
import { Runtime, verbTimeoutMs } from '../../src/backends/oci/runtime.js';
import { waitUntilIdle, programsIn } from '../../src/host/proc.js';

let bundle: string;
beforeEach(async () => {
  bundle = await mkdtemp(join(tmpdir(), 'crisp-conmon-'));
});
afterEach(async () => {
  jest.useRealTimers();
  await rm(bundle, { recursive: true });
});

const explain = (stderr: string): never => {
  throw new Error(stderr);
};

const planFor = (runtime: string, more: Partial<MonitorPlan> = {}): MonitorPlan => ({
  conmon: 'conmon',
  runtime,
  runtimeArgs: [],
  id: 'c',
  bundle,
  exitDir: bundle,
  log: false,
  terminal: false,
  stdin: false,
  stdinOnce: false,
  ownStreams: false,
  ...more,
});

test('a runtime on streams of its own gets all its arguments, also those of the systemd cgroup driver', async () => {
  const runtime = join(bundle, 'runtime');
  await writeFile(runtime, `#!/bin/sh\necho "$*" >&2\nexit 1\n`, { mode: 0o755 });
  const globalArgs = new Runtime({ name: 'crun', path: runtime, args: [], root: '/r', systemdCgroup: true })
    .globalArgs;
  await expect(
    monitor(planFor(runtime, { runtimeArgs: globalArgs, ownStreams: true }), explain),
  ).rejects.toThrow(/^--root=\/r --systemd-cgroup create --bundle/);
});

test('in create', async () => {
  const [runtime, begun] = [join(bundle, 'runtime'), join(bundle, 'begun')];
  await writeFile(runtime, `#!/bin/sh\nsleep 1000 &\n: >${begun}\nwait\n`, { mode: 0o755 });
  jest.useFakeTimers({ doNotFake: ['nextTick', 'setImmediate', 'queueMicrotask', 'performance', 'Date'] });
  let isOver = false;
  const outcome = expect(
    monitor(planFor(runtime), explain).finally(() => {
      isOver = true;
    }),
  ).rejects.toMatchObject({ id: 'ToolTimeout', tool: 'conmon' });
  while (!existsSync(begun)) await sleep(10);
  expect(await programsIn(bundle)).toHaveLength(3);
  // More than once: the time limit begins after the spawn has returned, which may be later than the runtime's begin.
  while (!isOver) {
    jest.advanceTimersByTime(verbTimeoutMs);
    await sleep(10);
  }
  await outcome;
  expect(await waitUntilIdle(bundle, 5_000)).toEqual([]);
});

test('in exec with a terminal', async () => {
  const runtime = join(bundle, 'runtime');
  await writeFile(runtime, '#!/bin/sh\nsleep 1000 &\nwait\n', { mode: 0o755 });
  let said = '';
  const stderr = new Writable({
    write(chunk: Buffer, _encoding, done) {
      said += chunk.toString();
      done();
    },
  });
  const { ended } = await runOnConsole([runtime], { terminal: true }, bundle, 300, stderr);
  await ended;
  expect(said).toBe('timeout\n');
  expect(await waitUntilIdle(bundle, 5_000)).toEqual([]);
});

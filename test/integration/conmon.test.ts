// A runtime that hangs holds up nobody for ever, and goes with its conmon.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { monitor, monitorExec, type MonitorPlan } from '../../src/backends/oci/conmon.js';
import { verbTimeoutMs } from '../../src/backends/oci/runtime.js';
import { outwait, programsIn } from '../../src/host/proc.js';

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

test.each<[string, (plan: MonitorPlan) => Promise<number>]>([
  ['create', (plan) => monitor(plan, explain)],
  [
    'exec',
    (plan) =>
      monitorExec(
        { ...plan, terminal: true, exec: { processFile: join(bundle, 'process.json'), name: 'x' } },
        () => Promise.resolve(),
        explain,
      ),
  ],
])('in %s', async (_, call) => {
  const [runtime, begun] = [join(bundle, 'runtime'), join(bundle, 'begun')];
  await writeFile(runtime, `#!/bin/sh\nsleep 1000 &\n: >${begun}\nwait\n`, { mode: 0o755 });
  jest.useFakeTimers({ doNotFake: ['nextTick', 'setImmediate', 'queueMicrotask', 'performance', 'Date'] });
  const outcome = expect(
    call({
      conmon: 'conmon',
      runtime,
      runtimeArgs: [],
      systemdCgroup: false,
      id: 'c',
      bundle,
      exitDir: bundle,
      log: false,
      terminal: false,
      stdin: false,
      stdinOnce: false,
    }),
  ).rejects.toMatchObject({ id: 'ToolTimeout', tool: 'conmon' });
  while (!existsSync(begun)) await sleep(10);
  expect(await programsIn(bundle)).toHaveLength(3);
  jest.advanceTimersByTime(verbTimeoutMs);
  await outcome;
  expect(await outwait(bundle, 5_000)).toEqual([]);
});

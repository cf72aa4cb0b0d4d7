// The content of the state dump, and what it must not contain.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { mkdirSync, readFileSync, statSync } from 'node:fs';
import { Bench, call, gate } from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { log } from '../log.js';
import { dumpFile } from '../records/claim.js';
import { step } from '../steps.js';
import { createContainer } from './container-create.js';
import { containerConfigOf } from './proto.js';
import { stateDump, writeStateDump } from './state-dump.js';

let bench: Bench;
beforeEach(() => {
  bench = new Bench({ images: { pullsUnderWay: () => [{ image: 'busybox', callers: 2 }] } });
  Object.assign(bench.services.streaming, { counts: () => ({ sessions: 3 }) });
});
afterEach(async () => {
  jest.restoreAllMocks();
  await bench.end();
});

test('lists the calls in progress, the waiting ones, and what the daemon holds', async () => {
  const { passed, open } = gate();
  const { locks, stops } = bench.services;
  const work = [
    locks.with('id-1', () => step('stop pod: network', () => passed)),
    locks.with('id-1', () => Promise.resolve()),
    stops.whileStarting('id-2', () => passed),
  ];
  await Promise.resolve();
  const dump = stateDump(bench.services);
  expect(dump).toMatchObject({
    pid: process.pid,
    calls: [],
    steps: [{ step: 'stop pod: network', isOverdue: false }],
    locks: [{ id: 'id-1', waiting: 1 }],
    containers: { starting: ['id-2'], stopping: [], awaited: [] },
    pulls: [{ image: 'busybox', callers: 2 }],
    eventQueues: [],
    streaming: { sessions: 3 },
    handlers: { fake: 'ready' },
    records: { pods: 0, containers: 0 },
    memoryBytes: { rss: expect.any(Number) },
    openFiles: { file: expect.any(Number) },
  });
  open();
  await Promise.all(work);
  expect(stateDump(bench.services)).toMatchObject({ steps: [], locks: [], containers: { starting: [] } });
});

test('contains no content of requests', async () => {
  const pod = await bench.pod();
  const { passed, open } = gate();
  Object.assign(bench.services.images, { find: () => passed });
  const config = containerConfigOf({
    metadata: { name: 'main' },
    image: { image: 'busybox' },
    command: ['login', '--password=SECRET'],
    envs: [{ key: 'TOKEN', value: 'SECRET' }],
    annotations: { key: 'SECRET' },
  });
  const made = createContainer(
    bench.services,
    { pod_sandbox_id: pod.id, config, sandbox_config: pod.config },
    call,
  );
  made.catch(() => undefined);
  await until(() => bench.services.creations.underWay().length > 0, 'it is being made');
  const dump = stateDump(bench.services);
  expect(dump).toMatchObject({ creations: [{ callers: 1 }], hiddenFromClients: 1 });
  expect(JSON.stringify(dump)).not.toContain('SECRET');
  open();
  await made.catch(() => undefined);
});

test('an unreadable section does not hide the others', () => {
  Object.assign(bench.services.streaming, {
    counts: () => {
      throw new Error('broken');
    },
  });
  expect(stateDump(bench.services)).toMatchObject({ streaming: { error: 'broken' }, locks: [] });
});

test('is also available before the daemon has started completely', () => {
  expect(stateDump(undefined)).toMatchObject({ steps: [], memoryBytes: {} });
});

test('is accessible to root alone, and is written to the log if the file cannot be written', () => {
  const state = bench.folder;
  writeStateDump(state, bench.services);
  expect(JSON.parse(readFileSync(dumpFile(state), 'utf8'))).toMatchObject({ pid: process.pid });
  expect(statSync(dumpFile(state)).mode & 0o777).toBe(0o600);

  const told = jest.spyOn(log, 'error').mockImplementation(() => undefined);
  mkdirSync(`${dumpFile(state)}.tmp`); // not a full disk: a name that is taken
  writeStateDump(state, bench.services);
  expect(told.mock.calls[0]?.[0]).toMatchObject({ dump: { pid: process.pid, locks: [] } });
});

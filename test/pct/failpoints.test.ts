// What failpoints.test.ts does on OCI runtimes, on CTs: kill -9 at every step of every call
// that makes, changes or removes a CT, and of the recovery.
import { afterAll, beforeAll, expect, test as testAll } from '@jest/globals';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Daemon } from '../helpers/daemon.js';
import {
  create,
  lifeOfPod,
  newWorld,
  refused,
  removePodOf,
  runPod,
  stopPod,
  Walk,
  type Call,
} from '../helpers/failpoints.js';
import { patience } from '../helpers/patience.js';
import { stepsOfSource } from '../helpers/steps.js';
import { isReal, Node } from './node.js';

// A real node does not fail when a test wishes it to.
const test = isReal ? testAll.skip : testAll;

let folder: string;
let node: Node;
let daemon: Daemon;
let walk: Walk;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-failpoints-'));
  const failpoint = join(folder, 'failpoint');
  await writeFile(failpoint, '');
  [node, daemon] = await Node.withDaemon({}, {}, { CRISP_FAILPOINT: failpoint });
  const traces = async (): Promise<string[]> => [
    ...(await node.guests()),
    ...(await node.remains()),
    ...(await node.volumes()),
    ...(await daemon.traces()),
  ];
  walk = new Walk(daemon, { failpoint, traces });
});
afterAll(async () => {
  await node?.stop();
  await rm(folder, { recursive: true, force: true });
});

/** While `pct create` fails after it has made the CT. */
const withFailingPct =
  (call: Call): Call =>
  async (world) => {
    const wish = join(node.folder, 'fail/create');
    await writeFile(wish, JSON.stringify({ code: 255, stderr: 'cannot create\n', late: true }));
    try {
      await call(world);
    } finally {
      await rm(wish);
    }
  };

test.each<[string, readonly Call[]]>([
  ['the life of a pod', lifeOfPod],
  [
    'creations that are taken back',
    [runPod, withFailingPct(refused(create('main'), /cannot create/)), stopPod, removePodOf],
  ],
])('%s', (_, calls) => walk.through(() => newWorld(daemon, 'lxc'), calls), 900_000 * patience);

test(
  'the recovery',
  () => walk.throughRecovery(() => newWorld(daemon, 'lxc'), 'create CT: done'),
  600_000 * patience,
);

test('no step of the source is forgotten', async () => {
  const known = (await stepsOfSource('backends/pct')).filter((step) => !step.startsWith('make guest: ')); // a command, not the daemon
  expect(known.length).toBeGreaterThan(10);
  expect(known.filter((step) => !walk.walked.has(step))).toEqual([]);
});

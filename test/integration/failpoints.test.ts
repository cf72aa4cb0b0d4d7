// kill -9 at every step of every call that makes, changes or removes something,
// and of the recovery: after a restart the same call succeeds, and a removal
// leaves nothing.  The steps are those that the daemon goes through and those
// that its source names, so that a new one is walked without being listed here.
//
//   FAILPOINT_HANDLERS=crun,runc npm run integration -- --testPathPatterns failpoints
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  create,
  lifeOfPod,
  newWorld,
  refused,
  removePodOf,
  runPod,
  start,
  stopPod,
  Walk,
  type Call,
} from '../helpers/failpoints.js';
import { makeLayout } from '../helpers/image.js';
import { patience } from '../helpers/patience.js';
import { startRegistry, type Registry } from '../helpers/registry.js';
import { testImage } from '../helpers/requests.js';
import { writePlugin } from '../helpers/stand-ins.js';
import { stepsOfSource } from '../helpers/steps.js';

/** Steps that no scenario here goes through, with the reason. */
const elsewhere = new Map([
  ['write bundle', 'a command, not the daemon'],
  ['create standalone container', 'a command, not the daemon'],
  ['make guest', 'a command, not the daemon'],
  ['create CT', 'pct/failpoints.test.ts'],
  ['start CT', 'pct/failpoints.test.ts'],
  ['update CT', 'pct/failpoints.test.ts'],
  ['remove CT', 'pct/failpoints.test.ts'],
  ['write checkpoint', 'needs CRIU, which most hosts lack'],
  ['pull image: sweep', 'needs a registry that breaks in a layer: images-failures.test.ts'],
]);

const handlers = (process.env['FAILPOINT_HANDLERS'] ?? 'crun').split(',');

let daemon: Daemon;
let registry: Registry;
let folder: string;
let failpoint: string;
let pluginFault: string;
let pulled: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-failpoints-'));
  failpoint = join(folder, 'failpoint');
  pluginFault = join(folder, 'plugin-fault');
  await writeFile(failpoint, '');
  await writeFile(pluginFault, '');
  const bin = join(folder, 'bin');
  await mkdir(bin);
  await writePlugin(join(bin, 'faulty'), {
    add: `[ "$(cat ${pluginFault})" != ADD ] || { echo '{"code":7,"msg":"cannot ADD"}'; exit 1; }`,
  });
  registry = await startRegistry(join(folder, 'registry'));
  pulled = await registry.push(await makeLayout(folder, { layers: [{ file: 'content' }] }), 'pulled:1');
  daemon = await startDaemon({
    env: { CRISP_FAILPOINT: failpoint },
    config: { network: { bin_dirs: [bin, '/opt/cni/bin', '/usr/lib/cni'] } },
  });
  const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
  await daemon.writeConflist({ ...rest, plugins: [...plugins, { type: 'faulty' }] });
  await daemon.addImage(testImage);
  await daemon.restart();
});
afterAll(async () => {
  await daemon?.destroy();
  await registry?.close();
  await rm(folder, { recursive: true, force: true });
});

const pull: Call = () => daemon.client.image.PullImage({ image: { image: pulled } });
const removeImage: Call = () => daemon.client.image.RemoveImage({ image: { image: pulled } });
const withPluginFault =
  (call: Call): Call =>
  async (world) => {
    await writeFile(pluginFault, 'ADD');
    try {
      await call(world);
    } finally {
      await writeFile(pluginFault, '');
    }
  };

const ids = [{ container_id: 0, host_id: 100_000, length: 65_536 }];
/** The calls, and options of the namespaces of the pod. */
const scenarios: Record<string, { readonly calls: readonly Call[]; readonly namespaces?: object }> = {
  'the life of a pod': { calls: lifeOfPod },
  'a pod in a user namespace': {
    calls: [runPod, create('main'), start, stopPod, removePodOf],
    namespaces: { userns_options: { mode: 'POD', uids: ids, gids: ids } },
  },
  'creations that are taken back': {
    calls: [
      withPluginFault(refused(runPod, /cannot ADD/)),
      runPod,
      refused(create('main', { command: ['no-such-program'] }), /no-such-program/),
      stopPod,
      removePodOf,
    ],
  },
  'an image': {
    calls: [
      pull,
      removeImage,
      refused(
        () => daemon.client.image.PullImage({ image: { image: `${pulled}-no` } }),
        /NotFoundInRegistry/,
      ),
    ],
  },
};

const walks: Walk[] = [];
describe.each(handlers)('on %s', (handler) => {
  let walk: Walk;
  beforeAll(() => {
    const removeMore = () => daemon.client.image.RemoveImage({ image: { image: pulled } });
    walk = new Walk(daemon, { failpoint, removeMore });
    walks.push(walk);
  });
  test.each(Object.entries(scenarios))(
    '%s',
    (_, { calls, namespaces }) => walk.through(() => newWorld(daemon, handler, namespaces), calls),
    600_000 * patience,
  );
  test(
    'the recovery',
    () => walk.throughRecovery(() => newWorld(daemon, handler), 'create OCI container: done'),
    600_000 * patience,
  );
});

test('no step of the source is forgotten', async () => {
  const known = await stepsOfSource();
  expect(known.length).toBeGreaterThan(30);
  const isWalked = (step: string): boolean => walks.some(({ walked }) => walked.has(step));
  const isElsewhere = (step: string): boolean =>
    elsewhere.has(step) || elsewhere.has(step.split(':')[0] ?? '');
  expect(known.filter((step) => !isWalked(step) && !isElsewhere(step))).toEqual([]);
});

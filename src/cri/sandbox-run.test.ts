// RunPodSandbox, and its undo if a later step fails: real namespaces and mounts, a
// stand-in for the network and the backend.
import { afterEach, expect, test } from '@jest/globals';
import { existsSync, readdirSync } from 'node:fs';
import { mountPoints } from '../host/mounts.js';
import { Bench, call, gate, podConfigOf, settled, type StandIns } from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { runPodSandbox } from './sandbox-run.js';
import { removePodSandbox } from './sandbox-stop.js';

let bench: Bench;
afterEach(() => bench?.end());

const attachment = { ips: ['10.1.2.3'], interfaceName: 'eth0' };
const network = { attach: () => Promise.resolve(attachment) };
const onNetwork = {
  linux: {
    security_context: { namespace_options: { network: 'POD', ipc: 'POD', pid: 'CONTAINER' } },
    cgroup_parent: '/crisp-test-none',
  },
};
const run = (more: object = onNetwork, handler = '') =>
  runPodSandbox(bench.services, { config: podConfigOf('u1', more), runtime_handler: handler }, call);
const verbs = (): string[] => bench.told.map((line) => line.split(' ')[0] ?? '');

async function nothingIsLeft(): Promise<void> {
  expect(bench.services.store.sandboxes.all()).toEqual([]);
  expect((await mountPoints()).filter(({ target }) => target.startsWith(bench.folder))).toEqual([]);
  for (const kind of ['pods', 'sandboxes'])
    expect(existsSync(`${bench.folder}/${kind}`) ? readdirSync(`${bench.folder}/${kind}`) : []).toEqual([]);
}

test('a pod has its network, its record, and its events', async () => {
  bench = new Bench({ network, backend: { startSandbox: () => Promise.resolve('state of the backend') } });
  const heard = bench.listen();
  const { pod_sandbox_id: id = '' } = await run();
  const record = bench.services.store.sandboxes.get(id);
  expect(record).toMatchObject({
    complete: true,
    handler: 'fake',
    bootId: bench.services.bootId,
    attachment,
    backendState: 'state of the backend',
  });
  expect(Object.keys(record?.plan.namespaces ?? {}).sort()).toEqual(['ipc', 'network', 'uts']);
  expect(verbs()).toEqual(['network.attach', 'backend.startSandbox']);
  await until(() => heard.length > 1, 'its events are told');
  expect(heard.map(({ container_event_type: type }) => type)).toEqual([
    'CONTAINER_CREATED_EVENT',
    'CONTAINER_STARTED_EVENT',
  ]);
  expect(heard[0]?.pod_sandbox_status).toMatchObject({
    id,
    state: 'SANDBOX_READY',
    network: { ip: '10.1.2.3' },
  });
  await removePodSandbox(bench.services, { pod_sandbox_id: id });
  expect(verbs().slice(2)).toEqual(['backend.stopSandbox', 'network.detach']);
  await nothingIsLeft();
});

test.each<[string, StandIns, string[]]>([
  [
    'the backend',
    { network, backend: { startSandbox: () => Promise.reject(new Error('no room')) } },
    ['network.attach', 'backend.startSandbox', 'network.detach'],
  ],
  ['the network', { network: { attach: () => Promise.reject(new Error('no room')) } }, ['network.attach']],
])('a pod leaves nothing behind if its last step, by %s, fails', async (_, standIns, told) => {
  bench = new Bench(standIns);
  const heard = bench.listen();
  await expect(run()).rejects.toThrow('no room');
  expect(verbs()).toEqual(told);
  expect(heard).toEqual([]);
  await nothingIsLeft();
});

test('a pod that could not be undone keeps its record, and the retry removes the rest first', async () => {
  let isBroken = true;
  const detach = () => (isBroken ? Promise.reject(new Error('busy')) : Promise.resolve());
  bench = new Bench({
    network: { ...network, detach },
    backend: {
      startSandbox: () => (isBroken ? Promise.reject(new Error('no room')) : Promise.resolve(undefined)),
    },
  });
  await expect(run()).rejects.toThrow('no room');
  expect(bench.services.store.sandboxes.all()).toMatchObject([{ complete: false }]);
  isBroken = false;
  const { pod_sandbox_id: id } = await run();
  expect(bench.services.store.sandboxes.all().map((record) => record.id)).toEqual([id]);
  expect(bench.toldOf('network.detach')).toHaveLength(2);
});

test('a repeated request returns the same pod, and a different one with its name is refused', async () => {
  bench = new Bench();
  const first = await run({});
  expect(await run({})).toEqual(first);
  await expect(run({ labels: { a: 'b' } })).rejects.toMatchObject({ id: 'NameInUse' });
  await expect(run({}, 'fake')).rejects.toMatchObject({ id: 'NameInUse' });
  expect(bench.services.store.sandboxes.all()).toHaveLength(1);
  expect(bench.toldOf('network')).toEqual([]); // it is on the node's
});

test('an unknown handler is refused before anything is created', async () => {
  bench = new Bench();
  await expect(run(onNetwork, 'gvisor')).rejects.toMatchObject({ id: 'UnknownHandler' });
  await nothingIsLeft();
});

test('a retry during the removal of its pod waits, and gets a new one', async () => {
  const { passed, open } = gate();
  let begun = false;
  bench = new Bench({
    backend: {
      stopSandbox: () => {
        begun = true;
        return passed;
      },
    },
  });
  const { pod_sandbox_id: first = '' } = await run({});
  const removed = removePodSandbox(bench.services, { pod_sandbox_id: first });
  await until(() => begun, 'it is being removed');
  let answered = false;
  const again = run({}).finally(() => (answered = true));
  await settled();
  expect(answered).toBe(false);
  open();
  await removed;
  const { pod_sandbox_id: second } = await again;
  expect(second).not.toBe(first);
  expect(bench.services.store.sandboxes.all().map(({ id }) => id)).toEqual([second]);
});

// StopPodSandbox and RemovePodSandbox: their order, and what remains if a step fails.
import { afterEach, expect, test } from '@jest/globals';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Bench, exitedWell, settled, type StandIns } from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { cgroupsIn, makePodCgroup, removePodCgroup } from '../host/cgroup.js';
import type { SandboxRecord } from '../records/records.js';
import { Store } from '../records/store.js';
import { recordExit } from './exits.js';
import { removePodSandbox, removeSandbox, stopPodSandbox } from './sandbox-stop.js';

let bench: Bench;
afterEach(() => bench?.end());

const onNetwork = { linux: { security_context: { namespace_options: { network: 'POD', ipc: 'NODE' } } } };
const exit = { exitCode: 0, finishedAt: '1', reason: '', message: '' };
const verbs = (): string[] => bench.told.map((line) => line.split(' ')[0] ?? '');
const stop = (id: string) => stopPodSandbox(bench.services, { pod_sandbox_id: id });
const remove = (id: string) => removePodSandbox(bench.services, { pod_sandbox_id: id });

/** A backend whose containers end when they are killed; each call takes several turns of the event loop. */
function open(standIns: StandIns = {}): void {
  bench = new Bench({
    ...standIns,
    backend: {
      kill: async ({ id }) => {
        await settled();
        await recordExit(bench.services, id, exitedWell);
      },
      stopSandbox: () => settled(),
      ...standIns.backend,
    },
  });
}
async function podWithFolder(change: Partial<SandboxRecord> = {}): Promise<SandboxRecord> {
  const pod = await bench.pod(change, onNetwork);
  mkdirSync(pod.plan.folder, { recursive: true });
  return pod;
}

test('a stop kills the containers without a grace period, then releases the pod, then records it', async () => {
  let stoppedAt: string | undefined = 'not called';
  let running = -1;
  open({
    backend: {
      stopSandbox: async ({ id }) => {
        running = bench.services.store.containersOf(id).filter((one) => !one.exit).length;
        await settled();
      },
    },
    network: {
      detach: async ({ id }: { id: string }) => {
        await settled();
        stoppedAt = bench.services.store.sandboxes.get(id)?.stoppedAt;
      },
    },
  });
  const pod = await podWithFolder();
  const containers = [await bench.running(pod), await bench.running(pod), await bench.container(pod)];
  const other = await bench.running(await bench.pod());
  const heard = bench.listen();
  await until(() => heard.length === 4, 'the listener has the present state');
  await stop(pod.id);
  expect([running, stoppedAt]).toEqual([0, undefined]);
  expect(bench.toldOf('backend.kill').sort()).toEqual(
    containers.map(({ id }) => `backend.kill ${id} 9`).sort(),
  );
  expect(verbs().slice(-2)).toEqual(['backend.stopSandbox', 'network.detach']);
  expect(bench.services.store.sandboxes.get(pod.id)?.stoppedAt).toMatch(/^\d+$/);
  expect(bench.services.store.containers.get(other.id)?.exit).toBeUndefined();
  expect(existsSync(pod.plan.folder)).toBe(true); // only a removal removes it
  await until(() => heard.some(({ container_id: id }) => id === pod.id), 'the event of the pod is sent');
  expect(heard.at(-1)).toMatchObject({
    container_event_type: 'CONTAINER_STOPPED_EVENT',
    pod_sandbox_status: { state: 'SANDBOX_NOTREADY' },
  });
});

test('a stop of a stopped pod, and of an unknown one, changes nothing', async () => {
  open();
  const pod = await podWithFolder({ stoppedAt: '7' });
  const heard = bench.listen();
  await stop(pod.id);
  await stop('f'.repeat(64));
  await remove('f'.repeat(64));
  await removeSandbox(bench.services, 'f'.repeat(64));
  expect(bench.told).toEqual([]);
  expect(heard).toEqual([]);
  expect(bench.services.store.sandboxes.get(pod.id)).toEqual(pod);
});

test('a hidden pod is removed without an event', async () => {
  open();
  const pod = await podWithFolder();
  bench.services.creations.keep(pod.id, { discard: () => Promise.resolve() });
  const heard = bench.listen();
  await remove(pod.id);
  await settled();
  expect([heard, bench.services.store.sandboxes.all()]).toEqual([[], []]);
});

test.each<[string, (fails: () => Promise<never>) => StandIns]>([
  ['the backend', (fails) => ({ backend: { stopSandbox: fails } })],
  ['the network', (fails) => ({ network: { detach: fails } })],
])('a pod that %s does not release is not recorded as stopped, and a retry stops it', async (_, broken) => {
  let isBroken = true;
  open(broken(() => (isBroken ? Promise.reject(new Error('busy')) : (Promise.resolve() as Promise<never>))));
  const pod = await podWithFolder();
  const heard = bench.listen();
  await expect(stop(pod.id)).rejects.toThrow('busy');
  await expect(remove(pod.id)).rejects.toThrow('busy');
  expect(bench.services.store.sandboxes.get(pod.id)).toEqual(pod);
  expect([existsSync(pod.plan.folder), heard]).toEqual([true, []]);
  isBroken = false;
  await remove(pod.id);
  expect(bench.services.store.sandboxes.all()).toEqual([]);
  expect(existsSync(pod.plan.folder)).toBe(false);
});

test('a pod with a container whose record cannot be read is neither stopped nor removed', async () => {
  open();
  const [pod, other] = [await podWithFolder(), await podWithFolder()];
  const container = await bench.running(pod);
  const id = 'a'.repeat(64);
  writeFileSync(
    join(bench.folder, 'containers', `${id}.json`),
    JSON.stringify({ id, version: 2, sandboxId: pod.id }),
  );
  const store = new Store(bench.folder);
  await store.load();
  Object.assign(bench.services, { store });
  const refused = { id: 'RecordUnreadable', message: expect.stringContaining(id) };
  await expect(stop(pod.id)).rejects.toMatchObject(refused);
  await expect(remove(pod.id)).rejects.toMatchObject(refused);
  expect(bench.told).toEqual([]);
  expect(store.containers.get(container.id)?.exit).toBeUndefined();
  await remove(other.id);
  expect(store.sandboxes.all().map((record) => record.id)).toEqual([pod.id]);
});

test('a removal stops the pod, removes its containers, its folder and its record, in this order', async () => {
  let folderAtDelete = false;
  open({
    backend: {
      delete: async ({ id }) => {
        await settled();
        const record = bench.services.store.containers.get(id);
        folderAtDelete = existsSync(
          bench.services.store.sandboxes.get(record?.sandboxId ?? '')?.plan.folder ?? '',
        );
      },
    },
  });
  const pod = await podWithFolder();
  await bench.running(pod);
  const [other] = [await bench.running(await bench.pod())];
  const heard = bench.listen();
  await until(() => heard.length === 2, 'the listener has the present state');
  await remove(pod.id);
  expect(verbs()).toEqual([
    'backend.kill',
    'backend.stopSandbox',
    'network.detach',
    'backend.delete',
    'rootfs.unmount',
  ]);
  expect([folderAtDelete, existsSync(pod.plan.folder)]).toEqual([true, false]);
  expect(bench.services.store.sandboxes.get(pod.id)).toBeUndefined();
  expect(bench.services.store.containers.all()).toEqual([other]);
  await until(() => heard.length === 6, 'the last event is sent');
  expect(heard.slice(2).map(({ container_event_type: type }) => type)).toEqual([
    'CONTAINER_STOPPED_EVENT',
    'CONTAINER_STOPPED_EVENT',
    'CONTAINER_DELETED_EVENT',
    'CONTAINER_DELETED_EVENT',
  ]);
});

test('a container that cannot be removed keeps its pod, and no other container', async () => {
  const failing = 'a'.repeat(64);
  open({
    backend: { delete: ({ id }) => (id === failing ? Promise.reject(new Error('busy')) : Promise.resolve()) },
  });
  const pod = await podWithFolder();
  await bench.container(pod, { id: failing, exit });
  await bench.container(pod, { exit });
  await expect(remove(pod.id)).rejects.toThrow('busy');
  expect(bench.services.store.containers.all().map(({ id }) => id)).toEqual([failing]);
  expect(bench.services.store.sandboxes.get(pod.id)?.stoppedAt).toBeDefined();
  expect(existsSync(pod.plan.folder)).toBe(true);
});

test.each([
  ['its own', '', false],
  ["the kubelet's", '/crisp-test-none', true],
])('the cgroup of a pod is removed if it is %s', async (_, requested, stays) => {
  open();
  const cgroup = `/crisp-test-${process.pid}`;
  await makePodCgroup(cgroup);
  try {
    const pod = await bench.pod({}, { linux: { cgroup_parent: requested } });
    await bench.services.store.sandboxes.put({ ...pod, plan: { ...pod.plan, cgroupParent: cgroup } });
    await remove(pod.id);
    expect((await cgroupsIn('/')).has(cgroup.slice(1))).toBe(stays);
  } finally {
    await removePodCgroup(cgroup);
  }
});

// Concurrent calls on the same pod, on a stand-in for the backend that blocks each step
// until it is released.
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  Bench,
  call,
  exitedWell,
  fakeTimeouts,
  gate,
  settled,
  type StandIns,
} from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { checkpointContainer } from './checkpoint.js';
import { createContainer, unclaimedContainer } from './container-create.js';
import { startContainer } from './container-start.js';
import { removeContainer } from './container-stop.js';
import { updateContainerResources, updatePodSandboxResources } from './container-update.js';
import { containerConfigOf, linuxResourcesOf, podSandboxConfigOf } from './proto.js';
import { recordExit } from './exits.js';
import { runPodSandbox, unclaimedSandbox } from './sandbox-run.js';
import { removePodSandbox, stopPodSandbox } from './sandbox-stop.js';

let bench: Bench;
afterEach(async () => {
  jest.useRealTimers();
  await bench?.end();
});

/** Steps that wait, and how many of them were ever at work at once. */
function held() {
  const { passed, open } = gate();
  const at = { work: 0, most: 0, begun: 0 };
  const step = async (): Promise<undefined> => {
    at.begun++;
    at.most = Math.max(at.most, ++at.work);
    await passed;
    at.work--;
    return undefined;
  };
  return { at, open, step };
}

describe('while a pod is being stopped', () => {
  const stopping = async (standIns: StandIns = {}) => {
    const { at, open, step } = held();
    bench = new Bench({ ...standIns, backend: { stopSandbox: step, ...standIns.backend } });
    const pod = await bench.pod();
    const ended = { exit: { exitCode: 0, finishedAt: '1', reason: '', message: '' } };
    const created = await bench.container(pod, ended);
    const stopped = stopPodSandbox(bench.services, { pod_sandbox_id: pod.id });
    await until(() => at.begun > 0, 'it is being stopped');
    return { at, open, pod, created, stopped };
  };
  const config = containerConfigOf({ metadata: { name: 'new' }, image: { image: 'image' } });

  test('another stop and a removal wait, and find it stopped', async () => {
    const { at, open, pod, stopped } = await stopping();
    const more = [
      stopPodSandbox(bench.services, { pod_sandbox_id: pod.id }),
      removePodSandbox(bench.services, { pod_sandbox_id: pod.id }),
    ];
    await settled();
    open();
    await Promise.all([stopped, ...more]);
    expect(at).toMatchObject({ most: 1, begun: 1 });
    expect(bench.services.store.sandboxes.all()).toEqual([]);
  });

  test('no container is created in it', async () => {
    const { open, pod, stopped } = await stopping({ images: { find: () => Promise.resolve(undefined) } });
    const made = createContainer(
      bench.services,
      { pod_sandbox_id: pod.id, config, sandbox_config: pod.config },
      call,
    );
    made.catch(() => undefined);
    await settled();
    expect(bench.toldOf('images')).toEqual([]);
    open();
    await stopped;
    await expect(made).rejects.toMatchObject({ id: 'SandboxNotReady' });
    expect(bench.toldOf('images')).toEqual([]);
  });

  test.each<[string, string, (id: string, pod: string) => Promise<unknown>]>([
    ['started', 'backend.start', (id) => startContainer(bench.services, { container_id: id })],
    ['removed', 'backend.delete', (id) => removeContainer(bench.services, { container_id: id })],
    [
      'updated',
      'backend.update',
      (id) =>
        updateContainerResources(bench.services, {
          container_id: id,
          linux: linuxResourcesOf({}),
          windows: null,
          annotations: {},
        }),
    ],
  ])('no container of it is %s', async (_, step, change) => {
    const { open, created, pod, stopped } = await stopping();
    const changed = change(created.id, pod.id).catch(() => undefined);
    await settled();
    expect(bench.toldOf(step)).toEqual([]);
    open();
    await Promise.all([stopped, changed]);
  });

  test('its limits cannot be changed, and the error says that it is stopped', async () => {
    const { open, pod, stopped } = await stopping();
    const changed = updatePodSandboxResources(bench.services, {
      pod_sandbox_id: pod.id,
      resources: linuxResourcesOf({ cpu_shares: '7' }),
      overhead: null,
    });
    changed.catch(() => undefined);
    await settled();
    expect(bench.services.store.sandboxes.get(pod.id)?.resources).toBeUndefined();
    open();
    await stopped;
    await expect(changed).rejects.toMatchObject({ id: 'SandboxNotReady' });
  });

  test('no container of it is checkpointed', async () => {
    const { open, created, stopped } = await stopping();
    const { containers } = bench.services.store;
    await containers.change(created.id, { exit: undefined, startedAt: '1' });
    const checkpoint = checkpointContainer(bench.services, {
      container_id: created.id,
      location: join(bench.folder, 'checkpoint.tar'),
      timeout: '1',
    }).catch(() => undefined);
    await settled();
    expect(bench.toldOf('backend.checkpoint')).toEqual([]);
    open();
    await stopped;
    await checkpoint;
    expect(bench.toldOf('backend.checkpoint')).toHaveLength(1);
  });
});

test('a container is not updated during another call on its pod', async () => {
  bench = new Bench();
  const pod = await bench.pod();
  const { id } = await bench.running(pod);
  const { passed, open } = gate();
  const busy = bench.services.locks.with(pod.id, () => passed);
  const updated = updateContainerResources(bench.services, {
    container_id: id,
    linux: linuxResourcesOf({ cpu_shares: '7' }),
    windows: null,
    annotations: {},
  });
  await settled();
  expect(bench.toldOf('backend.update')).toEqual([]);
  open();
  await Promise.all([busy, updated]);
  expect(bench.toldOf('backend.update')).toHaveLength(1);
});

describe('concurrent calls', () => {
  const config = (name: string) => containerConfigOf({ metadata: { name }, image: { image: 'image' } });
  test('containers of one pod are created one after the other', async () => {
    const { at, open, step } = held();
    bench = new Bench({ images: { find: step } });
    const pod = await bench.pod();
    const made = ['a', 'b'].map((name) =>
      createContainer(
        bench.services,
        { pod_sandbox_id: pod.id, config: config(name), sandbox_config: pod.config },
        call,
      ),
    );
    const refused = made.map((one) => expect(one).rejects.toMatchObject({ id: 'ImageNotFound' }));
    await until(() => at.begun > 0, 'one is being made');
    await settled();
    expect(at.begun).toBe(1);
    open();
    await Promise.all(refused);
    expect(at).toMatchObject({ begun: 2, most: 1 });
  });

  test('concurrent starts start the container once', async () => {
    const { at, open, step } = held();
    bench = new Bench({ backend: { start: async () => (await step(), { pid: 9 }) } });
    const { id } = await bench.container(await bench.pod());
    const starts = [1, 2].map(() => startContainer(bench.services, { container_id: id }));
    starts[1]?.catch(() => undefined);
    await until(() => at.begun > 0, 'it is being started');
    open();
    await starts[0];
    await expect(starts[1]).rejects.toMatchObject({ id: 'WrongContainerState' });
    expect(at.begun).toBe(1);
  });

  test('identical requests create one container, and a different request with its name is refused', async () => {
    const { at, open, step } = held();
    bench = new Bench({ images: { find: step } });
    const pod = await bench.pod();
    const request = () => ({ pod_sandbox_id: pod.id, config: config('a'), sandbox_config: pod.config });
    const both = [
      createContainer(bench.services, request(), call),
      createContainer(bench.services, request(), call),
    ];
    const refused = both.map((one) => expect(one).rejects.toMatchObject({ id: 'ImageNotFound' }));
    await until(() => at.begun > 0, 'it is being made');
    await expect(
      createContainer(bench.services, { ...request(), config: { ...config('a'), tty: true } }, call),
    ).rejects.toMatchObject({ id: 'NameInUse' });
    open();
    await Promise.all(refused);
    expect(at.begun).toBe(1);
  });
});

function makeFolder(path: string): string {
  mkdirSync(path, { recursive: true });
  return path;
}

describe('a result whose caller has disconnected', () => {
  const keepMs = 1_000;
  const request = (pod: { readonly id: string; readonly config: object }, name: string) => ({
    pod_sandbox_id: pod.id,
    config: containerConfigOf({ metadata: { name }, image: { image: 'image' } }),
    sandbox_config: pod.config as never,
  });
  const ended = { exitCode: 0, finishedAt: '1', reason: '', message: '' };

  test.each(['pod', 'container'])(
    'a %s claimed by a retry is not removed after its timeout',
    async (kind) => {
      fakeTimeouts();
      bench = new Bench({ keepMs });
      const pod = await bench.pod({ unclaimed: kind === 'pod' });
      const container = await bench.container(pod, { unclaimed: true });
      bench.services.creations.keep(pod.id, unclaimedSandbox(bench.services));
      bench.services.creations.keep(container.id, unclaimedContainer(bench.services, pod.id));
      jest.advanceTimersByTime(keepMs - 1);
      const heard = bench.listen();
      if (kind === 'pod')
        expect(
          await runPodSandbox(
            bench.services,
            { config: podSandboxConfigOf(pod.config), runtime_handler: '' },
            call,
          ),
        ).toEqual({ pod_sandbox_id: pod.id });
      else {
        bench.services.creations.claim(pod.id);
        expect(
          await createContainer(
            bench.services,
            { ...request(pod, ''), config: containerConfigOf(container.config) },
            call,
          ),
        ).toEqual({ container_id: container.id });
      }
      const table = kind === 'pod' ? bench.services.store.sandboxes : bench.services.store.containers;
      const { id } = kind === 'pod' ? pod : container;
      jest.advanceTimersByTime(10 * keepMs);
      await settled();
      expect(table.get(id)).toBeDefined();
      expect(table.get(id)?.unclaimed).toBeUndefined(); // or it would be hidden by the next start
      expect(bench.services.creations.hides(id)).toBe(false);
      expect(
        heard.filter(({ container_id: of }) => of === id).map(({ container_event_type: type }) => type),
      ).toEqual(
        kind === 'pod' ? ['CONTAINER_CREATED_EVENT', 'CONTAINER_STARTED_EVENT'] : ['CONTAINER_CREATED_EVENT'],
      );
    },
  );

  test.each(['pod', 'container'])(
    'a %s claimed by a retry while its removal waits for the lock is not removed',
    async (kind) => {
      fakeTimeouts();
      bench = new Bench({ keepMs });
      const pod = await bench.pod();
      const container = await bench.container(pod, { exit: ended });
      const { id } = kind === 'pod' ? pod : container;
      const { discard } =
        kind === 'pod' ? unclaimedSandbox(bench.services) : unclaimedContainer(bench.services, pod.id);
      const { passed, open } = gate();
      const busy = bench.services.locks.with(pod.id, () => passed);
      let discarded: Promise<unknown> | undefined;
      bench.services.creations.keep(id, { discard: (its) => (discarded = discard(its)) });
      jest.advanceTimersByTime(keepMs);
      expect([discarded !== undefined, bench.services.creations.expired(id)]).toEqual([true, true]);
      bench.services.creations.hold(id); // as the retry does that has the lock
      open();
      await Promise.all([busy, discarded]);
      expect(bench.services.creations.hides(id)).toBe(true);
      expect([
        bench.services.store.sandboxes.get(pod.id),
        bench.services.store.containers.get(container.id),
      ]).toEqual([pod, container]);
    },
  );

  test('is recorded as unclaimed until a caller receives it, and has no events', async () => {
    const { open, step } = held();
    bench = new Bench({
      backend: { create: step, kill: async ({ id }) => void recordExit(bench.services, id, exitedWell) },
      images: { find: async () => ({ id: 'image', tags: [], digests: [], config: { Cmd: ['sh'] } }) },
      rootfs: { mount: async () => makeFolder(join(bench.folder, 'rootfs')) },
    });
    const gone = new AbortController();
    const pod = await bench.pod();
    const heard = bench.listen();
    const made = createContainer(bench.services, request(pod, 'new'), { ...call, signal: gone.signal });
    made.catch(() => undefined);
    await until(() => bench.services.store.containers.all().length > 0, 'its record is there');
    gone.abort();
    await expect(made).rejects.toMatchObject({ id: 'Cancelled' });
    open();
    const record = () => bench.services.store.containers.all()[0];
    await until(() => record()?.complete === true, 'it is made');
    await until(() => record()?.unclaimed !== undefined, 'its record says that nobody has it');
    await settled();
    expect(heard).toEqual([]);
    const again = await createContainer(bench.services, request(pod, 'new'), call);
    expect(again).toEqual({ container_id: record()?.id });
    expect(record()?.unclaimed).toBeUndefined();
    await until(() => heard.length > 0, 'it is told of');
    expect(heard).toMatchObject([{ container_event_type: 'CONTAINER_CREATED_EVENT' }]);
  });
});

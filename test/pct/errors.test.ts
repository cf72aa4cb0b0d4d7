// What pct refuses reaches the kubelet as what it means, and nothing is left of it.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test as testAll } from '@jest/globals';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import type { Daemon } from '../helpers/daemon.js';
import { patience } from '../helpers/patience.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  untilStopped,
} from '../helpers/requests.js';
import { isReal, Node } from './node.js';

// A real node does not fail when a test wishes it to.
const test = isReal ? testAll.skip : testAll;

let node: Node;
let daemon: Daemon;
let pod: Awaited<ReturnType<typeof runPod>>;
let clean: string[];
beforeAll(async () => {
  [node, daemon] = await Node.withDaemon();
});
afterAll(() => node?.stop());
beforeEach(async () => {
  clean = await daemon.traces();
  pod = await runPod(daemon, {}, 'lxc');
});
afterEach(async () => {
  await removePod(daemon, pod.id);
  expect([await node.guests(), await node.remains()]).toEqual([[], []]);
  expect(await daemon.traces()).toEqual(clean);
});

const create = (): Promise<string> => createContainer(daemon, pod, containerConfig(untilStopped()));

/** What pct does at a verb for as long as `during` runs. */
async function failing(
  verb: string,
  said: { stdout?: string; stderr: string; late?: boolean },
  during: () => Promise<unknown>,
): Promise<void> {
  const wish = join(node.folder, 'fail', verb);
  await writeFile(wish, JSON.stringify({ code: 255, stdout: '', ...said }));
  try {
    await during();
  } finally {
    await rm(wish);
  }
}

/** kill -9 of crisp at work on `story`, while pct takes its time for a verb; and the next one. */
async function killedDuring(verb: string, delayMs: number, story: () => Promise<unknown>): Promise<void> {
  const [delay, calls] = [join(node.folder, 'delay-ms'), join(node.folder, 'calls')];
  const { length } = await readFile(calls, 'utf8');
  await writeFile(delay, String(delayMs));
  const told = story().catch(() => undefined);
  while (!(await readFile(calls, 'utf8')).slice(length).includes(`${verb} `))
    await new Promise((resolve) => setTimeout(resolve, 5));
  await rm(delay);
  await daemon.kill9();
  await told;
  await daemon.start();
}

describe('create', () => {
  test('without quorum can be tried again later', async () => {
    const sign = join(node.folder, 'no-quorum');
    await writeFile(sign, '');
    try {
      await expect(create()).rejects.toMatchObject({
        code: status.UNAVAILABLE,
        details: expect.stringMatching(/NoQuorum.*stage: pct create, tool: pct.*no quorum\?.*hint: /s),
      });
    } finally {
      await rm(sign);
    }
    expect(await node.guests()).toEqual([]);
    await create();
  });

  test.each([
    [
      'out of space',
      "unable to create CT 1 - command 'tar' failed: write error: No space left on device",
      status.RESOURCE_EXHAUSTED,
      'DiskFull',
    ],
    ['the storage is not there', "storage 'gone' does not exist", status.INTERNAL, 'StorageFailed'],
    [
      'somebody else has the lock',
      "can't lock file '/run/lock/lxc/pve-config-1.lock' - got timeout",
      status.UNAVAILABLE,
      'Locked',
    ],
    [
      'no rights',
      '403 Permission check failed (/vms/1, VM.Allocate)',
      status.PERMISSION_DENIED,
      'PermissionDenied',
    ],
    ['words that nobody knows', 'a new message', status.INTERNAL, 'RuntimeFailed'],
  ])('%s', async (_, stderr, code, id) => {
    await failing('create', { stderr: `${stderr}\n`, stdout: 'what the task said\n' }, async () => {
      await expect(create()).rejects.toMatchObject({
        code,
        details: expect.stringMatching(new RegExp(`${id}: .*what the task said`, 's')),
      });
    });
    expect(await node.guests()).toEqual([]);
    await create();
  });
});

test('a create that goes on for longer than the next crisp takes to start leaves no CT', async () => {
  await killedDuring('create', 13_000, create);
  expect((await daemon.client.runtime.ListContainers({})).containers).toEqual([]);
  await new Promise((resolve) => setTimeout(resolve, 5_000 * patience));
  expect([await node.guests(), await node.remains()]).toEqual([[], []]);
});

test('a create that is ended when the CT is there already leaves no CT', async () => {
  await failing('create', { stderr: 'received interrupt\n', late: true }, async () => {
    await expect(create()).rejects.toMatchObject({ code: status.CANCELLED });
  });
  expect([await node.guests(), await node.remains()]).toEqual([[], []]);
});

describe('start', () => {
  test('of a CT that a backup holds', async () => {
    const id = await create();
    const [guest = ''] = await node.guests();
    const before = await node.guest(guest);
    await node.writeGuest(guest, `${before}lock: backup\n`);
    await expect(daemon.client.runtime.StartContainer({ container_id: id })).rejects.toMatchObject({
      code: status.UNAVAILABLE,
      details: expect.stringMatching(/Locked: .*CT is locked \(backup\).*hint: .*pct unlock \d+/s),
    });
    await node.writeGuest(guest, before);
  });

  test("that fails has liblxc's reason in its error", async () => {
    const id = await create();
    await failing(
      'start',
      {
        stderr: "startup for container '1' failed\n",
        stdout: 'run_buffer: 571 Script exited with status 1\n',
      },
      async () => {
        await expect(daemon.client.runtime.StartContainer({ container_id: id })).rejects.toMatchObject({
          details: expect.stringMatching(/StartFailed.*Script exited with status 1/s),
        });
      },
    );
    const { status: found } = await daemon.client.runtime.ContainerStatus({ container_id: id });
    expect(found).toMatchObject({ state: 'CONTAINER_EXITED', reason: 'StartError' });
  });
});

test('while pve-cluster restarts a CT is not gone, and nothing is done to it or made', async () => {
  const { runtime } = daemon.client;
  const id = await startContainer(daemon, pod, containerConfig(untilStopped(3)));
  const [there, away] = [join(node.folder, 'pve/lxc'), join(node.folder, 'pve/away')];
  await rename(there, away);
  try {
    const later = {
      code: status.UNAVAILABLE,
      details: expect.stringMatching(/NoQuorum: .*not mounted.*hint: .*pve-cluster/s),
    };
    await expect(runtime.StopContainer({ container_id: id, timeout: '10' })).rejects.toMatchObject(later);
    await expect(runtime.RemoveContainer({ container_id: id })).rejects.toMatchObject(later);
    await expect(
      createContainer(daemon, pod, containerConfig('true', { metadata: { name: 'other', attempt: 0 } })),
    ).rejects.toMatchObject(later);
  } finally {
    await rename(away, there);
  }
  const state = async () => (await runtime.ContainerStatus({ container_id: id })).status;
  expect(await state()).toMatchObject({ state: 'CONTAINER_RUNNING' });
  await runtime.StopContainer({ container_id: id, timeout: '10' });
  expect(await state()).toMatchObject({ exit_code: 3 }); // its watcher saw it
});

describe('destroy', () => {
  test('of a locked CT fails, keeps the container, and works once the lock is gone', async () => {
    const id = await startContainer(daemon, pod, containerConfig('exit 0'));
    const [guest = ''] = await node.guests();
    const before = await node.guest(guest);
    await node.writeGuest(guest, `${before}lock: snapshot\n`);
    await expect(daemon.client.runtime.RemoveContainer({ container_id: id })).rejects.toMatchObject({
      code: status.UNAVAILABLE,
      details: expect.stringContaining('CT is locked (snapshot)'),
    });
    expect((await daemon.client.runtime.ListContainers({ filter: { id } })).containers).toHaveLength(1);
    await node.writeGuest(guest, before);
    await daemon.client.runtime.RemoveContainer({ container_id: id });
  });

  test('that goes on when crisp is killed leaves nothing to the next guest of that id', async () => {
    const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
    await killedDuring('destroy', 1_000, () => daemon.client.runtime.RemoveContainer({ container_id: id }));
    expect(await node.guests()).toEqual([]);
    await daemon.client.runtime.RemoveContainer({ container_id: id });
    expect(await node.remains()).toEqual([]);
  });
});

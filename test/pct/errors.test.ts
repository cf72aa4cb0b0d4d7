// Errors of pct are mapped to the right errors for the kubelet, and nothing is left behind.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test as testAll } from '@jest/globals';
import { readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { crisp, type Daemon } from '../helpers/daemon.js';
import { hintPattern } from '../helpers/hints.js';
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

// A real node does not fail on request; a CT can be locked on both.
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

/** Changes the behaviour of a verb of pct while `during` runs. */
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

/** Kills crisp with SIGKILL during `story`, while pct is slow in a verb, and starts the next crisp. */
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
  test('without quorum can be retried', async () => {
    const sign = join(node.folder, 'no-quorum');
    await writeFile(sign, '');
    try {
      await expect(create()).rejects.toMatchObject({
        code: status.UNAVAILABLE,
        details: expect.stringMatching(/NoQuorum.*no quorum\?.*stage: pct create, tool: pct.*hint: /s),
      });
      await expect(create()).rejects.toMatchObject({
        details: expect.stringMatching(hintPattern('restore quorum (`pvecm status`)')),
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
      hintPattern('free space on the storage that the message names'),
    ],
    [
      'a missing storage',
      "storage 'gone' does not exist",
      status.INTERNAL,
      'StorageFailed',
      hintPattern('`pvesm status` lists the storages and `pvesm set` their content'),
    ],
    [
      'another task has the lock',
      "can't lock file '/run/lock/lxc/pve-config-1.lock' - got timeout",
      status.UNAVAILABLE,
      'Locked',
      hintPattern('another task is working on the CT: see the task log of the node'),
    ],
    [
      'no rights',
      '403 Permission check failed (/vms/1, VM.Allocate)',
      status.PERMISSION_DENIED,
      'PermissionDenied',
      hintPattern('run crisp as root on the node'),
    ],
    ['an unknown message', 'a new message', status.INTERNAL, 'RuntimeFailed', /^((?!hint: ).)*$/s],
  ])('%s', async (_, stderr, code, id, hint) => {
    await failing('create', { stderr: `${stderr}\n`, stdout: 'what the task said\n' }, async () => {
      await expect(create()).rejects.toMatchObject({
        code,
        details: expect.stringMatching(new RegExp(`${id}: .*what the task said`, 's')),
      });
      await expect(create()).rejects.toMatchObject({ details: expect.stringMatching(hint) });
    });
    expect(await node.guests()).toEqual([]);
    await create();
  });
});

test('a create that outlives the start of the next crisp leaves no CT', async () => {
  await killedDuring('create', 13_000, create);
  expect((await daemon.client.runtime.ListContainers({})).containers).toEqual([]);
  await new Promise((resolve) => setTimeout(resolve, 5_000 * patience));
  expect([await node.guests(), await node.remains()]).toEqual([[], []]);
});

test('a create that is ended after the CT was made leaves no CT', async () => {
  await failing('create', { stderr: 'received interrupt\n', late: true }, async () => {
    await expect(create()).rejects.toMatchObject({ code: status.CANCELLED });
  });
  expect([await node.guests(), await node.remains()]).toEqual([[], []]);
});

describe('start', () => {
  testAll('of a CT that a backup holds', async () => {
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

  testAll(
    'that is temporary ends nothing: the container stays CREATED, also for the next crisp, and starts later',
    async () => {
      const id = await create();
      const [guest = ''] = await node.guests();
      const before = await node.guest(guest);
      const state = async () =>
        (await daemon.client.runtime.ContainerStatus({ container_id: id })).status?.state;
      await node.writeGuest(guest, `${before}lock: backup\n`);
      await expect(daemon.client.runtime.StartContainer({ container_id: id })).rejects.toMatchObject({
        code: status.UNAVAILABLE,
        details: expect.stringMatching(
          hintPattern('wait for the task that has the lock, or run `pct unlock VMID` if there is none'),
        ),
      });
      expect(await state()).toBe('CONTAINER_CREATED');
      await daemon.restart();
      expect(await state()).toBe('CONTAINER_CREATED');
      await node.writeGuest(guest, before);
      await daemon.client.runtime.StartContainer({ container_id: id });
      expect(await state()).toBe('CONTAINER_RUNNING');
    },
  );

  test('that fails has the reason of liblxc in its error', async () => {
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

test('while pve-cluster restarts, a CT is not gone and can be entered; it cannot be changed, and none is created', async () => {
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
    // It is known to be the one that was started.
    expect(await runtime.ExecSync({ container_id: id, cmd: ['echo', 'in'], timeout: '0' })).toMatchObject({
      stdout: Buffer.from('in\n'),
    });
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
  testAll('of a locked CT fails, keeps the container, and works once the lock is gone', async () => {
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

  test('that continues after crisp is killed leaves nothing to the next guest of that VMID', async () => {
    const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
    await killedDuring('destroy', 1_000, () => daemon.client.runtime.RemoveContainer({ container_id: id }));
    expect(await node.guests()).toEqual([]);
    await daemon.client.runtime.RemoveContainer({ container_id: id });
    expect(await node.remains()).toEqual([]);
  });
});

describe('a pct that is cut off', () => {
  /** Until the configuration of a CT is the one line that pct writes while it works. */
  async function untilLocked(lock: 'create' | 'destroyed'): Promise<void> {
    for (;;) {
      const texts = await Promise.all((await node.guests()).map((name) => node.guest(name).catch(() => '')));
      if (texts.some((text) => text.trim() === `lock: ${lock}`)) return;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** While a verb stays where the configuration is one line. */
  async function during(verb: 'create' | 'destroy', ms: number, act: () => Promise<unknown>): Promise<void> {
    const wish = join(node.folder, `${verb}-ms`);
    await writeFile(wish, String(ms));
    try {
      await act();
    } finally {
      await rm(wish, { force: true });
    }
  }

  /** As the end of a machine would: no process of a call of this node's pct is left. */
  async function killPct(verb: string): Promise<void> {
    for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
      const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
      if (words.includes(join(node.folder, 'bin/pct')) && words.includes(verb))
        try {
          process.kill(Number(pid), 'SIGKILL');
        } catch {
          /* it went with another */
        }
    }
  }

  const remove = (id: string) => daemon.client.runtime.RemoveContainer({ container_id: id });

  async function gc(...flags: string[]): Promise<{ kind: string; name: string }[]> {
    const cliState = join(daemon.folder, 'cli-state');
    const argv = ['gc', '--json', '--config', daemon.configFile, '--state', cliState, ...flags];
    const { stdout } = await daemon.machine.run([process.execPath, crisp, ...argv]);
    return (JSON.parse(stdout) as { orphans: { kind: string; name: string }[] }).orphans;
  }

  test('by no end of crisp: a removal continues, and completes', async () => {
    const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
    await during('destroy', 2_000, async () => {
      const told = remove(id).catch(() => undefined);
      await untilLocked('destroyed');
      await daemon.kill9();
      await told;
      await daemon.start();
    });
    await remove(id);
    expect([await node.guests(), await node.remains()]).toEqual([[], []]);
  });

  test('in a removal: the retry completes', async () => {
    const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
    await during('destroy', 60_000, async () => {
      const told = remove(id).catch((error: unknown) => error);
      await untilLocked('destroyed');
      await killPct('destroy');
      expect(await told).toBeInstanceOf(Error);
    });
    await remove(id);
    expect([await node.guests(), await node.remains()]).toEqual([[], []]);
  });

  test('with crisp, in a removal: the next start ends it', async () => {
    const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
    await during('destroy', 60_000, async () => {
      const told = remove(id).catch(() => undefined);
      await untilLocked('destroyed');
      await daemon.kill9();
      await killPct('destroy');
      await told;
    });
    await daemon.start();
    expect(await node.guests()).toEqual([]);
    await remove(id);
    expect(await node.remains()).toEqual([]);
  });

  test('with crisp, in a removal: crisp gc names and ends it, and nothing that is not noted', async () => {
    const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
    await during('destroy', 60_000, async () => {
      const told = remove(id).catch(() => undefined);
      await untilLocked('destroyed');
      await daemon.kill9();
      await killPct('destroy');
      await told;
    });
    const foreign = `${node.lastVmid}.conf`;
    await node.writeGuest(foreign, 'lock: create\n');
    const remnants = async (...flags: string[]) =>
      (await gc(...flags)).filter(({ kind }) => kind === 'remnant').map(({ name }) => name);
    expect(await remnants('--dry-run')).toEqual([expect.stringContaining(id)]);
    expect(await remnants()).toEqual([expect.stringContaining(id)]);
    expect(await node.guests()).toEqual([foreign]);
    await daemon.start();
    expect(await node.guests()).toEqual([foreign]);
    await node.removeGuest(foreign);
    await remove(id);
  });

  test('in a creation: nothing is left of it', async () => {
    await during('create', 60_000, async () => {
      const told = create().catch((error: unknown) => error);
      await untilLocked('create');
      await killPct('create');
      expect(await told).toBeInstanceOf(Error);
    });
    expect([await node.guests(), await node.remains()]).toEqual([[], []]);
  });
});

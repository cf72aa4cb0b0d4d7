// The unit of a pod's CT: it blocks nothing, is removed with the CT, and only crisp can
// start it.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Daemon } from '../helpers/daemon.js';
import { patience } from '../helpers/patience.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';
import { isReal, Node } from './node.js';

// A real node has the tasks of others as well, and is as fast as it is.
const testFake = isReal ? test.skip : test;

let node: Node;
let daemon: Daemon;
beforeAll(async () => {
  [node, daemon] = await Node.withDaemon();
});
afterAll(() => node?.stop());

/** An action in the GUI. */
async function pct(...args: string[]): ReturnType<Daemon['machine']['run']> {
  return daemon.machine.run([isReal ? 'pct' : join(node.folder, 'bin/pct'), ...args]);
}

async function vmidOf(id: string): Promise<string> {
  return /^#crisp-vmid%3A (\d+)$/m.exec(await node.guestOf(id))?.[1] ?? '';
}

/** The units that systemd has, once they are those that are wanted, or after a while. */
async function units(wanted: readonly string[]): Promise<string[]> {
  for (let waitedMs = 0; ; waitedMs += 50) {
    const found = await node.unitStates();
    if (found.join() === wanted.join() || waitedMs > 10_000 * patience) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const refused = {
  exitCode: 255,
  stderr: expect.stringMatching(/startup for container '\d+' failed/) as unknown,
  stdout: expect.stringMatching(
    /^CT \d+ is a container that crisp made, and only crisp starts it.*\n$/m,
  ) as unknown,
};

testFake('neither the probe nor the lifecycle of a pod leaves a failed task', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  const id = await startContainer(daemon, pod, containerConfig('sleep 1; exit 3'));
  expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 3 });
  await removePod(daemon, pod.id);
  const tasks = (await readFile(join(node.folder, 'tasks'), 'utf8')).trimEnd().split('\n');
  expect(tasks.map((line) => line.replace(/ \d+ /, ' '))).toEqual(
    ['vzcreate', 'vzstart', 'vzdestroy', 'vzcreate', 'vzstart', 'vzdestroy'].map((type) => `${type} TASK OK`),
  );
});

testFake('the socket answers while CTs are being probed, and their pods wait for the probe', async () => {
  const calls = async (): Promise<number> =>
    (await readFile(join(node.folder, 'calls'), 'utf8')).split('\n').length;
  const ready = async (): Promise<boolean | undefined> =>
    (await daemon.client.runtime.Status({})).runtime_handlers?.some(({ name }) => name === 'lxc');
  await daemon.stop();
  await daemon.machine.must(['rm', join(daemon.state, 'probed/lxc.json')]);
  const delay = join(node.folder, 'delay-ms');
  await writeFile(delay, '1500');
  await daemon.start({ untilProbed: false });
  expect({ isReady: await ready() }).toEqual({ isReady: false });
  await removePod(daemon, (await runPod(daemon, {}, 'crun')).id);
  expect({ isReady: await ready() }).toEqual({ isReady: false });
  const pod = await runPod(daemon, {}, 'lxc');
  expect({ isReady: await ready() }).toEqual({ isReady: true });
  await rm(delay);
  await removePod(daemon, pod.id);
  const made = await calls();
  await daemon.stop();
  await daemon.start();
  expect({ isReady: await ready() }).toEqual({ isReady: true });
  expect(await calls()).toBe(made); // the findings are kept
});

testFake('the task log of a refused start has the reason', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  const vmid = await vmidOf(await createContainer(daemon, pod, containerConfig(untilStopped())));
  expect(await pct('start', vmid)).toMatchObject(refused);
  expect(await readFile(join(node.folder, `task-logs/vzstart-${vmid}`), 'utf8')).toMatch(
    /^CT \d+ is a container that crisp made, and only crisp starts it.*\nTASK ERROR: startup for container '\d+' failed\n$/,
  );
  await removePod(daemon, pod.id);
});

test('a CT that has ended by itself leaves no unit, and cannot be started again', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  const ids = [];
  for (const [index, script] of ['exit 3', 'sleep 1; exit 4'].entries())
    ids.push(
      await startContainer(
        daemon,
        pod,
        containerConfig(script, { metadata: { name: `c${index}`, attempt: 0 }, log_path: `${index}.log` }),
      ),
    );
  for (const [index, id] of ids.entries())
    expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 3 + index });
  expect(await units([])).toEqual([]);
  const ended = await vmidOf(ids[1] ?? '');
  expect(await pct('start', ended)).toMatchObject(refused);
  expect((await pct('status', ended)).stdout).toBe('status: stopped\n');
  expect(await units([])).toEqual([]);
  expect(await waitForExit(daemon, ids[1] ?? '')).toMatchObject({ exit_code: 4 });
  await removePod(daemon, pod.id);
  expect([await node.guests(), await node.remains()]).toEqual([[], []]);
});

test('the GUI can stop a CT, but neither reboot it nor start one that crisp has not started', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  const id = await createContainer(daemon, pod, containerConfig(untilStopped()));
  const vmid = await vmidOf(id);
  expect(await pct('start', vmid)).toMatchObject(refused);
  await daemon.client.runtime.StartContainer({ container_id: id });
  expect(await node.unitStates()).toEqual([`${vmid} active`]);
  expect(await pct('start', vmid)).toMatchObject({ exitCode: 255, stderr: `CT ${vmid} already running\n` });
  // PVE's reboot is this, in one task.
  expect(await pct('stop', vmid)).toMatchObject({ exitCode: 0 });
  expect(await pct('start', vmid)).toMatchObject(refused);
  expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 137 });
  expect(await units([])).toEqual([]);
  await removePod(daemon, pod.id);
});

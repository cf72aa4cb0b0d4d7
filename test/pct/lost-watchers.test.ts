// The watcher of a CT dies while the CT runs; for conmon see lost-monitors.test.ts.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readlinkSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import type { Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  removePod,
  runPod,
  startContainer,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';
import { Node } from './node.js';

let node: Node;
let daemon: Daemon;
beforeAll(async () => {
  [node, daemon] = await Node.withDaemon();
});
afterAll(() => node?.stop());

/** By its script and the exit file that it is to write. */
async function watcherOf(id: string): Promise<number> {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const argv = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (argv.includes('watcher.pl') && argv.includes(`/${id}\0`)) return Number(pid);
  }
  throw new Error(`container ${id} has no watcher`);
}
const found = () => daemon.logged((line) => line.includes('the monitor of a container has ended'));

/** The kernel reports exits only in its first pid namespace (linux/proc_ns.h: PROC_PID_INIT_INO), so not to a node in a container. */
const reportsExits = readlinkSync('/proc/self/ns/pid') === 'pid:[4026531836]';
(reportsExits ? test : test.skip)(
  'is found at once and after a restart, and the exit is read from the kernel',
  async () => {
    const before = await daemon.traces();
    const pod = await runPod(daemon, {}, 'lxc');
    const first = await startContainer(daemon, pod, containerConfig(untilStopped(7)));
    let told = found();
    process.kill(await watcherOf(first), 'SIGKILL');
    expect(JSON.parse(await told)).toMatchObject({ containerId: first });
    expect((await daemon.client.runtime.ContainerStatus({ container_id: first })).status).toMatchObject({
      state: 'CONTAINER_RUNNING',
      reason: 'MonitorLost',
    });

    const second = await startContainer(
      daemon,
      pod,
      containerConfig(untilStopped(9), { metadata: { name: 'second' }, log_path: 'second.log' }),
    );
    const watcher = await watcherOf(second);
    await daemon.stop();
    process.kill(watcher, 'SIGKILL');
    told = found();
    await daemon.start();
    expect(JSON.parse(await told)).toMatchObject({ containerId: second });

    for (const [id, exitCode] of [
      [first, 7],
      [second, 9],
    ] as const) {
      await daemon.client.runtime.StopContainer({ container_id: id, timeout: '10' });
      expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: exitCode });
    }
    await removePod(daemon, pod.id);
    expect(await daemon.traces()).toEqual(before);
  },
);

// Exits that are not reported are detected without a restart.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parentOf } from '../../src/host/proc.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { patience } from '../helpers/patience.js';
import {
  containerConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

async function pidOf(id: string): Promise<number> {
  const { info } = await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true });
  return (JSON.parse(info['info'] ?? '') as { pid: number }).pid;
}

test('of a container whose monitor was killed, and of one whose exit could not be recorded', async () => {
  const { runtime } = daemon.client;
  const before = await daemon.traces();
  const pod = await runPod(daemon);
  const start = (name: string) =>
    startContainer(daemon, pod, containerConfig(untilStopped(), { metadata: { name } }));
  const [unwatched, unrecorded, healthy] = [
    await start('unwatched'),
    await start('unrecorded'),
    await start('healthy'),
  ];
  const [first, second] = [await pidOf(unwatched), await pidOf(unrecorded)];

  const monitor = (await parentOf(first)) ?? 0;
  process.kill(monitor, 'SIGSTOP'); // it will be gone before it has seen the end
  const records = join(daemon.state, 'containers');
  await daemon.machine.must(['mount', '--bind', '-o', 'ro', records, records]);
  const failed = daemon.logged((line) => line.includes('exit not recorded'));
  for (const pid of [first, second]) process.kill(pid, 'SIGKILL');
  await failed;
  await daemon.machine.must(['umount', records]);

  const states = () =>
    Promise.all(
      [unwatched, unrecorded, healthy].map(
        async (id) => (await runtime.ContainerStatus({ container_id: id })).status,
      ),
    );
  expect((await states()).map((status) => status?.state)).toEqual([
    'CONTAINER_RUNNING',
    'CONTAINER_RUNNING',
    'CONTAINER_RUNNING',
  ]);
  process.kill(monitor, 'SIGKILL');
  const deadline = Date.now() + 40_000 * patience;
  while (
    (await states()).filter((status) => status?.state === 'CONTAINER_EXITED').length < 2 &&
    Date.now() < deadline
  )
    await sleep(500);
  expect(await states()).toMatchObject([
    { state: 'CONTAINER_EXITED', exit_code: 255, reason: 'Unknown' },
    { state: 'CONTAINER_EXITED', exit_code: 137, reason: 'Error' },
    { state: 'CONTAINER_RUNNING' },
  ]);
  await removePod(daemon, pod.id);
  expect(await daemon.traces()).toEqual(before);
});

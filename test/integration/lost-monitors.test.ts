// conmon dies while its container runs: this is detected and reported, and the exit is
// read from the kernel; or the container is ended, if the configuration says so.
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { request } from 'node:http';
import { text } from 'node:stream/consumers';
import { parentOf } from '../../src/host/proc.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';

const metricsPort = 30_000 + Math.floor(Math.random() * 2_000);
const config = (lost_monitor: string) => ({
  runtime: { lost_monitor },
  metrics: { port: metricsPort },
});
let daemon: Daemon;
let clean: string[];
let pod: Awaited<ReturnType<typeof runPod>>;
beforeAll(async () => {
  daemon = await startDaemon({ config: config('report') });
  await daemon.addImage(testImage);
  clean = await daemon.traces();
});
afterEach(async () => {
  await removePod(daemon, pod.id);
  expect(await daemon.traces()).toEqual(clean);
});
afterAll(() => daemon?.destroy());

const found = () => daemon.logged((line) => line.includes('the monitor of a container has ended'));
const status = async (id: string) =>
  (await daemon.client.runtime.ContainerStatus({ container_id: id })).status;
async function monitorOf(id: string): Promise<number> {
  const { info } = await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true });
  return (await parentOf((JSON.parse(info['info'] ?? '') as { pid: number }).pid)) as number;
}
async function figures(): Promise<string> {
  return new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port: metricsPort, path: '/metrics' }, (answer) => resolve(text(answer)))
      .on('error', reject)
      .end();
  });
}

test.each(['crun', 'runc'])('is reported, and %s leaves the exit code to the kernel', async (handler) => {
  pod = await runPod(daemon, {}, handler);
  const id = await startContainer(daemon, pod, containerConfig(untilStopped(7)));
  const told = found();
  process.kill(await monitorOf(id), 'SIGKILL');
  expect(JSON.parse(await told)).toMatchObject({ containerId: id });
  expect(await figures()).toMatch(new RegExp(`crisp_monitors_lost_total\\{handler="${handler}"\\} [1-9]`));
  expect(await status(id)).toMatchObject({
    state: 'CONTAINER_RUNNING',
    reason: 'MonitorLost',
    message: expect.stringContaining('log is cut'),
  });
  await daemon.client.runtime.StopContainer({ container_id: id, timeout: '10' });
  expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 7, reason: 'Error' });
});

test('is found if it died while crisp was not running', async () => {
  pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, containerConfig(untilStopped(9)));
  const monitor = await monitorOf(id);
  await daemon.stop();
  process.kill(monitor, 'SIGKILL');
  const told = found();
  await daemon.start();
  await told;
  await daemon.client.runtime.StopContainer({ container_id: id, timeout: '10' });
  expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 9 });
});

test('together with its container: the exit is still recorded', async () => {
  pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
  const { info } = await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true });
  const { pid } = JSON.parse(info['info'] ?? '') as { pid: number };
  process.kill((await parentOf(pid)) as number, 'SIGKILL');
  process.kill(pid, 'SIGKILL');
  expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 255, reason: 'Unknown' });
});

test('ends the container if the configuration says so', async () => {
  await daemon.writeConfig(config('end'));
  await daemon.restart();
  pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
  process.kill(await monitorOf(id), 'SIGKILL');
  expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 137 });
});

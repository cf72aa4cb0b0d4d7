// Containers do not notice that crisp ends, however it ends, and crisp misses
// nothing of what they did meanwhile.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { containerConfig, removePod, runPod, startContainer, testImage, waitForExit } from '../helpers/requests.js';

let daemon: Daemon;
let clean: string[];
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  clean = await daemon.traces();
});
afterAll(() => daemon?.destroy());

/** Ends with 7 once /go is there, after a line in the log; the signs are files of its rootfs. */
const untilTold = 'echo before; until [ -e /go ]; do sleep 0.05; done; echo meanwhile; exit 7';

describe.each([
  ['a stop', async () => { expect(await daemon.stop()).toBe(0); }],
  ['a kill -9', async () => { await daemon.kill9(); }],
])('after %s', (_, end) => {
  test.each(['crun', 'runc'])('containers on %s are all there', async (handler) => {
    const pod = await runPod(daemon, {}, handler);
    const stays = await startContainer(daemon, pod, containerConfig('echo 1; until [ -e /go ]; do sleep 0.05; done; echo 2; sleep 1000', { metadata: { name: 'stays' }, log_path: 'stays.log' }));
    const ends = await startContainer(daemon, pod, containerConfig(untilTold, { metadata: { name: 'ends' }, log_path: 'ends.log' }));
    const pids = await Promise.all([stays, ends].map((id) => pidOf(id)));
    const before = await daemon.client.runtime.ContainerStatus({ container_id: stays });

    await end();
    const awayAt = BigInt(Date.now()) * 1_000_000n;
    for (const pid of pids) await daemon.machine.must(['touch', `/proc/${pid}/root/go`]);
    await until(async () => !existsSync(`/proc/${pids[1]}`) && (await log(pod, 'stays')).includes('F 2\n'));
    const backAt = BigInt(Date.now()) * 1_000_000n;
    await daemon.start();

    const { runtime } = daemon.client;
    const after = await runtime.ContainerStatus({ container_id: stays });
    expect(after.status).toEqual(before.status);
    const ended = await waitForExit(daemon, ends);
    expect(ended).toMatchObject({ exit_code: 7, reason: 'Error' });
    const second = 1_000_000_000n; // an exit file's time may be whole seconds
    expect(BigInt(ended.finished_at) >= awayAt - second && BigInt(ended.finished_at) <= backAt + second).toBe(true);
    expect(await log(pod, 'ends')).toMatch(/F before\n.*F meanwhile\n$/);
    expect((await runtime.PodSandboxStatus({ pod_sandbox_id: pod.id })).status).toMatchObject({ state: 'SANDBOX_READY', network: { ip: expect.stringMatching(/^10\./) } });

    // every call works on them
    expect(String((await runtime.ExecSync({ container_id: stays, cmd: ['echo', 'here'], timeout: '10' })).stdout)).toBe('here\n');
    expect((await runtime.ContainerStats({ container_id: stays })).stats?.attributes?.id).toBe(stays);
    await runtime.ReopenContainerLog({ container_id: stays });
    const later = await startContainer(daemon, pod, containerConfig('exit 0', { metadata: { name: 'later' }, log_path: 'later.log' }));
    expect(await waitForExit(daemon, later)).toMatchObject({ exit_code: 0 });
    await runtime.StopContainer({ container_id: stays, timeout: '0' });
    expect((await runtime.ContainerStatus({ container_id: stays })).status).toMatchObject({ state: 'CONTAINER_EXITED', exit_code: 137 });
    await runtime.RemoveContainer({ container_id: ends });
    await removePod(daemon, pod.id);
    expect(await daemon.traces()).toEqual(clean);
  });
});

async function pidOf(id: string): Promise<number> {
  const { info } = await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true });
  const { pid } = JSON.parse(info['info'] ?? '{}') as { pid?: number };
  if (!pid) throw new Error(`no pid in ${JSON.stringify(info)}`);
  return pid;
}

async function log(pod: { config: { log_directory?: string } }, name: string): Promise<string> {
  return readFile(join(pod.config.log_directory ?? '', `${name}.log`), 'utf8');
}

/** Asks each 20 ms: conmon and the kernel tell nobody else. */
async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 20));
}

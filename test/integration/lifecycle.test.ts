// The main job on both runtimes: a pod from image to log, and nothing after it.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { containerConfig, createContainer, removePod, runPod, startContainer, testImage, untilStopped, waitForExit } from '../helpers/requests.js';

let daemon: Daemon;
let clean: string[];
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  clean = await daemon.traces();
});
afterAll(() => daemon?.destroy());

describe.each(['crun', 'runc'])('a pod on %s', (handler) => {
  test('lives, and leaves nothing', async () => {
    const { runtime } = daemon.client;
    const pod = await runPod(daemon, {}, handler);
    const { status: sandbox } = await runtime.PodSandboxStatus({ pod_sandbox_id: pod.id });
    expect(sandbox).toMatchObject({ state: 'SANDBOX_READY', runtime_handler: handler, network: { ip: expect.stringMatching(/^10\./) } });

    const config = containerConfig(`echo out; echo err >&2; hostname; ${untilStopped(3)}`);
    const id = await createContainer(daemon, pod, config);
    expect((await runtime.ContainerStatus({ container_id: id })).status).toMatchObject({ state: 'CONTAINER_CREATED', started_at: '0', finished_at: '0' });
    await runtime.StartContainer({ container_id: id });
    const logPath = join(pod.config.log_directory ?? '', 'main.log');
    expect((await runtime.ContainerStatus({ container_id: id })).status).toMatchObject({ state: 'CONTAINER_RUNNING', log_path: logPath, image: { image: testImage } });

    const executed = await runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', 'hostname; ip -4 addr show eth0 | grep -o "inet [0-9.]*"; echo no >&2; exit 5'], timeout: '10' });
    expect({ ...executed, stdout: String(executed.stdout), stderr: String(executed.stderr) })
      .toEqual({ exit_code: 5, stdout: `box\ninet ${sandbox?.network?.ip}\n`, stderr: 'no\n' });

    await runtime.StopContainer({ container_id: id, timeout: '10' });
    const { status } = await runtime.ContainerStatus({ container_id: id });
    expect(status).toMatchObject({ state: 'CONTAINER_EXITED', exit_code: 3, reason: 'Error' });
    expect(BigInt(status?.finished_at ?? 0) >= BigInt(status?.started_at ?? 0)).toBe(true);
    const stamp = String.raw`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d)`;
    const lines = (await readFile(logPath, 'utf8')).trim().split('\n');
    for (const line of [`${stamp} stdout F out`, `${stamp} stderr F err`, `${stamp} stdout F box`]) {
      expect(lines).toContainEqual(expect.stringMatching(new RegExp(`^${line}$`)));
    }

    await runtime.RemoveContainer({ container_id: id });
    await runtime.StopPodSandbox({ pod_sandbox_id: pod.id });
    expect((await runtime.PodSandboxStatus({ pod_sandbox_id: pod.id })).status?.state).toBe('SANDBOX_NOTREADY');
    await runtime.RemovePodSandbox({ pod_sandbox_id: pod.id });
    expect(await daemon.traces()).toEqual(clean);
  });

  test('a command that runs into its time-out is gone with all that it started', async () => {
    const pod = await runPod(daemon, {}, handler);
    const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
    const exec = (script: string, timeout: string) => daemon.client.runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', script], timeout });
    for (let round = 0; round < 3; round++) {
      await expect(exec('sleep 4321 & sleep 4321', '1')).rejects.toThrow(/ExecTimeout/);
      expect(String((await exec('ps | grep "[s]leep 4321" || true', '10')).stdout)).toBe('');
    }
    await removePod(daemon, pod.id);
    expect(await daemon.traces()).toEqual(clean);
  });

  test('a container that ends by itself says how', async () => {
    const pod = await runPod(daemon, {}, handler);
    const good = await startContainer(daemon, pod, containerConfig('exit 0', { metadata: { name: 'good', attempt: 0 } }));
    const bad = await startContainer(daemon, pod, containerConfig('exit 42', { metadata: { name: 'bad', attempt: 0 } }));
    expect(await waitForExit(daemon, good)).toMatchObject({ exit_code: 0, reason: 'Completed' });
    expect(await waitForExit(daemon, bad)).toMatchObject({ exit_code: 42, reason: 'Error' });
    await removePod(daemon, pod.id);
    expect(await daemon.traces()).toEqual(clean);
  });
});

// Requests as a kubelet makes them, with defaults for fields that a test does not set.
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { ContainerConfig } from '../../src/cri/generated/runtime/v1/ContainerConfig.js';
import type { PodSandboxConfig } from '../../src/cri/generated/runtime/v1/PodSandboxConfig.js';
import type { Daemon } from './daemon.js';
import { patience } from './patience.js';
import { waitUntil } from '../../src/host/wait.js';

export const testImage = 'docker.io/library/busybox:1';

/** A pod with a unique name, with its log folder below that of the daemon. */
export function podConfig(daemon: Daemon, more: PodSandboxConfig = {}): PodSandboxConfig {
  const uid = randomBytes(6).toString('hex');
  return {
    metadata: { name: `pod-${uid}`, namespace: 'test', uid, attempt: 0 },
    hostname: 'box',
    log_directory: join(daemon.logFolder, uid),
    linux: {},
    ...more,
  };
}

/** A container that runs `script` in the image's shell. */
export function containerConfig(script: string, more: ContainerConfig = {}): ContainerConfig {
  return {
    metadata: { name: 'main', attempt: 0 },
    image: { image: testImage },
    command: ['sh', '-c', script],
    log_path: 'main.log',
    linux: {},
    ...more,
  };
}

/** Ends at SIGTERM at once, with this code. */
export function untilStopped(exitCode = 0): string {
  return `trap 'exit ${exitCode}' TERM; while :; do sleep 1000 & wait $!; done`;
}

export async function runPod(
  daemon: Daemon,
  more: PodSandboxConfig = {},
  runtimeHandler = '',
): Promise<{ id: string; config: PodSandboxConfig }> {
  const config = podConfig(daemon, more);
  const { pod_sandbox_id: id } = await daemon.client.runtime.RunPodSandbox({
    config,
    runtime_handler: runtimeHandler,
  });
  return { id, config };
}

export async function createContainer(
  daemon: Daemon,
  pod: { id: string; config: PodSandboxConfig },
  config: ContainerConfig,
): Promise<string> {
  const { container_id: id } = await daemon.client.runtime.CreateContainer({
    pod_sandbox_id: pod.id,
    config,
    sandbox_config: pod.config,
  });
  return id;
}

export async function startContainer(
  daemon: Daemon,
  pod: { id: string; config: PodSandboxConfig },
  config: ContainerConfig,
): Promise<string> {
  const id = await createContainer(daemon, pod, config);
  await daemon.client.runtime.StartContainer({ container_id: id });
  return id;
}

/** Stops and removes the pod with all its containers. */
export async function removePod(daemon: Daemon, id: string): Promise<void> {
  await daemon.client.runtime.StopPodSandbox({ pod_sandbox_id: id });
  await daemon.client.runtime.RemovePodSandbox({ pod_sandbox_id: id });
}

/** Asks until the container has ended; its status. */
export async function waitForExit(daemon: Daemon, id: string, timeoutMs = 15_000 * patience) {
  let state = '';
  const exited = async () => {
    const { status } = await daemon.client.runtime.ContainerStatus({ container_id: id });
    state = status?.state ?? '';
    return state === 'CONTAINER_EXITED' && (status ?? false);
  };
  const status = await waitUntil(exited, { everyMs: 50, withinMs: timeoutMs });
  if (!status) throw new Error(`container ${id} is ${state} after ${timeoutMs} ms`);
  return status;
}

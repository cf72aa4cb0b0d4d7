// Ids as typed by users: shortened as crictl prints them, ambiguous, unknown. And the
// fields that users of other runtimes expect: the name of the image, and pid,
// runtimeSpec and config in the info.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { stat } from 'node:fs/promises';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
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
const runtime = () => daemon.client.runtime;
const short = (id: string): string => id.slice(0, 13);

test.each(['crun', 'runc'])('a short id is accepted by every call, on %s', async (handler) => {
  const clean = await daemon.traces();
  const pod = await runPod(daemon, {}, handler);
  const id = await createContainer(daemon, { ...pod, id: short(pod.id) }, containerConfig(untilStopped()));
  const container = { container_id: short(id) };
  const sandbox = { pod_sandbox_id: short(pod.id) };
  await runtime().StartContainer(container);
  expect((await runtime().ContainerStatus(container)).status?.id).toBe(id);
  expect((await runtime().ContainerStats(container)).stats?.attributes?.id).toBe(id);
  expect((await runtime().PodSandboxStatus(sandbox)).status?.id).toBe(pod.id);
  expect((await runtime().PodSandboxStats(sandbox)).stats?.attributes?.id).toBe(pod.id);
  expect(String((await runtime().ExecSync({ ...container, cmd: ['echo', 'here'] })).stdout)).toBe('here\n');
  expect((await runtime().Exec({ ...container, cmd: ['true'], stdout: true })).url).toMatch(/^http/);
  expect((await runtime().Attach({ ...container, stdout: true })).url).toMatch(/^http/);
  expect((await runtime().PortForward({ ...sandbox, port: [80] })).url).toMatch(/^http/);
  await runtime().UpdateContainerResources({ ...container, linux: { cpu_shares: '512' } });
  await runtime().UpdatePodSandboxResources(sandbox);
  await runtime().ReopenContainerLog(container);
  const filter = { id: short(id), pod_sandbox_id: short(pod.id) };
  expect((await runtime().ListContainers({ filter })).containers.map((item) => item.id)).toEqual([id]);
  expect((await runtime().ListContainerStats({ filter })).stats.map((item) => item.attributes?.id)).toEqual([
    id,
  ]);
  const ofPod = { filter: { id: short(pod.id) } };
  expect((await runtime().ListPodSandbox(ofPod)).items.map((item) => item.id)).toEqual([pod.id]);
  expect((await runtime().ListPodSandboxStats(ofPod)).stats.map((item) => item.attributes?.id)).toEqual([
    pod.id,
  ]);
  await runtime().StopContainer({ ...container, timeout: '10' });
  expect((await runtime().ContainerStatus({ container_id: id })).status?.state).toBe('CONTAINER_EXITED');
  await runtime().RemoveContainer(container);
  await expect(runtime().ContainerStatus({ container_id: id })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
  });
  await runtime().StopPodSandbox(sandbox);
  expect((await runtime().PodSandboxStatus({ pod_sandbox_id: pod.id })).status?.state).toBe(
    'SANDBOX_NOTREADY',
  );
  await runtime().RemovePodSandbox(sandbox);
  expect(await daemon.traces()).toEqual(clean);
});

test('crictl stops and removes by the ids that it prints', async () => {
  const clean = await daemon.traces();
  const pod = await runPod(daemon);
  await startContainer(daemon, pod, containerConfig(untilStopped()));
  const [containerId, podId] = [
    short((await daemon.crictl('ps', '-q', '--no-trunc')).stdout.trim()),
    short((await daemon.crictl('pods', '-q', '--no-trunc')).stdout.trim()),
  ];
  for (const call of [
    ['inspect', containerId],
    ['stats', '--id', containerId],
    ['stop', containerId],
    ['rm', containerId],
    ['stopp', podId],
    ['rmp', podId],
  ])
    expect([call, await daemon.crictl(...call)]).toMatchObject([call, { exitCode: 0 }]);
  expect(await daemon.traces()).toEqual(clean);
});

test('an ambiguous id is refused with the candidates, an unknown one is not found, and names are not ids', async () => {
  const pods = [];
  for (let count = 0; count < 17; count++)
    pods.push(
      await runPod(daemon, {
        linux: { security_context: { namespace_options: { network: 'NODE', ipc: 'NODE' } } },
      }),
    );
  const ids = pods.map(({ id }) => id);
  const digit = ids.map((id) => id[0] ?? '').find((first, at, all) => all.indexOf(first) !== at) ?? '';
  const fitting = ids.filter((id) => id.startsWith(digit));
  for (const call of [
    () => runtime().PodSandboxStatus({ pod_sandbox_id: digit }),
    () => runtime().StopPodSandbox({ pod_sandbox_id: digit }),
    () => runtime().RemovePodSandbox({ pod_sandbox_id: digit }),
    () => runtime().ListPodSandbox({ filter: { id: digit } }),
    () => runtime().ListContainers({ filter: { pod_sandbox_id: digit } }),
  ]) {
    const error = (await call().catch((refused: unknown) => refused)) as { code: Code; details: string };
    expect(error).toMatchObject({ code: Code.INVALID_ARGUMENT });
    for (const id of fitting) expect(error.details).toContain(id);
  }
  const { items } = await runtime().ListPodSandbox({});
  expect(items.filter(({ state }) => state === 'SANDBOX_READY')).toHaveLength(17);

  const nobody = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f']
    .flatMap((first) => [`${first}0`, `${first}1`, `${first}2`])
    .find((id) => !ids.some((known) => known.startsWith(id))) as string;
  await runtime().StopPodSandbox({ pod_sandbox_id: nobody }); // as with containerd: gone already
  expect((await runtime().ListPodSandbox({ filter: { id: nobody } })).items).toEqual([]);
  await expect(runtime().PodSandboxStatus({ pod_sandbox_id: nobody })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
  });
  await expect(
    runtime().PodSandboxStatus({ pod_sandbox_id: pods[0]?.config.metadata?.name ?? '' }),
  ).rejects.toMatchObject({ code: Code.NOT_FOUND });
  for (const call of [
    () => runtime().StopPodSandbox({ pod_sandbox_id: '' }),
    () => runtime().RemoveContainer({ container_id: '' }),
  ])
    await expect(call()).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
  for (const id of ids) await removePod(daemon, id);
});

test('a container created by image id shows the name of the image', async () => {
  const pod = await runPod(daemon);
  const image = (await daemon.client.image.ImageStatus({ image: { image: testImage } })).image;
  const id = await createContainer(daemon, pod, {
    ...containerConfig('true'),
    image: { image: image?.id ?? '', user_specified_image: 'busybox:1' },
  });
  const { status } = await runtime().ContainerStatus({ container_id: id });
  expect(status?.image).toMatchObject({ image: testImage, user_specified_image: 'busybox:1' });
  expect(status?.image_id).toBe(image?.id);
  const { containers } = await runtime().ListContainers({ filter: { id } });
  expect(containers[0]?.image?.image).toBe(image?.id); // as it was asked for, as containerd has it
  const { containers_statuses: statuses, timestamp } = await runtime().PodSandboxStatus({
    pod_sandbox_id: pod.id,
  });
  expect(statuses[0]?.image?.image).toBe(testImage);
  expect(timestamp).toBe('0'); // see sandbox-read.ts
  await removePod(daemon, pod.id);
});

describe('the info of', () => {
  const infoOf = (info: Record<string, string>) =>
    JSON.parse(info['info'] ?? '') as {
      pid: number;
      config: { metadata?: { name: string } };
      runtimeSpec: {
        linux: {
          namespaces: { type: string; path?: string }[];
          resources?: { memory?: { limit?: number }; cpu?: { shares?: number; quota?: number } };
        };
      };
    };

  test('a pod has its namespaces, its pid and its config', async () => {
    const pod = await runPod(daemon, { linux: { security_context: { namespace_options: { pid: 'POD' } } } });
    const sandbox = async () =>
      infoOf((await runtime().PodSandboxStatus({ pod_sandbox_id: pod.id, verbose: true })).info);
    const { pid, runtimeSpec, config } = await sandbox();
    expect(config.metadata?.name).toBe(pod.config.metadata?.name);
    expect(await stat(`/proc/${pid}`)).toBeDefined(); // of the holder of the pid namespace
    const network = runtimeSpec.linux.namespaces.find(({ type }) => type === 'network')?.path ?? '';
    expect(await daemon.machine.must(['nsenter', `--net=${network}`, 'ip', 'addr'])).toContain('eth0');
    await runtime().StopPodSandbox({ pod_sandbox_id: pod.id });
    expect(await sandbox()).toMatchObject({ pid: 0, runtimeSpec: { linux: { namespaces: [] } } });
    await removePod(daemon, pod.id);

    const other = await runPod(daemon);
    const of = async () =>
      infoOf((await runtime().PodSandboxStatus({ pod_sandbox_id: other.id, verbose: true })).info);
    expect((await of()).pid).toBe(0);
    const id = await startContainer(daemon, other, containerConfig(untilStopped()));
    const inside = infoOf((await runtime().ContainerStatus({ container_id: id, verbose: true })).info);
    expect((await of()).pid).toBe(inside.pid);
    await removePod(daemon, other.id);
  });

  test.each(['crun', 'runc'])('a container of %s has the current limits', async (handler) => {
    const pod = await runPod(daemon, {}, handler);
    const id = await startContainer(
      daemon,
      pod,
      containerConfig(untilStopped(), {
        linux: { resources: { memory_limit_in_bytes: String(64 << 20), cpu_shares: '256' } },
      }),
    );
    const limits = async () =>
      infoOf((await runtime().ContainerStatus({ container_id: id, verbose: true })).info).runtimeSpec.linux
        .resources;
    expect(await limits()).toMatchObject({ memory: { limit: 64 << 20 }, cpu: { shares: 256 } });
    await runtime().UpdateContainerResources({
      container_id: id,
      linux: { memory_limit_in_bytes: String(96 << 20) },
    });
    expect(await limits()).toMatchObject({ memory: { limit: 96 << 20 }, cpu: { shares: 256 } });
    await removePod(daemon, pod.id);
  });
});

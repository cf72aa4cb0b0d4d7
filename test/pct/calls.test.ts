// All 43 calls of the CRI on a pod of CTs, and the calls of pct during its life.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import type { imageService, runtimeService } from '../../src/cri/service.js';
import { loadProto } from '../../src/cri/proto.js';
import type { Daemon } from '../helpers/daemon.js';
import { containerConfig, podConfig, testImage, untilStopped } from '../helpers/requests.js';
import { isReal, Node } from './node.js';

let node: Node;
let daemon: Daemon;
beforeAll(async () => {
  [node, daemon] = await Node.withDaemon();
});
afterAll(() => node?.stop());

type Method = keyof typeof runtimeService | keyof typeof imageService;

test('every call is answered; a container lifecycle takes three calls of pct, and a change of limits one', async () => {
  const { runtime, image, streams } = daemon.client;
  const config = podConfig(daemon);
  const refused = { code: status.UNIMPLEMENTED };
  const url = expect.stringMatching(/^http:\/\/127\.0\.0\.1:/);
  const calls = async (): Promise<string[]> =>
    isReal
      ? []
      : ((await readFile(join(node.folder, 'calls'), 'utf8')).match(
          /^(?:create|start|set|destroy|stop|shutdown|unlock|exec|status|config|list)(?= |$)/gm,
        ) ?? []);
  const before = (await calls()).length;
  let pod = '';
  let id = '';
  const told: { container_id: string; container_event_type: string }[] = [];
  const events = streams.GetContainerEvents({});
  events.on('data', (event: (typeof told)[number]) => told.push(event)).on('error', () => undefined);

  const stories: Record<Method, () => Promise<unknown>> = {
    Version: async () =>
      expect(await runtime.Version({})).toMatchObject({ runtime_name: 'crisp', runtime_api_version: 'v1' }),
    Status: async () =>
      expect((await runtime.Status({})).runtime_handlers).toContainEqual(
        expect.objectContaining({ name: 'lxc' }),
      ),
    RuntimeConfig: async () =>
      expect((await runtime.RuntimeConfig({})).linux?.cgroup_driver).toMatch(/CGROUPFS|SYSTEMD/),
    UpdateRuntimeConfig: async () =>
      runtime.UpdateRuntimeConfig({ runtime_config: { network_config: { pod_cidr: '' } } }),
    ListImages: async () =>
      expect((await image.ListImages({})).images.flatMap(({ repo_tags: tags }) => tags)).toContain(testImage),
    StreamImages: () => Promise.resolve(), // the same as ListImages, and knows no pods
    ImageStatus: async () =>
      expect((await image.ImageStatus({ image: { image: testImage } })).image).not.toBeNull(),
    PullImage: () =>
      expect(image.PullImage({ image: { image: '127.0.0.1:1/none:1' } })).rejects.toMatchObject({
        code: status.UNAVAILABLE,
      }),
    ImageFsInfo: async () => expect((await image.ImageFsInfo({})).image_filesystems).toHaveLength(1),

    RunPodSandbox: async () => {
      ({ pod_sandbox_id: pod } = await runtime.RunPodSandbox({ config, runtime_handler: 'lxc' }));
    },
    CreateContainer: async () => {
      ({ container_id: id } = await runtime.CreateContainer({
        pod_sandbox_id: pod,
        config: containerConfig(untilStopped(3)),
        sandbox_config: config,
      }));
    },
    StartContainer: () => runtime.StartContainer({ container_id: id }),
    PodSandboxStatus: async () =>
      expect((await runtime.PodSandboxStatus({ pod_sandbox_id: pod })).status).toMatchObject({
        state: 'SANDBOX_READY',
        runtime_handler: 'lxc',
      }),
    ListPodSandbox: async () =>
      expect((await runtime.ListPodSandbox({ filter: { id: pod } })).items).toHaveLength(1),
    StreamPodSandboxes: async () => expect(await all(streams.StreamPodSandboxes({}))).not.toEqual([]),
    ContainerStatus: async () =>
      expect((await runtime.ContainerStatus({ container_id: id })).status).toMatchObject({
        state: 'CONTAINER_RUNNING',
      }),
    ListContainers: async () =>
      expect((await runtime.ListContainers({ filter: { id } })).containers).toHaveLength(1),
    StreamContainers: async () => expect(await all(streams.StreamContainers({}))).not.toEqual([]),

    ExecSync: async () =>
      expect(
        String((await runtime.ExecSync({ container_id: id, cmd: ['hostname'], timeout: '20' })).stdout),
      ).toBe('box\n'),
    Exec: async () =>
      expect((await runtime.Exec({ container_id: id, cmd: ['true'], stdout: true })).url).toEqual(url),
    Attach: async () => expect((await runtime.Attach({ container_id: id, stdout: true })).url).toEqual(url),
    PortForward: async () =>
      expect((await runtime.PortForward({ pod_sandbox_id: pod, port: [80] })).url).toEqual(url),
    ReopenContainerLog: () => runtime.ReopenContainerLog({ container_id: id }),

    ContainerStats: async () =>
      expect(
        Number((await runtime.ContainerStats({ container_id: id })).stats?.memory?.usage_bytes?.value),
      ).toBeGreaterThan(0),
    ListContainerStats: async () =>
      expect((await runtime.ListContainerStats({ filter: { id } })).stats).toHaveLength(1),
    StreamContainerStats: async () => expect(await all(streams.StreamContainerStats({}))).not.toEqual([]),
    PodSandboxStats: async () =>
      expect((await runtime.PodSandboxStats({ pod_sandbox_id: pod })).stats?.linux?.containers).toHaveLength(
        1,
      ),
    ListPodSandboxStats: async () =>
      expect((await runtime.ListPodSandboxStats({ filter: { id: pod } })).stats).toHaveLength(1),
    StreamPodSandboxStats: async () => expect(await all(streams.StreamPodSandboxStats({}))).not.toEqual([]),
    ListMetricDescriptors: async () =>
      expect((await runtime.ListMetricDescriptors({})).descriptors.length).toBeGreaterThan(0),
    ListPodSandboxMetrics: async () =>
      expect(
        (await runtime.ListPodSandboxMetrics({})).pod_metrics.find(({ pod_sandbox_id: of }) => of === pod)
          ?.container_metrics,
      ).toHaveLength(1),
    StreamPodSandboxMetrics: async () =>
      expect(await all(streams.StreamPodSandboxMetrics({}))).not.toEqual([]),

    CheckpointContainer: () =>
      expect(
        runtime.CheckpointContainer({
          container_id: id,
          location: join(daemon.folder, 'checkpoint.tar'),
          timeout: '5',
        }),
      ).rejects.toMatchObject(refused),
    CheckpointPod: () =>
      expect(runtime.CheckpointPod({ pod_sandbox_id: pod })).rejects.toMatchObject(refused),
    RestorePod: () => expect(runtime.RestorePod({})).rejects.toMatchObject(refused),

    UpdateContainerResources: () =>
      runtime.UpdateContainerResources({
        container_id: id,
        linux: { memory_limit_in_bytes: String(48 << 20) },
      }),
    UpdatePodSandboxResources: () =>
      runtime.UpdatePodSandboxResources({
        pod_sandbox_id: pod,
        overhead: {},
        resources: { memory_limit_in_bytes: String(256 << 20) },
      }),
    StopContainer: () => runtime.StopContainer({ container_id: id, timeout: '10' }),
    RemoveContainer: () => runtime.RemoveContainer({ container_id: id }),
    StopPodSandbox: () => runtime.StopPodSandbox({ pod_sandbox_id: pod }),
    RemovePodSandbox: () => runtime.RemovePodSandbox({ pod_sandbox_id: pod }),
    RemoveImage: async () => image.RemoveImage({ image: { image: testImage } }),

    GetContainerEvents: () => {
      events.cancel();
      expect(
        told.filter(({ container_id: of }) => of === id).map(({ container_event_type: type }) => type),
      ).toEqual(['CREATED', 'STARTED', 'STOPPED', 'DELETED'].map((type) => `CONTAINER_${type}_EVENT`));
      return Promise.resolve();
    },
  };

  const { RuntimeService, ImageService } = loadProto().runtime.v1;
  expect(Object.keys(stories).sort()).toEqual(
    [...Object.keys(RuntimeService.service), ...Object.keys(ImageService.service)].sort(),
  );
  expect(Object.keys(stories)).toHaveLength(43);
  for (const [name, story] of Object.entries(stories)) {
    try {
      await story();
    } catch (error) {
      throw new Error(`${name}: ${(error as Error).message}`, { cause: error });
    }
  }
  if (!isReal) expect((await calls()).slice(before)).toEqual(['create', 'start', 'set', 'destroy']);
  expect([await node.guests(), await node.remains()]).toEqual([[], []]);
});

/** All messages of a stream until its end. */
async function all(stream: NodeJS.ReadableStream): Promise<unknown[]> {
  const found: unknown[] = [];
  for await (const item of stream) found.push(item);
  return found;
}

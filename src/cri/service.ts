// The map of the product: each of the 43 calls, and the function that answers it.
import type * as grpc from '@grpc/grpc-js';
import type { ImageServiceHandlers } from './generated/runtime/v1/ImageService.js';
import type { RuntimeServiceHandlers } from './generated/runtime/v1/RuntimeService.js';
import { createContainer } from './container-create.js';
import { containerStatusOf, listContainers, streamContainers } from './container-read.js';
import { startContainer } from './container-start.js';
import { removeContainer, stopContainer } from './container-stop.js';
import { checkpointContainer, checkpointPod, restorePod } from './checkpoint.js';
import {
  reopenContainerLog,
  updateContainerResources,
  updatePodSandboxResources,
} from './container-update.js';
import { getContainerEvents } from './events.js';
import { attach, exec, execSync, portForward } from './exec.js';
import { imageFsInfo, imageStatus, listImages, pullImage, removeImage, streamImages } from './images.js';
import type { Call, Services } from './services.js';
import { listMetricDescriptors, listPodSandboxMetrics, streamPodSandboxMetrics } from './pod-metrics.js';
import { runtimeConfig, status, updateRuntimeConfig, version } from './runtime.js';
import { listPodSandbox, podSandboxStatus, streamPodSandboxes } from './sandbox-read.js';
import { runPodSandbox } from './sandbox-run.js';
import { removePodSandbox, stopPodSandbox } from './sandbox-stop.js';
import {
  containerStats,
  listContainerStats,
  listPodSandboxStats,
  podSandboxStats,
  streamContainerStats,
  streamPodSandboxStats,
} from './stats.js';

/** A story for each handler of a service, with the request as received and the response as promised. */
type Stories<Handlers> = {
  readonly [Method in keyof Handlers]: Handlers[Method] extends grpc.handleUnaryCall<
    infer Request,
    infer Response
  >
    ? (services: Services, request: Request, call: Call) => Promise<Response>
    : Handlers[Method] extends grpc.handleServerStreamingCall<infer Request, infer Response>
      ? (services: Services, request: Request, call: Call) => AsyncIterable<Response>
      : never;
};
type Calls<Handlers> = Stories<{
  [Method in keyof Handlers as string extends Method ? never : Method]: Handlers[Method];
}>;

export const runtimeService = {
  Version: version,
  Status: status,
  RuntimeConfig: runtimeConfig,
  UpdateRuntimeConfig: updateRuntimeConfig,

  RunPodSandbox: runPodSandbox,
  StopPodSandbox: stopPodSandbox,
  RemovePodSandbox: removePodSandbox,
  PodSandboxStatus: podSandboxStatus,
  ListPodSandbox: listPodSandbox,
  StreamPodSandboxes: streamPodSandboxes,
  UpdatePodSandboxResources: updatePodSandboxResources,

  CreateContainer: createContainer,
  StartContainer: startContainer,
  StopContainer: stopContainer,
  RemoveContainer: removeContainer,
  ContainerStatus: containerStatusOf,
  ListContainers: listContainers,
  StreamContainers: streamContainers,
  UpdateContainerResources: updateContainerResources,
  ReopenContainerLog: reopenContainerLog,

  ExecSync: execSync,
  Exec: exec,
  Attach: attach,
  PortForward: portForward,

  ContainerStats: containerStats,
  ListContainerStats: listContainerStats,
  StreamContainerStats: streamContainerStats,
  PodSandboxStats: podSandboxStats,
  ListPodSandboxStats: listPodSandboxStats,
  StreamPodSandboxStats: streamPodSandboxStats,
  ListMetricDescriptors: listMetricDescriptors,
  ListPodSandboxMetrics: listPodSandboxMetrics,
  StreamPodSandboxMetrics: streamPodSandboxMetrics,
  GetContainerEvents: getContainerEvents,

  CheckpointContainer: checkpointContainer,
  CheckpointPod: checkpointPod,
  RestorePod: restorePod,
} satisfies Calls<RuntimeServiceHandlers>;

export const imageService = {
  ListImages: listImages,
  StreamImages: streamImages,
  ImageStatus: imageStatus,
  PullImage: pullImage,
  RemoveImage: removeImage,
  ImageFsInfo: imageFsInfo,
} satisfies Calls<ImageServiceHandlers>;

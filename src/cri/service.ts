// The table of the 43 calls and their functions.
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

/** A read changes nothing, or is repeated every few seconds (ExecSync, by probes): it is logged at level debug. */
export type CallKind = 'read' | 'change';

/** The function that answers a call, with the request as received and the response as promised. */
type Story<Handler> =
  Handler extends grpc.handleUnaryCall<infer Request, infer Response>
    ? (services: Services, request: Request, call: Call) => Promise<Response>
    : Handler extends grpc.handleServerStreamingCall<infer Request, infer Response>
      ? (services: Services, request: Request, call: Call) => AsyncIterable<Response>
      : never;
type Calls<Handlers> = {
  readonly [Method in keyof Handlers as string extends Method ? never : Method]: readonly [
    story: Story<Handlers[Method]>,
    kind: CallKind,
  ];
};

/** The calls of the RuntimeService. */
export const runtimeService = {
  Version: [version, 'read'],
  Status: [status, 'read'],
  RuntimeConfig: [runtimeConfig, 'read'],
  UpdateRuntimeConfig: [updateRuntimeConfig, 'change'],

  RunPodSandbox: [runPodSandbox, 'change'],
  StopPodSandbox: [stopPodSandbox, 'change'],
  RemovePodSandbox: [removePodSandbox, 'change'],
  PodSandboxStatus: [podSandboxStatus, 'read'],
  ListPodSandbox: [listPodSandbox, 'read'],
  StreamPodSandboxes: [streamPodSandboxes, 'read'],
  UpdatePodSandboxResources: [updatePodSandboxResources, 'change'],

  CreateContainer: [createContainer, 'change'],
  StartContainer: [startContainer, 'change'],
  StopContainer: [stopContainer, 'change'],
  RemoveContainer: [removeContainer, 'change'],
  ContainerStatus: [containerStatusOf, 'read'],
  ListContainers: [listContainers, 'read'],
  StreamContainers: [streamContainers, 'read'],
  UpdateContainerResources: [updateContainerResources, 'change'],
  ReopenContainerLog: [reopenContainerLog, 'change'],

  ExecSync: [execSync, 'read'],
  Exec: [exec, 'change'],
  Attach: [attach, 'change'],
  PortForward: [portForward, 'change'],

  ContainerStats: [containerStats, 'read'],
  ListContainerStats: [listContainerStats, 'read'],
  StreamContainerStats: [streamContainerStats, 'read'],
  PodSandboxStats: [podSandboxStats, 'read'],
  ListPodSandboxStats: [listPodSandboxStats, 'read'],
  StreamPodSandboxStats: [streamPodSandboxStats, 'read'],
  ListMetricDescriptors: [listMetricDescriptors, 'read'],
  ListPodSandboxMetrics: [listPodSandboxMetrics, 'read'],
  StreamPodSandboxMetrics: [streamPodSandboxMetrics, 'read'],
  GetContainerEvents: [getContainerEvents, 'read'],

  CheckpointContainer: [checkpointContainer, 'change'],
  CheckpointPod: [checkpointPod, 'change'],
  RestorePod: [restorePod, 'change'],
} satisfies Calls<RuntimeServiceHandlers>;

/** The calls of the ImageService. */
export const imageService = {
  ListImages: [listImages, 'read'],
  StreamImages: [streamImages, 'read'],
  ImageStatus: [imageStatus, 'read'],
  PullImage: [pullImage, 'change'],
  RemoveImage: [removeImage, 'change'],
  ImageFsInfo: [imageFsInfo, 'read'],
} satisfies Calls<ImageServiceHandlers>;

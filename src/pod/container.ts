// A container before the backend creates it: rootfs, volumes, spec, bundle.
// assembleContainer() makes the spec; `crisp explain` prints it.
// prepareContainer() makes the files and mounts first, for CreateContainer and
// for `crisp create`.
import type { Backend, ContainerPlan } from '../backends/backend.js';
import type { Config } from '../config/config.js';
import { pattern } from '../config/pattern.js';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import type { Signal__Output as Signal } from '../cri/generated/runtime/v1/Signal.js';
import { CrispError } from '../errors.js';
import { makeClosedFolder, remove } from '../host/files.js';
import { waitUntilIdle } from '../host/proc.js';
import type { Undo } from '../host/undo.js';
import { shiftOf } from '../images/overlay.js';
import type { Rootfs } from '../images/rootfs.js';
import type { Images } from '../images/store.js';
import { makeVolumes } from '../images/volumes.js';
import { writeBundle } from '../oci/bundle.js';
import { containerSpec, type SpecResult } from '../oci/container-spec.js';
import type { HostFacts } from '../oci/host-facts.js';
import { inspectRootfs, type RootfsFacts } from '../oci/inspect.js';
import type { MountFeatures, Volume } from '../oci/mounts.js';
import { rootGroupOf } from '../oci/namespaces.js';
import { signalNumber } from '../oci/signals.js';
import { withWorkingFolder } from '../oci/working-folder.js';
import type { ImageConfig } from '../shapes/image-config.js';
import type { Image } from '../shapes/image.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import type { Mount } from '../shapes/spec.js';
import { step } from '../steps.js';
import { mountImageVolumes, unmountImageVolumes, type ImageVolume } from './image-volumes.js';
import { podMemory, sharedMemory } from './memory.js';
import { takeApart } from './pod.js';

export interface ContainerRequest {
  readonly id: string;
  readonly config: ContainerConfig__Output;
  /** Its pod, with the plan of MadePod. */
  readonly sandbox: { readonly config: PodSandboxConfig__Output; readonly plan: SandboxPlan };
  readonly source: ContainerSource;
  /** The handler of the pod, for its configuration. */
  readonly handler: string;
  /** The bundle. */
  readonly folder: string;
  readonly logPath: string;
  readonly stopSignal: Signal;
  /** A process of the target container, for pid mode TARGET. */
  readonly targetPid?: number | undefined;
  /** Mounts that the CRI cannot express: see SpecInput. */
  readonly moreMounts?: readonly Mount[];
}

/** The root filesystem and the image of a container. */
export interface ContainerSource {
  /** The name of the image in the container's annotations. */
  readonly name: string;
  /** The config of the image, or a substitute. */
  readonly config: ImageConfig;
  /** Absent: `folder` itself is the rootfs. */
  readonly image?: Pick<Image, 'id' | 'template'>;
  readonly folder?: string;
}

/** The inputs of assembleContainer(). */
export interface ContainerGround {
  readonly rootfs: string;
  /** The rootfs is a view of the image that a backend copies: see RootfsMode. */
  readonly isView: boolean;
  readonly facts: RootfsFacts;
  /** The VOLUMEs of the image. */
  readonly volumes: readonly Volume[];
  readonly host: HostFacts;
  /** See SpecInput. */
  readonly features?: MountFeatures | undefined;
}

export interface AssembledContainer {
  readonly plan: ContainerPlan;
  readonly user: SpecResult['user'];
  /** Paths of requested fields that the spec cannot express; Backend.notHonoured() returns more. */
  readonly notHonoured: readonly string[];
}

/**
 * The spec and the plan of a container. Pure.
 * @throws InvalidArgument, UserNotFound, UnsupportedField, RROUnsupported
 */
export function assembleContainer(
  { handlers }: Pick<Config, 'handlers'>,
  request: ContainerRequest,
  ground: ContainerGround,
): AssembledContainer {
  const { id, config, sandbox, source } = request;
  const podFolder = sandbox.plan.folder;
  const { spec, user, notHonoured } = containerSpec({
    config,
    sandbox: sandbox.config,
    image: source.config,
    plan: sandbox.plan,
    containerId: id,
    rootfs: ground.rootfs,
    facts: ground.facts,
    volumes: ground.volumes,
    host: ground.host,
    features: ground.features,
    podFolder: podMemory(podFolder),
    sharedMemory: sandbox.plan.namespaces.ipc ? sharedMemory(podFolder) : undefined,
    targetPid: request.targetPid,
    moreMounts: request.moreMounts ?? [],
    allowedAnnotations: handlers[request.handler]?.allowed_annotations ?? [],
  });
  const plan: ContainerPlan = {
    id,
    name: config.metadata?.name ?? '',
    attempt: config.metadata?.attempt ?? 0,
    image: source.name,
    imageId: source.image?.id ?? '',
    template: source.image?.template,
    sandbox: sandbox.plan,
    folder: request.folder,
    spec,
    ...(ground.isView ? {} : { shiftedSources: ground.volumes.map((volume) => volume.source) }),
    logPath: request.logPath,
    stdin: config.stdin,
    stdinOnce: config.stdin_once,
    stopSignal: String(signalNumber(request.stopSignal)),
  };
  return { plan, user, notHonoured };
}

/** The services of prepareContainer(). */
export interface ContainerServices {
  readonly config: Config;
  readonly host: HostFacts;
  readonly images: Images;
  readonly rootfs: Rootfs;
}

export interface PrepareOptions {
  readonly backend: Backend;
  readonly features: MountFeatures | undefined;
  /**
   * How to handle mount sources that do not exist: made, except those that the configuration rejects; or
   * refused.
   */
  readonly absentMountSources: 'make' | 'refuse';
}

export interface PreparedContainer extends AssembledContainer {
  /** By their index in config.mounts. */
  readonly imageVolumes: ReadonlyMap<number, ImageVolume>;
  /** The folders that were made on the host for mounts. */
  readonly madeMountSources: readonly string[];
}

/**
 * Makes the bundle of a container; Backend.create() does the rest. The removal of each part is on `undo`
 * before the part is made.
 * @throws the errors of assembleContainer(); Unsupported, ImageVolumeMountFailed, MountSourceMissing,
 * PathEscapes, RootfsMissing, StorageFailed
 */
export async function prepareContainer(
  undo: Undo,
  services: ContainerServices,
  request: ContainerRequest & { readonly source: { readonly image?: Image } },
  { backend, features, absentMountSources }: PrepareOptions,
): Promise<PreparedContainer> {
  const { id, config, source, folder } = request;
  const { plan: pod } = request.sandbox;
  const { image_volumes: mode, absent_mount_sources_to_reject: rejected } = services.config.runtime;
  // 1. The rootfs, and the images that are mounted as volumes.
  undo.push('bundle', () => remove(folder));
  makeClosedFolder(folder, rootGroupOf(pod.idMaps));
  const { kind } = backend.rootfs(pod, source.image?.template);
  const isView = kind === 'own';
  if (!source.image && (isView || pod.idMaps))
    throw new CrispError(
      'Unsupported',
      `handler ${request.handler} cannot run a folder: its containers have a copy, or other ids`,
      { hint: 'make an OCI image of the folder, or choose another handler' },
    );
  undo.push('rootfs', () => services.rootfs.unmount(id));
  const rootfs = source.image
    ? await services.rootfs.provide({ kind }, id, source.image, pod)
    : (source.folder ?? '');
  undo.push('image volumes', () => unmountImageVolumes(services, request));
  const imageVolumes = await mountImageVolumes(services, id, config, shiftOf(pod));

  // 2. The contents of the rootfs, and the VOLUMEs of its image.
  const made: string[] = [];
  const rejects = (path: string): boolean => rejected.some((text) => pattern(text)(path));
  const facts = await inspectRootfs({
    rootfs,
    config,
    imageMounts: new Map([...imageVolumes].map(([index, { path }]) => [index, path])),
    ...(absentMountSources === 'make' ? { absentSources: { made, rejects } } : {}),
  });
  const volumes = await makeVolumes({
    mode: source.image ? mode : 'ignore',
    image: source.config,
    rootfs,
    isView,
    shift: isView ? undefined : shiftOf(pod),
    taken: facts.mounts.map(({ target }) => target),
    folder: services.rootfs.volumes(id),
  });

  // 3. The spec.
  const ground: ContainerGround = { rootfs, isView, facts, volumes, features, host: services.host };
  const { plan, user, notHonoured } = assembleContainer(services.config, request, ground);
  const spec = await withWorkingFolder(plan.spec, rootfs);
  writeBundle(folder, spec);
  return {
    plan: { ...plan, spec },
    user,
    notHonoured: [...notHonoured, ...(backend.notHonoured?.(spec) ?? [])],
    imageVolumes,
    madeMountSources: made,
  };
}

/** Undoes prepareContainer() for a container that its backend has deleted. Idempotent. */
export async function releaseContainer(
  services: Pick<ContainerServices, 'rootfs'>,
  container: Pick<ContainerRequest, 'id' | 'config' | 'folder'>,
): Promise<void> {
  await step('remove container: rootfs', () => services.rootfs.unmount(container.id));
  await step('remove container: image volumes', () => unmountImageVolumes(services, container));
  await step('remove container: bundle', () => remove(container.folder));
}

/** How long a monitor may run after the end of its container. */
const monitorPatienceMs = 2_000;

/**
 * Removes a bundle without a record; the bundle of an older standalone container contains its pod.
 * @throws WrongContainerState while its container runs and no backend lists it: its runtime is gone, or not
 * configured any more
 */
export async function removeBundle(folder: string, cgroup?: string): Promise<void> {
  const monitors = await waitUntilIdle(folder, monitorPatienceMs);
  if (monitors.length > 0) {
    throw new CrispError(
      'WrongContainerState',
      `${folder} is in use: its container runs, but no handler lists it`,
      {
        hint: `configure its handler again, or end the container of process ${monitors.map(({ pid }) => pid).join(', ')}`,
      },
    );
  }
  await takeApart(folder, cgroup);
}

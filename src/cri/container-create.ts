// CreateContainer: image, record, bundle, backend.
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { CrispError } from '../errors.js';
import { expectCgroupMove } from '../host/cgroup-move.js';
import { withUndo } from '../host/undo.js';
import type { Image } from '../shapes/image.js';
import { addLogContext, log, withLogContext } from '../log.js';
import { prepareContainer } from '../pod/container.js';
import { lostPin } from '../pod/namespaces.js';
import type { Unclaimed } from '../records/creations.js';
import { pack } from '../records/recovery-label.js';
import {
  containerKey,
  containerState,
  now,
  type ContainerRecord,
  type SandboxRecord,
} from '../records/records.js';
import type { ContainerConfig__Output } from './generated/runtime/v1/ContainerConfig.js';
import type { CreateContainerRequest__Output } from './generated/runtime/v1/CreateContainerRequest.js';
import type { CreateContainerResponse } from './generated/runtime/v1/CreateContainerResponse.js';
import { stopSignal } from '../oci/signals.js';
import { logPathOf } from './log-path.js';
import { removeContainerRecord } from './container-stop.js';
import { backendOf, readySandboxOf, runningContainerOf } from './lookup.js';
import type { Call, Services } from './services.js';

/**
 * CreateContainer. A retry with the same request gets the same container.
 * @throws InvalidArgument, UnsupportedField, ImageNotFound, NameInUse, SandboxNotReady, and the errors of
 * mounts and backends
 */
export async function createContainer(
  services: Services,
  request: CreateContainerRequest__Output,
  call: Call,
): Promise<CreateContainerResponse> {
  const sandbox = await readySandboxOf(services, request.pod_sandbox_id);
  const config = checkedConfig(request.config);
  const key = containerKey(sandbox.id, config);
  const id = await services.creations.join(
    key,
    request,
    call.signal,
    (newId) =>
      services.locks.with(sandbox.id, async () => {
        const present = services.store
          .containersOf(sandbox.id)
          .find((record) => containerKey(sandbox.id, record.config) === key);
        if (present?.complete) return reused(services, present, config);
        if (present) await removeContainerRecord(services, present.id); // left by an attempt that could not be undone, and has ended, since this call has the lock
        return makeContainer(services, newId, await readySandboxOf(services, sandbox.id), config);
      }),
    unclaimedContainer(services, sandbox.id),
  );
  await claimContainer(services, id, sandbox);
  addLogContext({ containerId: id });
  return { container_id: id };
}

/** The caller has the id of a container: from now on it is visible, and its event is sent. */
async function claimContainer(services: Services, id: string, sandbox: SandboxRecord): Promise<void> {
  if (!services.creations.claim(id)) return;
  if (services.store.containers.get(id)?.unclaimed)
    await services.store.containers.change(id, { unclaimed: undefined });
  services.events.emit('CONTAINER_CREATED_EVENT', id, sandbox);
}

/**
 * Handles a container if its caller disconnected while it was made. Also for containers of an earlier run.
 */
export function unclaimedContainer(services: Services, sandboxId: string): Unclaimed {
  return {
    keep: (id) =>
      services.store.containers.change(id, () => (services.creations.hides(id) ? { unclaimed: true } : {})),
    discard: (id) =>
      withLogContext({ containerId: id, podId: sandboxId }, () =>
        services.locks.with(sandboxId, async () => {
          if (services.creations.expired(id)) await removeContainerRecord(services, id);
        }),
      ),
    remains: (id) => services.store.containers.has(id),
  };
}

/** As with pods, the same request returns the same container. */
function reused(services: Services, record: ContainerRecord, config: ContainerConfig__Output): string {
  if (!isDeepStrictEqual(record.config, config) || containerState(record) !== 'CONTAINER_CREATED') {
    throw new CrispError(
      'NameInUse',
      `container ${config.metadata?.name} (attempt ${config.metadata?.attempt}) exists already as ${record.id} (${containerState(record)})`,
    );
  }
  services.creations.hold(record.id);
  return record.id;
}

function checkedConfig(config: ContainerConfig__Output | null): ContainerConfig__Output {
  if (!config) throw new CrispError('InvalidArgument', 'config is missing');
  if (!config.metadata?.name) throw new CrispError('InvalidArgument', 'config.metadata.name is empty');
  for (const [index, mount] of config.mounts.entries()) {
    if (mount.image?.image && !mount.readonly)
      throw new CrispError(
        'InvalidArgument',
        `mounts[${index}]: an image volume can only be mounted read-only`,
      );
  }
  if (!config.image?.image) throw new CrispError('InvalidArgument', 'config.image.image is empty');
  return config;
}

async function makeContainer(
  services: Services,
  id: string,
  sandbox: SandboxRecord,
  config: ContainerConfig__Output,
): Promise<string> {
  addLogContext({ containerId: id });
  const backend = backendOf(services, sandbox);
  const folder = join(services.config.state, 'bundles', id);
  const logPath = await logPathOf(sandbox.config.log_directory, config.log_path);
  expectCgroupMove();
  return withUndo('CreateContainer', async (undo) => {
    // 1. The image must be on the node: the kubelet pulls it with a separate call.
    const image = await services.images.find(config.image?.image ?? '');
    if (!image) throw new CrispError('ImageNotFound', `image ${config.image?.image} is not on this node`);

    // 2. The intent: recorded before anything is made.
    const record: ContainerRecord = {
      version: 1,
      id,
      sandboxId: sandbox.id,
      config,
      handler: sandbox.handler,
      bootId: services.bootId,
      complete: false,
      imageId: image.id,
      imageRef: imageRef(image),
      imageName: image.tags[0] ?? imageRef(image),
      imageVolumes: {},
      folder,
      logPath,
      stopSignal: stopSignal(config.stop_signal, image.config.StopSignal),
      user: { uid: 0, gid: 0, supplementalGroups: [] },
      notHonoured: [],
      backendState: undefined,
      createdAt: now(),
    };
    undo.push('record', (clean) => (clean ? services.store.containers.delete(id) : undefined));
    await services.store.containers.put(record);

    // 3. Its bundle.
    const made = await prepareContainer(
      undo,
      services,
      {
        id,
        config,
        sandbox,
        source: { name: imageRef(image), config: image.config, image },
        handler: sandbox.handler,
        folder,
        logPath,
        stopSignal: record.stopSignal,
        targetPid: targetPid(services, sandbox.id, config),
      },
      {
        backend,
        features: services.handlers.get(sandbox.handler)?.probe.features,
        absentMountSources: 'make',
      },
    );

    // 4. The container.
    const done: ContainerRecord = {
      ...record,
      complete: true,
      imageVolumes: Object.fromEntries(
        [...made.imageVolumes].map(([index, { imageId }]) => [index, imageId]),
      ),
      user: made.user,
      notHonoured: [...made.notHonoured],
      ...(made.madeMountSources.length ? { madeMountSources: [...made.madeMountSources] } : {}),
      ...(config.linux?.resources ? { resources: config.linux.resources } : {}),
    };
    const recoveryLabel = (): string | undefined => pack({ sandbox, container: done });
    const backendState = await backend
      .create({ ...made.plan, recoveryLabel })
      .catch((error: unknown) => whyNotCreated(sandbox, error));
    undo.push('container', () => backend.delete({ id, folder, logPath, state: backendState }));

    // 5. The complete record: from here on the container exists.
    await services.store.containers.put({ ...done, backendState });
    log.info(
      {
        container: config.metadata?.name,
        image: config.image?.image,
        notHonoured: made.notHonoured.length ? made.notHonoured : undefined,
      },
      'container created',
    );
    return id;
  });
}

/**
 * Explains the failure if a namespace of the pod was unmounted: each runtime reports this differently.
 * @throws SandboxNotReady, else the error itself
 */
async function whyNotCreated(sandbox: SandboxRecord, error: unknown): Promise<never> {
  const lost = await lostPin(sandbox.plan.namespaces);
  if (lost === undefined) throw error;
  throw new CrispError(
    'SandboxNotReady',
    `a namespace of pod sandbox ${sandbox.id} is gone: ${lost} is unmounted`,
    { cause: error },
  );
}

/** The value of image_ref: the pulled digest if there is one, as image policies require. */
function imageRef(image: Image): string {
  return image.digests[0] ?? (image.template === undefined ? image.id : `pve/${image.template}`);
}

/**
 * NamespaceMode TARGET: the pid namespace of another container of the pod; a container of another pod would
 * give access to that pod.
 */
function targetPid(
  services: Services,
  sandboxId: string,
  config: ContainerConfig__Output,
): number | undefined {
  const options = config.linux?.security_context?.namespace_options;
  if (options?.pid !== 'TARGET') return undefined;
  const target = runningContainerOf(services, options.target_id);
  if (target.sandboxId !== sandboxId)
    throw new CrispError(
      'InvalidArgument',
      `namespace_options.target_id: container ${target.id} is in another pod`,
    );
  return target.pid;
}

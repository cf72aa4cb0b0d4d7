// CheckpointContainer, and the calls for whole pods, which are refused.
import { existsSync, lstatSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CrispError } from '../errors.js';
import { writeCheckpoint } from '../images/checkpoint.js';
import { log } from '../log.js';
import { checkedPath } from '../oci/paths.js';
import type { CheckpointContainerRequest__Output } from './generated/runtime/v1/CheckpointContainerRequest.js';
import type { CheckpointContainerResponse } from './generated/runtime/v1/CheckpointContainerResponse.js';
import type { CheckpointPodRequest__Output } from './generated/runtime/v1/CheckpointPodRequest.js';
import type { CheckpointPodResponse } from './generated/runtime/v1/CheckpointPodResponse.js';
import type { RestorePodRequest__Output } from './generated/runtime/v1/RestorePodRequest.js';
import type { RestorePodResponse } from './generated/runtime/v1/RestorePodResponse.js';
import { backendOf, refOf, runningContainerOf } from './lookup.js';
import type { Services } from './services.js';

/** What these calls use. */
type Used = Pick<Services, 'config' | 'store' | 'creations' | 'locks' | 'handlers' | 'rootfs'>;

/** The default (timeout 0). */
const defaultTimeoutSeconds = 60;

/**
 * CheckpointContainer (KEP-2008): writes an archive to `location`, while the container keeps running.
 * @throws InvalidArgument, WrongContainerState, Unsupported
 */
export async function checkpointContainer(
  services: Used,
  request: CheckpointContainerRequest__Output,
): Promise<CheckpointContainerResponse> {
  const record = runningContainerOf(services, request.container_id);
  const { location } = request;
  checkedPath(location, 'location');
  if (Number(request.timeout) < 0)
    throw new CrispError('InvalidArgument', `timeout is ${request.timeout} s: it must not be negative`);
  if (!existsSync(dirname(location)))
    throw new CrispError('InvalidArgument', `location: there is no folder ${dirname(location)}`);
  if (lstatSync(location, { throwIfNoEntry: false }))
    throw new CrispError('InvalidArgument', `location: ${location} exists already`);
  const timeoutMs = Math.min((Number(request.timeout) || defaultTimeoutSeconds) * 1000, 2 ** 31 - 1); // the range of a timer
  await services.locks.with(record.sandboxId, () =>
    writeCheckpoint(location, services.config.root, {
      dump: (folder) => backendOf(services, record).checkpoint(refOf(record), folder, timeoutMs),
      spec: join(record.folder, 'config.json'),
      written: services.rootfs.written(record.id),
      timeoutMs,
      config: {
        id: record.id,
        name: record.config.metadata?.name,
        rootfsImage: record.imageId,
        rootfsImageRef: record.imageRef,
        rootfsImageName: record.config.image?.user_specified_image || record.config.image?.image,
        runtime: record.handler,
        createdTime: new Date(Number(BigInt(record.createdAt) / 1_000_000n)).toISOString(),
        checkpointedTime: new Date().toISOString(),
      },
    }),
  );
  log.info({ location }, 'container checkpointed');
  return {};
}

/** CheckpointPod: not supported. @throws Unsupported */
export async function checkpointPod(
  _services: Used,
  _request: CheckpointPodRequest__Output,
): Promise<CheckpointPodResponse> {
  throw new CrispError(
    'Unsupported',
    'checkpoints of whole pods are not supported: criu freezes one container at a time, so its members would disagree',
  );
}

/** RestorePod: not supported. @throws Unsupported */
export async function restorePod(
  _services: Used,
  _request: RestorePodRequest__Output,
): Promise<RestorePodResponse> {
  throw new CrispError('Unsupported', 'there are no pod checkpoints to restore: see CheckpointPod');
}

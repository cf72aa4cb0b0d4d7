// Records -> CRI messages; each depends only on its record.
import { ofRecord } from './encoded.js';
import type { Container } from './generated/runtime/v1/Container.js';
import type { ContainerStatus } from './generated/runtime/v1/ContainerStatus.js';
import type { PodSandbox } from './generated/runtime/v1/PodSandbox.js';
import type { PodSandboxStatus } from './generated/runtime/v1/PodSandboxStatus.js';
import {
  containerState,
  sandboxState,
  type ContainerRecord,
  type SandboxRecord,
} from '../records/records.js';

/** A pod in the answer of ListPodSandbox. */
export const sandboxItem = ofRecord((record: SandboxRecord): PodSandbox => {
  const { metadata, labels, annotations } = record.config;
  return {
    id: record.id,
    metadata,
    labels,
    annotations,
    state: sandboxState(record),
    created_at: record.createdAt,
    runtime_handler: record.runtimeHandler,
  };
});

/** The status of a pod; a pod that is not ready has no addresses. */
export const sandboxStatus = ofRecord((record: SandboxRecord): PodSandboxStatus => {
  const ready = sandboxState(record) === 'SANDBOX_READY';
  const [ip, ...more] = ready ? (record.attachment?.ips ?? record.ips ?? []) : [];
  return {
    ...sandboxItem(record),
    network: { ip: ip ?? '', additional_ips: more.map((address) => ({ ip: address })) },
    linux: {
      namespaces: {
        options: record.config.linux?.security_context?.namespace_options ?? {
          network: 'POD',
          pid: 'CONTAINER',
          ipc: 'POD',
        },
      },
    },
  };
});

/** A container in the answer of ListContainers. */
export const containerItem = ofRecord((record: ContainerRecord): Container => {
  const { metadata, image, labels, annotations } = record.config;
  return {
    id: record.id,
    pod_sandbox_id: record.sandboxId,
    metadata,
    image,
    labels,
    annotations,
    image_ref: record.imageRef,
    image_id: record.imageId,
    state: containerState(record),
    created_at: record.createdAt,
  };
});

/** The status of a container; times are nanoseconds since the epoch, 0 if it has not happened. */
export const containerStatus = ofRecord((record: ContainerRecord): ContainerStatus => {
  const { metadata, image, labels, annotations, mounts } = record.config;
  return {
    id: record.id,
    metadata,
    // A kubelet creates containers by the id of an image, but users need its name.
    image: image && { ...image, image: record.imageName ?? image.image },
    labels,
    annotations,
    // KEP-5365: the image from which a volume was mounted
    mounts: mounts.map((mount, index) =>
      record.imageVolumes[index]
        ? { ...mount, image: { ...mount.image, image_ref: record.imageVolumes[index] } }
        : mount,
    ),
    image_ref: record.imageRef,
    image_id: record.imageId,
    state: containerState(record),
    created_at: record.createdAt,
    started_at: record.startedAt ?? '0',
    finished_at: record.exit?.finishedAt ?? '0',
    exit_code: record.exit?.exitCode ?? 0,
    reason: record.exit?.reason ?? (record.unwatchedAt ? 'MonitorLost' : ''),
    message:
      record.exit?.message ??
      (record.unwatchedAt
        ? 'the monitor of the container has ended: its log is cut, and its exit code may be lost'
        : ''),
    log_path: record.logPath,
    resources: record.resources ? { linux: record.resources } : null,
    user: {
      linux: {
        uid: record.user.uid,
        gid: record.user.gid,
        supplemental_groups: record.user.supplementalGroups,
      },
    },
    stop_signal: record.stopSignal,
  };
});

/** The id of a filter is a full id (wholeId in services.ts); a label selector must match completely. */
export function matches(
  item: { id: string; labels: Record<string, string> },
  filter: { id: string; label_selector: Record<string, string> } | null,
): boolean {
  if (!filter) return true;
  return (
    (!filter.id || item.id === filter.id) &&
    Object.entries(filter.label_selector).every(([key, value]) => item.labels[key] === value)
  );
}

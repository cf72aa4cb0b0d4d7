// The paths of a record, made from its id and never taken from the record. Used
// wherever records are read: from the state folder, and from recovery labels.
import { join } from 'node:path';
import type { SandboxPlan } from '../shapes/sandbox.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { namespaceFiles } from '../pod/namespaces.js';
import { ownCgroupParent } from '../oci/namespaces.js';
import type { ContainerRecord, SandboxRecord, StoredContainer, StoredSandbox } from './records.js';

/** @throws for a cgroup that is neither from the request nor made by crisp */
export function placedSandbox(stored: StoredSandbox, state: string): SandboxRecord {
  const { id, config, plan, holder } = stored;
  const { cgroupParent } = plan;
  const possible = config.linux?.cgroup_parent
    ? [config.linux.cgroup_parent]
    : [false, true].map((systemd) => ownCgroupParent(id, systemd));
  if (!possible.includes(cgroupParent)) throw new Error(`plan.cgroupParent: ${cgroupParent} is not its own`);
  const folder = podOf(state, id);
  const pinned = namespaceFiles(join(folder, 'ns'));
  const namespaces: Record<string, string> = Object.fromEntries(
    Object.entries(pinned).filter(([kind]) => kind in plan.namespaces),
  );
  if ('pid' in plan.namespaces && holder) namespaces['pid'] = `/proc/${holder.pid}/ns/pid`;
  return {
    ...stored,
    plan: {
      ...identityOf(id, config),
      folder,
      namespaces,
      ...(plan.idMaps ? { idMaps: plan.idMaps } : {}),
      ...(plan.ownNetwork === undefined ? {} : { ownNetwork: plan.ownNetwork }),
      cgroupParent,
    },
  };
}

/** The parts of a pod's plan that follow from the request alone. */
export function identityOf(
  id: string,
  config: PodSandboxConfig__Output,
): Omit<SandboxPlan, 'folder' | 'namespaces' | 'cgroupParent'> {
  return {
    id,
    name: config.metadata?.name ?? '',
    namespace: config.metadata?.namespace ?? '',
    uid: config.metadata?.uid ?? '',
    attempt: config.metadata?.attempt ?? 0,
    labels: config.labels,
    annotations: config.annotations,
    hostname: config.hostname || undefined,
  };
}

/**
 * @param sandbox its pod; undefined: not known
 * @throws if its log is not at the path of both requests
 */
export function placedContainer(
  stored: StoredContainer,
  state: string,
  sandbox: SandboxRecord | undefined,
): ContainerRecord {
  const { logPath, config } = stored;
  if (logPath && sandbox && logPath !== join(sandbox.config.log_directory, config.log_path))
    throw new Error(`logPath: ${logPath} does not match the request`);
  return { ...stored, folder: bundleOf(state, stored.id) };
}

/** The bundle of a container. @param id an id, or the name of a file */
export function bundleOf(state: string, id: string): string {
  return join(state, 'bundles', id);
}

/** The folder of a pod. @param id an id, or the name of a file */
export function podOf(state: string, id: string): string {
  return join(state, 'pods', id);
}

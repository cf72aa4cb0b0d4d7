// The namespaces and the cgroup of a container. Pure.
import type { IdMaps, SandboxPlan } from '../shapes/sandbox.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import type { NamespaceOption__Output } from '../cri/generated/runtime/v1/NamespaceOption.js';
import type { UserNamespace__Output } from '../cri/generated/runtime/v1/UserNamespace.js';
import { CrispError } from '../errors.js';
import type { HostFacts } from './host-facts.js';
import type { IdMapping, Linux, Namespace } from '../shapes/spec.js';

export interface NamespacesInput {
  readonly options: NamespaceOption__Output | null;
  readonly plan: SandboxPlan;
  /** For pid mode TARGET: a process of the target container. */
  readonly targetPid: number | undefined;
  readonly privileged: boolean;
  readonly cgroup: HostFacts['cgroup'];
}

/**
 * The pod's pinned namespaces are joined by path; a namespace that is not in
 * the list is the host's. The network is always the pod's, or a new one if
 * its containers have networks of their own.
 * @throws InvalidArgument for TARGET without a target
 */
export function containerNamespaces({
  options,
  plan,
  targetPid,
  privileged,
  cgroup,
}: NamespacesInput): Namespace[] {
  const { network, ipc, uts, pid, user } = plan.namespaces;
  const joined = (
    [
      ['network', network],
      ['uts', uts],
      ['user', user],
    ] as const
  ).flatMap(([type, path]): Namespace[] => (path ? [{ type, path }] : []));
  const own: Namespace[] = plan.ownNetwork ? [{ type: 'network' }] : [];
  return [{ type: 'mount' }, ...joined, ...own, ...ipcNamespace(), ...pidNamespace(), ...cgroupNamespace()];

  function ipcNamespace(): Namespace[] {
    if (options?.ipc === 'CONTAINER') return [{ type: 'ipc' }];
    return ipc ? [{ type: 'ipc', path: ipc }] : [];
  }
  function pidNamespace(): Namespace[] {
    switch (options?.pid) {
      case 'NODE':
        return [];
      case 'TARGET':
        if (targetPid === undefined)
          throw new CrispError(
            'InvalidArgument',
            'namespace_options.pid is TARGET, but namespace_options.target_id is not a running container',
          );
        return [{ type: 'pid', path: `/proc/${targetPid}/ns/pid` }];
      case 'POD':
        return pid ? [{ type: 'pid', path: pid }] : [{ type: 'pid' }];
      default:
        return [{ type: 'pid' }];
    }
  }
  /**
   * v1 has a mount per controller, and a cgroup namespace would not change the paths that tools read in it; a
   * privileged container manages the host's tree.
   */
  function cgroupNamespace(): Namespace[] {
    return hasCgroupNamespace(privileged, cgroup) ? [{ type: 'cgroup' }] : [];
  }
}

/** Whether the pod is on the host's network. */
export function onHostNetwork({ namespaces, ownNetwork }: SandboxPlan): boolean {
  return namespaces.network === undefined && !ownNetwork;
}

/**
 * Whether a container has a cgroup namespace of its own. On v1 and when privileged it sees the tree of the
 * host.
 */
export function hasCgroupNamespace(privileged: boolean, cgroup: HostFacts['cgroup']): boolean {
  return cgroup === 'v2' && !privileged;
}

/**
 * Modes of a container that its pod does not have: a container cannot leave or widen the namespaces of its
 * pod.
 */
export function namespacesNotHonoured(options: NamespaceOption__Output | null, plan: SandboxPlan): string[] {
  if (!options) return [];
  const { ipc, pid } = plan.namespaces;
  return [
    ...(options.network === 'CONTAINER' || (options.network === 'NODE') !== onHostNetwork(plan)
      ? ['network']
      : []),
    ...(options.ipc !== 'CONTAINER' && (options.ipc === 'NODE') !== (ipc === undefined) ? ['ipc'] : []),
    ...(options.pid === 'POD' && pid === undefined ? ['pid'] : []),
  ];
}

/**
 * Root of such a pod is meant to be root of the host, so it gets a user namespace only if it requests one.
 */
export function sharesWithHost(config: PodSandboxConfig__Output): boolean {
  const security = config.linux?.security_context;
  const { network, ipc, pid } = security?.namespace_options ?? {};
  return (security?.privileged ?? false) || [network, ipc, pid].includes('NODE');
}

/** The host id of a user namespace's root group; undefined without a user namespace. */
export function rootGroupOf(idMaps: IdMaps | undefined): number | undefined {
  return idMaps?.gids[0]?.hostID;
}

type Mappings = Pick<Linux, 'uidMappings' | 'gidMappings'>;

/**
 * The mappings of a pod's user namespace; empty for the host's.
 * @throws InvalidArgument for a mode or mappings that no runtime supports
 */
export function userMappings(options: UserNamespace__Output | null | undefined): Mappings {
  if (!options || options.mode === 'NODE') {
    if (options?.uids.length || options?.gids.length)
      throw new CrispError('InvalidArgument', 'userns_options: mode NODE has no mappings');
    return {};
  }
  if (options.mode !== 'POD')
    throw new CrispError('InvalidArgument', `userns_options.mode must be POD or NODE, not ${options.mode}`);
  const convert = (field: 'uids' | 'gids'): IdMapping[] => {
    const maps = idMappings(options[field]);
    const [only] = maps;
    if (maps.length !== 1 || only === undefined)
      throw new CrispError(
        'InvalidArgument',
        `userns_options.${field} must have exactly one mapping, not ${maps.length}`,
      );
    if (only.containerID !== 0)
      throw new CrispError(
        'InvalidArgument',
        `userns_options.${field}: the mapping must begin at container id 0`,
      );
    if (only.size === 0)
      throw new CrispError('InvalidArgument', `userns_options.${field}: the mapping is empty`);
    return maps;
  };
  return { uidMappings: convert('uids'), gidMappings: convert('gids') };
}

/** The mappings of a user namespace: from the CRI to config.json. */
export function idMappings(
  maps: readonly { container_id: number; host_id: number; length: number }[],
): IdMapping[] {
  return maps.map((map) => ({ containerID: map.container_id, hostID: map.host_id, size: map.length }));
}

/** The cgroup of a pod without a cgroup parent; systemd reads "-" in a slice's name as a level. */
export function ownCgroupParent(sandboxId: string, systemd: boolean): string {
  return systemd ? `/crisp.slice/crisp-${sandboxId}.slice` : `/crisp/${sandboxId}`;
}

/**
 * Or a cgroup that several pods share. crisp's own groups are named by the sandbox, the kubelet's by the pod:
 * pod<UID>, with _ for - in the names of slices.
 */
export function isPodsOwnCgroup({ id, uid, cgroupParent }: SandboxPlan): boolean {
  const last = cgroupParent.split('/').at(-1) ?? '';
  return last.includes(id) || (uid !== '' && (last.includes(uid) || last.includes(uid.replaceAll('-', '_'))));
}

/**
 * cgroupsPath for the driver: PARENT/ID, or SLICE:PREFIX:ID for systemd (the
 * format of crun and runc).
 * @throws InvalidArgument for a parent of the other driver
 */
export function cgroupsPath(parent: string, containerId: string, systemd: boolean): string {
  if (!systemd) return `${parent.replace(/\/+$/, '')}/${containerId}`;
  const slice = parent.split('/').filter(Boolean).at(-1) ?? 'system.slice';
  if (!slice.endsWith('.slice')) {
    throw new CrispError(
      'InvalidArgument',
      `cgroup_parent "${parent}" is not a slice, but crisp uses the systemd cgroup driver`,
      { hint: 'configure the same cgroup driver for the kubelet and crisp' },
    );
  }
  return `${slice}:crisp:${containerId}`;
}

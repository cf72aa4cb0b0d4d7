// The spec of a container: the request, the image, the pod and the host become
// one config.json.  Pure: everything that must be looked up comes in.
import type { SandboxPlan } from '../backends/backend.js';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { containerCapabilities } from './capabilities.js';
import { containerDevices } from './devices.js';
import type { HostFacts } from './host-facts.js';
import type { ImageConfig } from './image-config.js';
import type { RootfsFacts } from './inspect.js';
import { containerMounts } from './mounts.js';
import { cgroupsPath, containerNamespaces } from './namespaces.js';
import { containerArgs, containerEnv, workingFolder } from './process.js';
import { containerResources } from './resources.js';
import { containerAppArmor, containerSeccomp, selinuxLabel } from './security.js';
import type { Spec } from './spec.js';
import { resolveUser } from './users.js';

export interface SpecInput {
  readonly config: ContainerConfig__Output;
  readonly sandbox: PodSandboxConfig__Output;
  readonly image: ImageConfig;
  readonly plan: SandboxPlan;
  readonly containerId: string;
  readonly rootfs: string;
  readonly facts: RootfsFacts;
  readonly host: HostFacts;
  /** With the pod's resolv.conf and hostname. */
  readonly podFolder: string;
  /** The pod's /dev/shm; undefined: the host's. */
  readonly sharedMemory: string | undefined;
  /** A process of the target container, for pid mode TARGET. */
  readonly targetPid?: number | undefined;
}

export interface SpecResult {
  readonly spec: Spec;
  readonly user: { uid: number; gid: number; supplementalGroups: number[] };
  /** Fields of the request that were asked for and are not honoured. */
  readonly notHonoured: string[];
}

/** The lowest and highest the kernel takes (proc(5)). */
const oomScoreRange = [-1000, 1000] as const;

/** @throws InvalidArgument, UserNotFound, UnsupportedField, PathEscapes */
export function containerSpec(input: SpecInput): SpecResult {
  const { config, sandbox, image, plan, facts, host } = input;
  const security = config.linux?.security_context ?? null;
  const podSecurity = sandbox.linux?.security_context ?? null;
  const privileged = security?.privileged ?? false;
  const notHonoured: string[] = [];

  // 1. Who runs, and with which rights.
  const { home, ...user } = resolveUser(security, podSecurity, image.User ?? '', facts.accounts);
  const { capabilities, missing } = containerCapabilities(security?.capabilities ?? null, privileged, host.capabilities);
  if (missing.length) notHonoured.push('linux.security_context.capabilities');
  const apparmor = containerAppArmor(security, privileged, host);
  const selinux = selinuxLabel(security?.selinux_options ?? null, podSecurity?.selinux_options ?? null, host);
  notHonoured.push(...apparmor.notHonoured, ...selinux.notHonoured);
  const seccomp = containerSeccomp(security, privileged, capabilities.bounding, host);

  // 2. What it may use.
  const wanted = config.linux?.resources;
  const { devices, rules } = containerDevices(facts, privileged);
  const resources = { ...(wanted ? containerResources(wanted, host) : {}), devices: rules };
  if (wanted && Number(wanted.memory_swap_limit_in_bytes) > 0 && !host.swapAccounting) notHonoured.push('linux.resources.memory_swap_limit_in_bytes');
  const oomScoreAdj = Math.min(oomScoreRange[1], Math.max(Number(wanted?.oom_score_adj ?? 0), host.lowestOomScoreAdj));
  if (wanted && oomScoreAdj !== Number(wanted.oom_score_adj)) notHonoured.push('linux.resources.oom_score_adj');

  // 3. What it sees.
  const options = security?.namespace_options ?? null;
  const namespaces = containerNamespaces(options, plan, input.targetPid, host);
  const userns = podSecurity?.namespace_options?.userns_options;
  const { mounts, rootfsPropagation } = containerMounts({
    config, facts: facts.mounts, privileged, readOnlyRootfs: security?.readonly_rootfs ?? false,
    hostNetwork: plan.namespaces.network === undefined, sharedMemory: input.sharedMemory, podFolder: input.podFolder,
    hasUserNamespace: plan.namespaces.user !== undefined, cgroup: host.cgroup,
  });
  if (config.mounts.some((mount) => mount.selinux_relabel) && !host.selinux) notHonoured.push('mounts.selinux_relabel');

  const spec: Spec = {
    ociVersion: '1.0.2',
    process: {
      terminal: config.tty,
      user: { uid: user.uid, gid: user.gid, ...(user.supplementalGroups.length ? { additionalGids: user.supplementalGroups } : {}) },
      args: containerArgs(config, image), env: containerEnv(config, image, sandbox.hostname, home), cwd: workingFolder(config, image),
      capabilities, noNewPrivileges: security?.no_new_privs ?? false, oomScoreAdj,
      ...(apparmor.profile ? { apparmorProfile: apparmor.profile } : {}), ...(selinux.label ? { selinuxLabel: selinux.label } : {}),
    },
    root: { path: input.rootfs, readonly: security?.readonly_rootfs ?? false },
    mounts,
    annotations: annotations(input),
    linux: {
      namespaces, devices, resources, cgroupsPath: cgroupsPath(plan.cgroupParent, input.containerId, host.systemdCgroup),
      ...(rootfsPropagation ? { rootfsPropagation } : {}),
      ...(seccomp ? { seccomp } : {}),
      ...(privileged ? {} : { maskedPaths: security?.masked_paths ?? [], readonlyPaths: security?.readonly_paths ?? [] }),
      ...(plan.namespaces.user && userns ? {
        uidMappings: userns.uids.map((map) => ({ containerID: map.container_id, hostID: map.host_id, size: map.length })),
        gidMappings: userns.gids.map((map) => ({ containerID: map.container_id, hostID: map.host_id, size: map.length })),
      } : {}),
    },
  };
  return { spec, user, notHonoured };
}

/** For tools that read config.json or the runtime's state: which pod and container this is. */
function annotations({ config, plan, containerId }: SpecInput): Record<string, string> {
  return {
    ...config.annotations,
    'io.crisp.container-id': containerId, 'io.crisp.container-name': config.metadata?.name ?? '', 'io.crisp.image': config.image?.user_specified_image || (config.image?.image ?? ''),
    'io.crisp.sandbox-id': plan.id, 'io.crisp.pod-name': plan.name, 'io.crisp.pod-namespace': plan.namespace, 'io.crisp.pod-uid': plan.uid,
  };
}

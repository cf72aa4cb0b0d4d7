// The spec of a container: makes config.json from the request, the image, the
// pod and the host. Pure: the caller provides all facts.
import { isDeepStrictEqual } from 'node:util';
import type { SandboxPlan } from '../shapes/sandbox.js';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { CrispError } from '../errors.js';
import { pattern } from '../config/pattern.js';
import { containerCapabilities } from './capabilities.js';
import { containerDevices } from './devices.js';
import { hiddenPaths } from './hidden-paths.js';
import type { HostFacts } from './host-facts.js';
import type { ImageConfig } from '../shapes/image-config.js';
import type { RootfsFacts } from './inspect.js';
import { containerMounts, type MountFeatures, type Volume } from './mounts.js';
import {
  cgroupsPath,
  containerNamespaces,
  namespacesNotHonoured,
  onHostNetwork,
  userMappings,
} from './namespaces.js';
import { containerArgs, containerEnv, workingFolder } from './process.js';
import { containerResources, resourcesNotHonoured } from './resources.js';
import { containerAppArmor, containerSeccomp, selinuxLabels } from './security.js';
import type { Resources, Spec } from '../shapes/spec.js';
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
  /** With the pod's resolv.conf, hosts and hostname. */
  readonly podFolder: string;
  /** The VOLUMEs of the image, which already exist. */
  readonly volumes: readonly Volume[];
  /** The pod's /dev/shm; undefined: the host's. */
  readonly sharedMemory: string | undefined;
  /** A process of the target container, for pid mode TARGET. */
  readonly targetPid?: number | undefined;
  /** The keys of the annotations that the runtime may see (allowed_annotations of its handler). */
  readonly allowedAnnotations: readonly string[];
  /**
   * The result of the runtime's probe; absent: every feature is assumed to be supported, as for `crisp
   * explain`.
   */
  readonly features?: MountFeatures | undefined;
}

export interface SpecResult {
  readonly spec: Spec;
  readonly user: { uid: number; gid: number; supplementalGroups: number[] };
  /** Fields of the request that are not honoured. */
  readonly notHonoured: string[];
}

/** @throws InvalidArgument, UserNotFound, UnsupportedField, RROUnsupported */
export function containerSpec(input: SpecInput): SpecResult {
  const { config, sandbox, image, plan, facts, host } = input;
  const security = config.linux?.security_context ?? null;
  const podSecurity = sandbox.linux?.security_context ?? null;
  const privileged = security?.privileged ?? false;
  checkAgainstPod(config, sandbox);

  // 1. The user and the privileges.
  const { home, ...user } = resolveUser(security, podSecurity, image.User ?? '', facts.accounts);
  const additionalGids = [...new Set([...user.supplementalGroups, ...facts.cdi.additionalGids])];
  const { capabilities, missing } = containerCapabilities(security?.capabilities ?? null, privileged, host);
  const apparmor = containerAppArmor(security, host, facts.apparmorProfiles);
  const selinux = selinuxLabels(
    security?.selinux_options ?? null,
    podSecurity?.selinux_options ?? null,
    host,
  );
  const seccomp = containerSeccomp(security, capabilities.bounding, host, facts.seccompProfile);

  // 2. Devices and resources.
  const wanted = config.linux?.resources;
  const { devices, rules } = containerDevices(
    [...facts.devices, ...facts.cdi.devices],
    facts.hostDevices,
    privileged,
  );
  const resources = {
    ...(wanted ? withoutEndlessQuota(containerResources(wanted, host)) : {}),
    devices: rules,
  };
  const oomScoreAdj = oomScore(wanted?.oom_score_adj ?? '0', host.lowestOomScoreAdj);

  // 3. Mounts and namespaces.
  const options = security?.namespace_options ?? null;
  const namespaces = containerNamespaces({
    options,
    plan,
    targetPid: input.targetPid,
    privileged,
    cgroup: host.cgroup,
  });
  const mappings = plan.namespaces.user ? userMappings(podSecurity?.namespace_options?.userns_options) : {};
  const { mounts, rootfsPropagation } = containerMounts({
    config,
    facts: facts.mounts,
    privileged,
    readOnlyRootfs: security?.readonly_rootfs ?? false,
    hostNetwork: onHostNetwork(plan),
    hasUserNamespace: plan.namespaces.user !== undefined,
    sharedMemory: input.sharedMemory,
    hasOwnIpc: options?.ipc === 'CONTAINER',
    podFolder: input.podFolder,
    volumes: input.volumes,
    cgroup: host.cgroup,
    deviceMounts: facts.cdi.mounts,
    features: input.features ?? { recursiveReadOnlyMounts: true, userNamespaces: true },
  });

  // 4. Requested settings that are not supported.
  const below = (path: string, fields: readonly string[]): string[] =>
    fields.map((field) => `${path}.${field}`);
  const notHonoured = [
    ...(missing.length
      ? [privileged ? 'linux.security_context.privileged' : 'linux.security_context.capabilities']
      : []),
    ...selinux.notHonoured,
    ...facts.cdi.notHonoured,
    ...(wanted ? below('linux.resources', resourcesNotHonoured(wanted, host)) : []),
    ...(wanted && oomScoreAdj !== Number(wanted.oom_score_adj) ? ['linux.resources.oom_score_adj'] : []),
    ...below('linux.security_context.namespace_options', namespacesNotHonoured(options, plan)),
    ...(config.mounts.some((mount) => mount.selinux_relabel) && host.selinux
      ? ['mounts.selinux_relabel']
      : []),
    ...(config.windows ? ['windows'] : []),
  ];

  // 5. The spec in the runtime's format.
  const spec: Spec = {
    ociVersion: '1.0.2', // accepted by the oldest supported runtimes (crun 1.8, runc 1.1); none requires a higher version for later fields
    process: {
      terminal: config.tty,
      user: { uid: user.uid, gid: user.gid, ...(additionalGids.length ? { additionalGids } : {}) },
      args: containerArgs(config, image),
      env: containerEnv(config, image, {
        hostname: plan.hostname ?? host.hostname,
        home,
        devices: facts.cdi.env,
      }),
      cwd: workingFolder(config, image),
      capabilities,
      noNewPrivileges: security?.no_new_privs ?? false,
      oomScoreAdj,
      ...(host.rlimits.length ? { rlimits: [...host.rlimits] } : {}),
      ...(apparmor ? { apparmorProfile: apparmor } : {}),
      ...(selinux.process ? { selinuxLabel: selinux.process } : {}),
    },
    root: { path: input.rootfs, readonly: security?.readonly_rootfs ?? false },
    mounts,
    ...(Object.keys(facts.cdi.hooks).length ? { hooks: facts.cdi.hooks } : {}),
    annotations: annotations(input),
    linux: {
      namespaces,
      ...mappings,
      devices,
      resources,
      cgroupsPath: cgroupsPath(plan.cgroupParent, input.containerId, host.systemdCgroup),
      ...(rootfsPropagation ? { rootfsPropagation } : {}),
      ...(seccomp ? { seccomp } : {}),
      ...(selinux.mount ? { mountLabel: selinux.mount } : {}),
      ...hiddenPaths(security, sandbox),
    },
  };
  return { spec, user, notHonoured };
}

/**
 * A quota of -1 (set by a kubelet for exclusive CPUs) is the default of a new group, and crun 1.8 fails on it
 * with cgroup v1. In an update it removes a quota.
 */
function withoutEndlessQuota({ cpu, ...others }: Resources): Resources {
  const { quota, ...rest } = cpu ?? {};
  const kept = quota === undefined || quota < 0 ? rest : { ...rest, quota };
  return { ...others, ...(Object.keys(kept).length ? { cpu: kept } : {}) };
}

/** Settings that a container may only have if its pod has them. */
function checkAgainstPod(config: ContainerConfig__Output, sandbox: PodSandboxConfig__Output): void {
  const security = config.linux?.security_context;
  const podSecurity = sandbox.linux?.security_context;
  if (security?.privileged && !podSecurity?.privileged)
    throw new CrispError(
      'InvalidArgument',
      'security_context.privileged: the pod of this container is not privileged',
    );
  const own = security?.namespace_options?.userns_options;
  if (
    own &&
    !isDeepStrictEqual(userMappings(own), userMappings(podSecurity?.namespace_options?.userns_options))
  ) {
    throw new CrispError(
      'InvalidArgument',
      'security_context.namespace_options.userns_options differ from those of the pod',
    );
  }
}

/** @param lowest the lowest value that crisp can set; a process may only raise its own */
function oomScore(text: string, lowest: number): number {
  const wanted = Number(text);
  if (!Number.isInteger(wanted) || wanted < -1000 || wanted > 1000)
    throw new CrispError('InvalidArgument', `resources.oom_score_adj: ${text} is not between -1000 and 1000`);
  return Math.max(wanted, lowest);
}

/**
 * The annotations that the operator allows, with precedence for the container's:
 * a runtime may act on annotations (crun's run.oci.* add hooks), so none is
 * passed by default. And crisp's own, which identify the pod and the container
 * for tools that read config.json.
 */
function annotations({
  config,
  plan,
  containerId,
  host,
  allowedAnnotations,
}: SpecInput): Record<string, string> {
  const allowed = Object.entries({ ...plan.annotations, ...config.annotations }).filter(([key]) =>
    allowedAnnotations.some((text) => pattern(text)(key)),
  );
  return {
    ...(host.systemdCgroup ? scopeProperties(config) : {}),
    ...Object.fromEntries(allowed),
    'io.crisp.container-id': containerId,
    'io.crisp.container-name': config.metadata?.name ?? '',
    'io.crisp.image': config.image?.user_specified_image || (config.image?.image ?? ''),
    'io.crisp.sandbox-id': plan.id,
    'io.crisp.pod-name': plan.name,
    'io.crisp.pod-namespace': plan.namespace,
    'io.crisp.pod-uid': plan.uid,
  };
}

/**
 * Properties of the scope that systemd makes for the container, in the format of
 * crun and runc. systemd's defaults are 15 % of the host's processes, and 90 s
 * for a container that ignores SIGTERM during a shutdown of the host.
 */
function scopeProperties({
  linux,
  annotations: { [gracePeriodAnnotation]: graceSeconds = '' },
}: ContainerConfig__Output): Record<string, string> {
  const limitsTasks = linux?.resources?.unified['pids.max'] !== undefined;
  return {
    ...(limitsTasks ? {} : { 'org.systemd.property.TasksMax': 'uint64 18446744073709551615' }),
    ...(/^\d{1,9}$/.test(graceSeconds)
      ? { 'org.systemd.property.TimeoutStopUSec': `uint64 ${Number(graceSeconds) * 1_000_000}` }
      : {}),
  };
}
/** Seconds; the kubelet sets it for every container. */
const gracePeriodAnnotation = 'io.kubernetes.pod.terminationGracePeriod';

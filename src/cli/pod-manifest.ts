// A Kubernetes Pod -> the CRI messages that a kubelet would send for it, as far
// as they can be known without a cluster.  Pure; for `crisp explain`.  What is
// only known in a cluster (ConfigMaps, Secrets, volumes other than hostPath,
// the mapping of RuntimeClass names) is said in `notes`.

export interface Pod {
  readonly metadata?: { name?: string; namespace?: string; uid?: string; labels?: Record<string, string>; annotations?: Record<string, string> };
  readonly spec?: PodSpec;
}
interface PodSpec {
  runtimeClassName?: string; hostNetwork?: boolean; hostPID?: boolean; hostIPC?: boolean; hostUsers?: boolean; shareProcessNamespace?: boolean; hostname?: string;
  securityContext?: Security & { sysctls?: { name: string; value: string }[]; supplementalGroups?: number[]; fsGroup?: number };
  containers?: Container[]; initContainers?: Container[]; volumes?: Volume[];
}
interface Container {
  name?: string; image?: string; command?: string[]; args?: string[]; workingDir?: string; stdin?: boolean; stdinOnce?: boolean; tty?: boolean;
  env?: { name: string; value?: string; valueFrom?: unknown }[]; envFrom?: unknown[];
  volumeMounts?: { name: string; mountPath: string; readOnly?: boolean; subPath?: string; mountPropagation?: string; recursiveReadOnly?: string }[];
  resources?: { limits?: Record<string, string | number>; requests?: Record<string, string | number> };
  securityContext?: Security & { privileged?: boolean; readOnlyRootFilesystem?: boolean; allowPrivilegeEscalation?: boolean; procMount?: string; capabilities?: { add?: string[]; drop?: string[] } };
}
interface Security { runAsUser?: number; runAsGroup?: number; seccompProfile?: Profile; appArmorProfile?: Profile; seLinuxOptions?: Record<string, string> }
interface Profile { type?: string; localhostProfile?: string }
interface Volume { name: string; hostPath?: { path: string }; emptyDir?: unknown; image?: { reference: string } }

export interface CriPod {
  /** The RuntimeClass, which mostly has the name of its handler. */
  readonly handler: string;
  readonly sandbox: object;
  readonly containers: readonly { readonly name: string; readonly config: object }[];
  readonly notes: readonly string[];
}

/** What the kubelet hides in a container that is not privileged and has the default procMount. */
export const maskedPaths: readonly string[] = [
  '/proc/asound', '/proc/acpi', '/proc/interrupts', '/proc/kcore', '/proc/keys', '/proc/latency_stats', '/proc/timer_list',
  '/proc/timer_stats', '/proc/sched_debug', '/proc/scsi', '/sys/firmware', '/sys/devices/virtual/powercap',
];
export const readonlyPaths: readonly string[] = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

export function criPod(pod: Pod): CriPod {
  const spec = pod.spec ?? {};
  const { name = '', namespace = 'default', uid = 'UID', labels = {}, annotations = {} } = pod.metadata ?? {};
  const notes: string[] = [];
  if (spec.runtimeClassName) notes.push(`the RuntimeClass ${spec.runtimeClassName} is taken to have a handler of the same name`);
  if (spec.securityContext?.fsGroup !== undefined) notes.push('fsGroup is the kubelet\'s work on volumes; the runtime sees it as a supplemental group');
  const namespaces = namespaceOptions(spec);
  const sandbox = {
    metadata: { name, namespace, uid, attempt: 0 }, hostname: spec.hostNetwork ? '' : spec.hostname ?? name,
    log_directory: `/var/log/pods/${namespace}_${name}_${uid}`, labels, annotations,
    dns_config: { servers: [], searches: [], options: [] },
    linux: {
      cgroup_parent: `/kubepods/pod${uid}`,
      sysctls: Object.fromEntries((spec.securityContext?.sysctls ?? []).map((sysctl) => [sysctl.name, sysctl.value])),
      security_context: { namespace_options: namespaces, ...selinux(spec.securityContext) },
    },
  };
  const all = [...(spec.initContainers ?? []), ...(spec.containers ?? [])];
  return { handler: spec.runtimeClassName ?? '', sandbox, containers: all.map((container) => ({ name: container.name ?? '', config: containerConfig(container, spec, namespaces, notes) })), notes };
}

function namespaceOptions(spec: PodSpec): object {
  return { network: spec.hostNetwork ? 'NODE' : 'POD', ipc: spec.hostIPC ? 'NODE' : 'POD', pid: spec.hostPID ? 'NODE' : spec.shareProcessNamespace ? 'POD' : 'CONTAINER' };
}

function containerConfig(container: Container, pod: PodSpec, namespaces: object, notes: string[]): object {
  const who = `container ${container.name}`;
  if (container.envFrom?.length || container.env?.some((entry) => entry.valueFrom)) notes.push(`${who}: variables from ConfigMaps, Secrets and fields are not known here`);
  const security = { ...pod.securityContext, ...container.securityContext };
  const privileged = security.privileged ?? false;
  const paths = privileged || container.securityContext?.procMount === 'Unmasked' ? { masked_paths: [], readonly_paths: [] } : { masked_paths: maskedPaths, readonly_paths: readonlyPaths };
  const groups = [...(pod.securityContext?.supplementalGroups ?? []), ...(pod.securityContext?.fsGroup === undefined ? [] : [pod.securityContext.fsGroup])];
  return {
    metadata: { name: container.name ?? '', attempt: 0 }, image: { image: container.image ?? '', user_specified_image: container.image ?? '' },
    command: container.command ?? [], args: container.args ?? [], working_dir: container.workingDir ?? '',
    envs: (container.env ?? []).filter((entry) => !entry.valueFrom).map(({ name, value = '' }) => ({ key: name, value: Buffer.from(value) })),
    mounts: (container.volumeMounts ?? []).flatMap((mount) => volumeMount(mount, pod.volumes ?? [], who, notes)),
    log_path: `${container.name}/0.log`, stdin: container.stdin ?? false, stdin_once: container.stdinOnce ?? false, tty: container.tty ?? false,
    linux: {
      resources: resources(container),
      security_context: {
        namespace_options: namespaces, privileged, readonly_rootfs: security.readOnlyRootFilesystem ?? false,
        no_new_privs: security.allowPrivilegeEscalation === false,
        capabilities: { add_capabilities: security.capabilities?.add ?? [], drop_capabilities: security.capabilities?.drop ?? [] },
        ...(security.runAsUser === undefined ? {} : { run_as_user: { value: String(security.runAsUser) } }),
        ...(security.runAsGroup === undefined ? {} : { run_as_group: { value: String(security.runAsGroup) } }),
        supplemental_groups: groups.map(String), ...selinux(security), ...paths,
        seccomp: profile(security.seccompProfile, 'Unconfined', '/var/lib/kubelet/seccomp/'),
        ...(security.appArmorProfile ? { apparmor: profile(security.appArmorProfile, 'RuntimeDefault', '') } : {}),
      },
    },
  };
}

/** Without one a kubelet asks for seccomp Unconfined (unless it has --seccomp-default). */
function profile(wanted: Profile | undefined, otherwise: string, folder: string): object {
  return { profile_type: wanted?.type ?? otherwise, localhost_ref: wanted?.localhostProfile ? `${folder}${wanted.localhostProfile}` : '' };
}

function selinux(security: Security | undefined): object {
  return security?.seLinuxOptions ? { selinux_options: security.seLinuxOptions } : {};
}

const propagations: Readonly<Record<string, string>> = { HostToContainer: 'PROPAGATION_HOST_TO_CONTAINER', Bidirectional: 'PROPAGATION_BIDIRECTIONAL' };

function volumeMount(mount: NonNullable<Container['volumeMounts']>[number], volumes: readonly Volume[], who: string, notes: string[]): object[] {
  const volume = volumes.find((candidate) => candidate.name === mount.name);
  const common = {
    container_path: mount.mountPath, readonly: mount.readOnly ?? false, propagation: propagations[mount.mountPropagation ?? ''] ?? 'PROPAGATION_PRIVATE',
    recursive_read_only: mount.recursiveReadOnly === 'Enabled' || mount.recursiveReadOnly === 'IfPossible',
  };
  if (volume?.image) return [{ ...common, readonly: true, image: { image: volume.image.reference }, image_sub_path: mount.subPath ?? '' }];
  if (volume?.hostPath) return [{ ...common, host_path: [volume.hostPath.path, mount.subPath].filter(Boolean).join('/') }];
  notes.push(`${who}: the kubelet prepares the volume ${mount.name}; its path on the host is a guess`);
  return [{ ...common, host_path: `/var/lib/kubelet/pods/UID/volumes/${mount.name}` }];
}

/** As the kubelet counts: shares from the request, quota from the limit, memory in bytes. */
function resources({ resources: { limits = {}, requests = {} } = {} }: Container): object {
  const cpuRequest = cpus(requests['cpu'] ?? limits['cpu']);
  const cpuLimit = cpus(limits['cpu']);
  return {
    cpu_shares: String(Math.max(2, Math.floor((cpuRequest ?? 0) * 1024))),
    ...(cpuLimit === undefined ? {} : { cpu_period: '100000', cpu_quota: String(Math.max(1000, Math.round(cpuLimit * 100_000))) }),
    ...(limits['memory'] === undefined ? {} : { memory_limit_in_bytes: String(quantity(limits['memory'])) }),
  };
}

function cpus(value: string | number | undefined): number | undefined {
  return value === undefined ? undefined : quantity(value);
}

const factors: Readonly<Record<string, number>> = { m: 1e-3, k: 1e3, M: 1e6, G: 1e9, T: 1e12, Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40 };

/** A Kubernetes quantity: "500m", "64Mi", 2. NaN: it is none. */
export function quantity(value: string | number): number {
  const [, number = 'NaN', suffix = ''] = /^([\d.]+(?:e\d+)?)([mkMGT]i?|Ki)?$/.exec(String(value)) ?? [];
  return Number(number) * (suffix === '' ? 1 : factors[suffix] ?? NaN);
}

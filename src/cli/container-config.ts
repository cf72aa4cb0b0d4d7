// The flags of `crisp run` and `crisp create` -> CRI messages, so that a
// standalone container is made by the same functions as a container of a pod.
// Pure.
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { LinuxContainerResources__Output } from '../cri/generated/runtime/v1/LinuxContainerResources.js';
import type { Mount__Output } from '../cri/generated/runtime/v1/Mount.js';
import type { NamespaceOption__Output } from '../cri/generated/runtime/v1/NamespaceOption.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { CrispError } from '../errors.js';
import { maskedPaths, readonlyPaths } from '../oci/hidden-paths.js';

/** The flags of a container. */
export interface ContainerWish {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  readonly env: readonly string[];
  readonly volume: readonly string[];
  readonly label: readonly string[];
  readonly annotation: readonly string[];
  readonly workdir: string | undefined;
  readonly memory: string | undefined;
  readonly cpus: string | undefined;
  readonly network: string | undefined;
  readonly interactive: boolean;
  readonly tty: boolean;
}

/** @throws InvalidArgument */
export function containerConfig(wish: ContainerWish, hasSeccompProfile: boolean): ContainerConfig__Output {
  return {
    metadata: { name: wish.name, attempt: 0 },
    image: {
      image: wish.image,
      annotations: {},
      user_specified_image: wish.image,
      runtime_handler: '',
      image_ref: '',
    },
    command: [],
    args: [...wish.command],
    working_dir: wish.workdir ?? '',
    envs: wish.env
      .map((text) => pair(text, '--env'))
      .map(([key, value]) => ({ key, value: Buffer.from(value) })),
    mounts: wish.volume.map(mount),
    devices: [],
    labels: pairs(wish.label, '--label'),
    annotations: pairs(wish.annotation, '--annotation'),
    log_path: '',
    stdin: wish.interactive,
    stdin_once: wish.interactive,
    tty: wish.tty,
    windows: null,
    CDI_devices: [],
    stop_signal: 'SIGNAL_RUNTIME_DEFAULT',
    linux: {
      resources: resources(wish),
      security_context: {
        capabilities: null,
        privileged: false,
        selinux_options: null,
        run_as_user: null,
        run_as_username: '',
        run_as_group: null,
        namespace_options: namespacesOf(wish),
        readonly_rootfs: false,
        supplemental_groups: [],
        supplemental_groups_policy: 'Merge',
        no_new_privs: false,
        apparmor_profile: '',
        apparmor: null,
        seccomp_profile_path: '',
        seccomp: { profile_type: hasSeccompProfile ? 'RuntimeDefault' : 'Unconfined', localhost_ref: '' },
        masked_paths: [...maskedPaths],
        readonly_paths: [...readonlyPaths],
      },
    },
  };
}

/** The pod of a standalone container, which contains only this container. */
export function sandboxConfig(
  id: string,
  wish: ContainerWish,
  hostname: string,
  cgroupParent: string,
): PodSandboxConfig__Output {
  return {
    metadata: { name: wish.name, namespace: '', uid: id, attempt: 0 },
    hostname,
    log_directory: '',
    dns_config: null,
    port_mappings: [],
    labels: pairs(wish.label, '--label'),
    annotations: pairs(wish.annotation, '--annotation'),
    windows: null,
    linux: {
      cgroup_parent: cgroupParent,
      security_context: {
        namespace_options: namespacesOf(wish),
        selinux_options: null,
        run_as_user: null,
        run_as_group: null,
        readonly_rootfs: false,
        supplemental_groups: [],
        supplemental_groups_policy: 'Merge',
        privileged: false,
        seccomp_profile_path: '',
        seccomp: null,
        apparmor: null,
      },
      sysctls: {},
      overhead: null,
      resources: null,
    },
  };
}

/** The fields that are the same for a container and its pod. */
function namespacesOf({ network }: ContainerWish): NamespaceOption__Output {
  return {
    network: network === 'host' ? 'NODE' : 'POD',
    pid: 'CONTAINER',
    ipc: 'POD',
    target_id: '',
    userns_options: null,
  };
}

/** @throws InvalidArgument */
export function pairs(texts: readonly string[], flag: string): Record<string, string> {
  return Object.fromEntries(texts.map((text) => pair(text, flag)));
}

function pair(text: string, flag: string): [string, string] {
  const equals = text.indexOf('=');
  if (equals < 1) throw new CrispError('InvalidArgument', `${flag} "${text}" must be KEY=VALUE`);
  return [text.slice(0, equals), text.slice(equals + 1)];
}

function mount(text: string): Mount__Output {
  const [source = '', target = '', mode, ...more] = text.split(':');
  if (
    !source.startsWith('/') ||
    !target.startsWith('/') ||
    more.length > 0 ||
    (mode !== undefined && mode !== 'ro' && mode !== 'rw')
  ) {
    throw new CrispError(
      'InvalidArgument',
      `--volume "${text}" must be /HOST/PATH:/CONTAINER/PATH or /HOST/PATH:/CONTAINER/PATH:ro`,
    );
  }
  return {
    container_path: target,
    host_path: source,
    readonly: mode === 'ro',
    selinux_relabel: false,
    propagation: 'PROPAGATION_PRIVATE',
    uidMappings: [],
    gidMappings: [],
    recursive_read_only: false,
    image: null,
    image_sub_path: '',
    mount_options: [],
  };
}

const cpuPeriodMicroseconds = 100_000;

function resources({ memory, cpus }: ContainerWish): LinuxContainerResources__Output {
  return {
    cpu_period: cpus === undefined ? '0' : String(cpuPeriodMicroseconds),
    cpu_quota: cpus === undefined ? '0' : String(Math.round(cpuCount(cpus) * cpuPeriodMicroseconds)),
    cpu_shares: '0',
    memory_limit_in_bytes: memory === undefined ? '0' : String(bytes(memory)),
    memory_swap_limit_in_bytes: '0',
    oom_score_adj: '0',
    cpuset_cpus: '',
    cpuset_mems: '',
    hugepage_limits: [],
    unified: {},
  };
}

function cpuCount(text: string): number {
  const count = Number(text);
  if (!(count >= 0.01))
    throw new CrispError('InvalidArgument', `--cpus "${text}" must be a number of at least 0.01`);
  return count;
}

/** "64M" and so on: powers of 1024. */
export function bytes(text: string): number {
  const [, number, unit = ''] = /^(\d+(?:\.\d+)?)([kmgt]?)$/i.exec(text) ?? [];
  if (number === undefined)
    throw new CrispError(
      'InvalidArgument',
      `--memory "${text}" must be a number, optionally followed by k, m, g or t`,
    );
  return Math.round(
    Number(number) * 1024 ** ' kmgt'.trimEnd().indexOf(unit === '' ? ' ' : unit.toLowerCase()),
  );
}

// The flags of `crisp run` and `crisp create` -> CRI messages, so that the same
// functions make standalone containers and containers of pods.  Pure.
import { isIP } from 'node:net';
import { resolve } from 'node:path';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { LinuxContainerResources__Output } from '../cri/generated/runtime/v1/LinuxContainerResources.js';
import type { Capability__Output } from '../cri/generated/runtime/v1/Capability.js';
import type { Mount__Output } from '../cri/generated/runtime/v1/Mount.js';
import type { NamespaceOption__Output } from '../cri/generated/runtime/v1/NamespaceOption.js';
import type { PortMapping__Output } from '../cri/generated/runtime/v1/PortMapping.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { CrispError } from '../errors.js';
import { maskedPaths, readonlyPaths } from '../oci/hidden-paths.js';
import type { ImageConfig } from '../shapes/image-config.js';
import type { Mount } from '../shapes/spec.js';

/** The flags of a container. */
export interface ContainerWish {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  readonly entrypoint: string | undefined;
  /** The path of catatonit on this host, for --init. */
  readonly initProgram: string | undefined;
  /** KEY=VALUE. */
  readonly env: readonly string[];
  readonly volume: readonly string[];
  readonly 'read-only': boolean;
  readonly 'cap-add': readonly string[];
  readonly 'cap-drop': readonly string[];
  readonly privileged: boolean;
  readonly publish: readonly string[];
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
export function containerConfig(
  wish: ContainerWish,
  image: ImageConfig,
  hasSeccompProfile: boolean,
): ContainerConfig__Output {
  const { privileged, initProgram } = wish;
  return {
    metadata: { name: wish.name, attempt: 0 },
    image: {
      image: wish.image,
      annotations: {},
      user_specified_image: wish.image,
      runtime_handler: '',
      image_ref: '',
    },
    ...commandOf(wish, image),
    working_dir: wish.workdir ?? '',
    envs: wish.env
      .map((text) => pair(text, '--env'))
      .map(([key, value]) => ({ key, value: Buffer.from(value) })),
    mounts: [
      ...wish.volume.map(mount),
      ...(initProgram === undefined ? [] : [bind(initProgram, initPath, 'ro')]),
    ],
    devices: [],
    labels: pairs(wish.label, '--label'),
    annotations: pairs(wish.annotation, '--annotation'),
    log_path: '',
    stdin: wish.interactive,
    stdin_once: wish.interactive && !wish.tty, // a terminal stays open for the next who attaches
    tty: wish.tty,
    windows: null,
    CDI_devices: [],
    stop_signal: 'SIGNAL_RUNTIME_DEFAULT',
    linux: {
      resources: resources(wish),
      security_context: {
        capabilities: capabilities(wish),
        privileged,
        selinux_options: null,
        run_as_user: null,
        run_as_username: '',
        run_as_group: null,
        namespace_options: namespacesOf(wish),
        readonly_rootfs: wish['read-only'],
        supplemental_groups: [],
        supplemental_groups_policy: 'Merge',
        no_new_privs: false,
        apparmor_profile: '',
        apparmor: null,
        seccomp_profile_path: '',
        seccomp: {
          profile_type: hasSeccompProfile && !privileged ? 'RuntimeDefault' : 'Unconfined',
          localhost_ref: '',
        },
        masked_paths: privileged ? [] : [...maskedPaths],
        readonly_paths: privileged ? [] : [...readonlyPaths],
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
    port_mappings: wish.publish.map(portMapping),
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
        privileged: wish.privileged,
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

/** The path of the --init program in the container. */
const initPath = '/run/crisp-init';

/** --entrypoint also drops the image's Cmd. @throws InvalidArgument */
function commandOf(
  { entrypoint, command, initProgram }: ContainerWish,
  image: ImageConfig,
): Pick<ContainerConfig__Output, 'command' | 'args'> {
  const own = entrypoint === undefined ? undefined : entrypointWords(entrypoint);
  const program = own ?? image.Entrypoint ?? [];
  const args = command.length > 0 || own ? command : (image.Cmd ?? []);
  const words = [...program, ...args];
  if (own && words.length === 0)
    throw new CrispError('InvalidArgument', 'with --entrypoint "", COMMAND is missing');
  if (initProgram !== undefined) return { command: [initPath, '--'], args: words };
  return own ? { command: words, args: [] } : { command: [], args: [...command] };
}

/** A program, or a JSON list of words. */
function entrypointWords(text: string): string[] {
  if (!text.startsWith('[')) return text === '' ? [] : [text];
  try {
    const words = JSON.parse(text) as unknown;
    if (Array.isArray(words) && words.every((word) => typeof word === 'string')) return words;
  } catch {
    /* not JSON */
  }
  throw new CrispError('InvalidArgument', `--entrypoint '${text}' must be a program or a JSON list of words`);
}

function capabilities({ 'cap-add': add, 'cap-drop': drop }: ContainerWish): Capability__Output | null {
  if (add.length === 0 && drop.length === 0) return null;
  return { add_capabilities: [...add], drop_capabilities: [...drop], add_ambient_capabilities: [] };
}

/** "8080:80", "127.0.0.1:8080:80/udp", "[::1]:8080:80". @throws InvalidArgument */
export function portMapping(text: string): PortMapping__Output {
  const [, , inBrackets, plain, host = '', container = '', protocol = 'tcp'] =
    /^((?:\[([^\]]+)\]|([^:[\]]+)):)?(\d{1,5}):(\d{1,5})(?:\/(tcp|udp|sctp))?$/.exec(text) ?? [];
  const ip = inBrackets ?? plain ?? '';
  const isPort = (port: string): boolean => Number(port) >= 1 && Number(port) <= 65_535;
  if (!isPort(host) || !isPort(container) || (ip !== '' && !isIP(ip)))
    throw new CrispError(
      'InvalidArgument',
      `--publish "${text}" must be PORT:CONTAINERPORT or IP:PORT:CONTAINERPORT, with /udp or /sctp behind it where it is not TCP`,
    );
  return {
    protocol: protocol.toUpperCase() as PortMapping__Output['protocol'],
    host_ip: ip,
    host_port: Number(host),
    container_port: Number(container),
  };
}

/** --tmpfs, with options of tmpfs(5) and mount(8). @throws InvalidArgument */
export function tmpfsMount(text: string): Mount {
  const [target = '', options, ...more] = text.split(':');
  if (!target.startsWith('/') || target.split('/').includes('..') || more.length > 0)
    throw new CrispError(
      'InvalidArgument',
      `--tmpfs "${text}" must be /CONTAINER/PATH or /CONTAINER/PATH:OPTION,OPTION`,
    );
  const own = options ? options.split(',').filter(Boolean) : [];
  return {
    destination: target,
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'nodev', ...(own.includes('exec') ? [] : ['noexec']), ...own],
  };
}

/** The source must be a path: podman and Docker make a named volume for a plain name. */
function mount(text: string): Mount__Output {
  const [source = '', target = '', mode, ...more] = text.split(':');
  if (source !== '' && !/^[./]/.test(source) && target.startsWith('/'))
    throw new CrispError(
      'InvalidArgument',
      `--volume "${text}": crisp keeps no named volumes; name a folder: ./${source}:${target}`,
    );
  if (
    source === '' ||
    !target.startsWith('/') ||
    more.length > 0 ||
    (mode !== undefined && mode !== 'ro' && mode !== 'rw')
  ) {
    throw new CrispError('InvalidArgument', `--volume "${text}" must be SOURCE:/CONTAINER/PATH[:ro]`);
  }
  return bind(resolve(source), target, mode);
}

function bind(source: string, target: string, mode: string | undefined): Mount__Output {
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

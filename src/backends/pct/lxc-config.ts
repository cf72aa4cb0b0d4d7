// The spec of a container -> the included file (lxc.include) of its CT. Pure.
//
// pct's own parser silently drops unknown keys, and the known keys differ
// between versions. An included file may contain every key of liblxc, is read at
// the start by root only, and does not show the environment of a pod to users
// who may view the CT in the GUI.
import { CrispError } from '../../errors.js';
import { unifiedSettings } from '../../host/cgroup.js';
import { defaultAppArmorProfile } from '../../oci/security.js';
import type { Device, Mount, Spec } from '../../shapes/spec.js';

export interface LxcPlan {
  readonly spec: Spec;
  /** The CT's terminal, if it has one. */
  readonly console: string;
  /** The number of the stop signal, for a stop in the GUI. */
  readonly stopSignal: string;
  /** The log file of liblxc. */
  readonly logFile: string;
  /** Run when the CT has ended, while its cgroup still exists. */
  readonly stopHook: string;
  /** Whether a path of the host is a folder (or leads to one). */
  readonly isFolder: (path: string) => boolean;
  /** The node of this device on the host; undefined: there is none. */
  readonly deviceSource: (device: Device) => string | undefined;
  /** The paths of the devices that PVE puts into the CT. */
  readonly passed: readonly string[];
  /** v1 has no keys of its own here: no Proxmox VE since 7 has it. */
  readonly cgroup: 'v1' | 'v2';
  /**
   * A complete guest, which boots as Proxmox intends: its privileges, kernel filesystems and devices are left
   * as PVE sets them.
   */
  readonly guest: boolean;
  /**
   * liblxc older than 6.0.5 passes lxc.environment to the hooks of the CT as well, and does not support
   * lxc.environment.runtime.
   */
  readonly environmentReachesHooks: boolean;
}

/**
 * The hooks that liblxc runs in the CT's user namespace with access to the node's files, before the CT's
 * privileges are limited (start.c, do_start).
 */
const hooksInTheMaking = ['pre-mount', 'mount', 'autodev', 'start'] as const;

/** The text of the file. @throws InvalidArgument for values that cannot be written in a line */
export function lxcConfig(plan: LxcPlan): string {
  const { spec, guest } = plan;
  const { process, linux } = spec;
  return [
    ...namespaces(plan),
    ...(guest ? [] : rights(spec)),
    ...(guest ? [] : [['lxc.environment', '']]),
    ...hooks(plan),
    ...process.env.filter(fitsLine).map((entry) => [environmentKey(plan), entry]),
    ...(guest ? [] : (process.rlimits ?? [])).map(({ type, soft, hard }) => [
      `lxc.prlimit.${type.replace(/^RLIMIT_/, '').toLowerCase()}`,
      `${soft}:${hard}`,
    ]),
    ...(process.oomScoreAdj === undefined ? [] : [['lxc.proc.oom_score_adj', String(process.oomScoreAdj)]]),
    ...(guest ? [] : appArmor(process)),
    ...(process.selinuxLabel ? [['lxc.selinux.context', process.selinuxLabel]] : []),
    ...(spec.root.readonly ? [['lxc.rootfs.options', 'ro']] : []),
    ...(plan.cgroup === 'v2'
      ? unifiedSettings(linux.resources ?? {}).map(([file, value]) => [`lxc.cgroup2.${file}`, value])
      : []),
    ...(guest
      ? []
      : deviceRules(spec).map((rule) => [
          `lxc.cgroup${plan.cgroup === 'v2' ? '2' : ''}.devices.allow`,
          rule,
        ])),
    ...(guest ? [] : [['lxc.mount.auto', kernelFilesystems(spec)]]),
    ...[...mountEntries(plan), ...deviceEntries(plan), ...(guest ? [] : maskEntries(plan))].map((entry) => [
      'lxc.mount.entry',
      entry,
    ]),
    ...(process.terminal ? [['lxc.console.path', plan.console]] : []),
    ['lxc.signal.halt', plan.stopSignal],
    ['lxc.hook.stop', plan.stopHook],
    ['lxc.log.file', plan.logFile],
    ['lxc.log.level', 'ERROR'],
  ]
    .map(([key = '', value = '']) => line(key, value))
    .join('');
}

/** The key for a variable of the CT's process. */
export function environmentKey({
  environmentReachesHooks,
}: Pick<LxcPlan, 'environmentReachesHooks'>): 'lxc.environment' | 'lxc.environment.runtime' {
  return environmentReachesHooks ? 'lxc.environment' : 'lxc.environment.runtime';
}

/**
 * A hook, which has more privileges than the pod, must not evaluate a pod's
 * variable (LD_PRELOAD, PERL5OPT): if it would get the variables, the hooks are
 * removed. A CT then only lacks lxcfs's view of /proc.
 */
function hooks(plan: LxcPlan): string[][] {
  return hooksAreCleared(plan) ? hooksInTheMaking.map((name) => [`lxc.hook.${name}`, '']) : [];
}

/** These include PVE's hook, which makes the devices of devN in the CT. */
export function hooksAreCleared({
  spec,
  environmentReachesHooks,
}: Pick<LxcPlan, 'spec' | 'environmentReachesHooks'>): boolean {
  return environmentReachesHooks ? spec.process.env.length > 0 : !spec.process.env.every(fitsLine);
}

/** The process and its privileges. */
function rights({ process }: Spec): string[][] {
  return [
    // Cleared first: PVE's common.conf sets some already, and keep and drop lists exclude each other.
    ['lxc.cap.drop', ''],
    ['lxc.cap.keep', capabilities(process.capabilities?.bounding ?? [])],
    ['lxc.no_new_privs', process.noNewPrivileges ? '1' : '0'],
    ['lxc.init.uid', String(process.user.uid)],
    ['lxc.init.gid', String(process.user.gid)],
    ...(process.user.additionalGids?.length
      ? [['lxc.init.groups', process.user.additionalGids.join(',')]]
      : []),
    ['lxc.init.cwd', process.cwd],
  ];
}

/**
 * RuntimeDefault is the profile that liblxc generates for each CT on PVE. The profile of OCI
 * containers cannot be used for a CT: liblxc's own profile, under which lxc-start runs, only
 * allows transitions to lxc-* and unconfined (abstractions/lxc/start-container).
 */
function appArmor({ apparmorProfile }: Spec['process']): string[][] {
  return apparmorProfile && apparmorProfile !== defaultAppArmorProfile
    ? [['lxc.apparmor.profile', apparmorProfile]]
    : [];
}

/** liblxc reads line by line and trims each value. */
export function fitsLine(text: string): boolean {
  return !/\p{Cc}|\s$/u.test(text);
}

function line(key: string, value: string): string {
  if (!fitsLine(value))
    throw new CrispError('InvalidArgument', `${key} of a CT cannot contain ${JSON.stringify(value)}`, {
      stage: 'write CT config',
    });
  return `${key} = ${value}\n`;
}

const shareable = { network: 'net', ipc: 'ipc', uts: 'uts', pid: 'pid', user: 'user' } as const;

/**
 * Joined by path, new, or shared with the host: by default liblxc makes all
 * supported namespaces for a CT. (lxc.namespace.keep cannot be used: all others
 * would be new, including a user namespace.) The uts namespace is always the
 * CT's, since liblxc sets the name: a pod on the host's network gets a copy of
 * the host's name.
 */
function namespaces({ spec }: LxcPlan): string[][] {
  const listed = new Map(spec.linux.namespaces.map(({ type, path }) => [type, path]));
  const shared = (Object.entries(shareable) as [keyof typeof shareable, string][]).flatMap(([type, name]) => {
    const path = listed.get(type);
    return path ? [[`lxc.namespace.share.${name}`, path]] : [];
  });
  const ofTheHost = (['network', 'ipc', 'pid'] as const).filter((type) => !listed.has(type));
  const own = (['pid', 'ipc', 'network'] as const)
    .filter((type) => listed.has(type))
    .map((type) => shareable[type]);
  return [
    ...shared,
    ...(ofTheHost.length ? [['lxc.namespace.clone', ['mnt', 'uts', 'cgroup', ...own].join(' ')]] : []),
  ];
}

function capabilities(bounding: readonly string[]): string {
  return bounding.length ? bounding.map((name) => name.replace(/^CAP_/, '').toLowerCase()).join(' ') : 'none';
}

/** The mounts that liblxc and PVE make themselves. */
const mountedByLxc = new Set(['/proc', '/dev', '/dev/pts', '/dev/mqueue', '/sys', '/sys/fs/cgroup']);

/** mixed: files that would change the host are read-only, including /proc/sys and /proc/sysrq-trigger. */
function kernelFilesystems({ mounts, linux }: Spec): string {
  const unmasked = !linux.maskedPaths?.length && !linux.readonlyPaths?.length;
  const writable = mounts.some(
    ({ destination, options }) => destination === '/sys' && options?.includes('rw'),
  );
  return `proc:${unmasked ? 'rw' : 'mixed'} sys:${writable ? 'rw' : 'mixed'}`;
}

/** Folders that liblxc mounts on. */
export const foldersOfLxc = ['/proc', '/sys', '/dev'].map((path) => ({ path, isFolder: true }));

/** The other mounts. */
export function mountsOf({ mounts }: Spec): readonly Mount[] {
  return mounts.filter((mount) => isBind(mount) || !mountedByLxc.has(mount.destination));
}

function mountEntries({ spec, isFolder }: LxcPlan): string[] {
  return mountsOf(spec).map((mount) => {
    const { type = 'none', source = 'none', destination, options = [] } = mount;
    const rest = options.filter((option) => !['bind', 'rbind', 'rw', 'idmap', 'rro'].includes(option));
    return isBind(mount)
      ? entry(source, destination, 'none', [
          options.includes('bind') ? 'bind' : 'rbind',
          ...rest,
          ...(options.includes('rro') ? ['ro'] : []),
          isFolder(source) ? 'create=dir' : 'create=file',
        ])
      : entry(type, destination, type, [...rest, 'create=dir']);
  });
}

/** Whether a mount of a spec is a bind mount (OCI runtime specification, mounts). */
export function isBind({ type, options = [] }: Mount): boolean {
  return type === 'bind' || options.includes('rbind') || options.includes('bind');
}

/** The device nodes in the base configuration of every CT. */
export const devicesOfLxc = /^\/dev\/(null|zero|full|random|urandom|tty|console|ptmx|pts\/.*)$/;

/** By the device's numbers: its path in the CT could be any file of the host. @throws UnsupportedField */
function deviceEntries({ spec: { linux }, deviceSource, passed }: LxcPlan): string[] {
  return (linux.devices ?? [])
    .filter(({ path }) => !devicesOfLxc.test(path) && !passed.includes(path))
    .map((device) => {
      const source = deviceSource(device);
      if (source === undefined)
        throw new CrispError(
          'UnsupportedField',
          `devices: a CT gets its devices from nodes of the host, and none is ${device.path} (${device.type} ${device.major}:${device.minor})`,
          { stage: 'write CT config' },
        );
      return entry(source, device.path, 'none', ['bind', 'create=file', 'optional']);
    });
}

function deviceRules({ linux }: Spec): string[] {
  const number = (value: number | undefined): string => (value === undefined ? '*' : String(value));
  return (linux.resources?.devices ?? [])
    .filter(({ allow }) => allow)
    .map(({ type = 'a', major, minor, access = 'rwm' }) =>
      type === 'a' ? 'a' : `${type} ${number(major)}:${number(minor)} ${access}`,
    );
}

/**
 * A masked file is covered by /dev/null, a folder by an empty tmpfs; the type of
 * a path is known only when it is mounted, so both are tried. Read-only paths
 * that proc:mixed does not cover are bound onto themselves, always from the CT's
 * own root filesystem ("relative"), since the path comes from the request.
 */
function maskEntries({ spec, isFolder }: LxcPlan): string[] {
  const empty = (path: string): string => entry('tmpfs', path, 'tmpfs', ['ro', 'size=0k', 'optional']);
  const nothing = (path: string): string => entry('/dev/null', path, 'none', ['bind', 'optional']);
  return [
    ...(spec.linux.maskedPaths ?? []).flatMap((path) =>
      !isOfKernel(path) ? [empty(path), nothing(path)] : isFolder(path) ? [empty(path)] : [nothing(path)],
    ),
    ...(spec.linux.readonlyPaths ?? [])
      .filter((path) => !/^\/proc\/sys(rq-trigger)?(\/|$)/.test(path))
      .map((path) =>
        entry(path.replace(/^\/+/, ''), path, 'none', [
          isOfKernel(path) ? 'bind' : 'rbind',
          'ro',
          'optional',
          'relative',
        ]),
      ),
  ];
}

/** Mounts with the same path on the host and in the CT. */
function isOfKernel(path: string): boolean {
  return /^\/(proc|sys)\//.test(path);
}

/**
 * A line of fstab(5), with its target relative to the rootfs. @throws InvalidArgument for a target that is
 * not a path inside it
 */
function entry(source: string, target: string, type: string, options: readonly string[]): string {
  if (!target.startsWith('/') || target.split('/').includes('..'))
    throw new CrispError('InvalidArgument', `"${target}" is not a path in the root filesystem of a CT`, {
      stage: 'write CT config',
      hint: 'use an absolute path without ".."',
    });
  return [source, target.replace(/^\/+/, ''), type].map(escape).concat(options.join(','), '0', '0').join(' ');
}

function escape(field: string): string {
  return field.replace(
    /[\s\\#]/g,
    (character) => `\\${character.charCodeAt(0).toString(8).padStart(3, '0')}`,
  );
}

/**
 * Paths of the spec that a CT does not support.  seccomp: PVE applies its own
 * profile to every CT.  hooks: liblxc runs its hooks at other times and with
 * other arguments.
 */
export function notHonoured(spec: Spec, { givesGroups }: { readonly givesGroups: boolean }): string[] {
  const shifted = spec.linux.namespaces.some(({ type }) => type === 'user');
  return [
    ...(spec.linux.seccomp ? ['spec.linux.seccomp'] : []),
    ...(spec.hooks && Object.keys(spec.hooks).length ? ['spec.hooks'] : []),
    ...(shifted && !givesGroups && spec.process.user.additionalGids?.length
      ? ['spec.process.user.additionalGids']
      : []),
    ...(shifted && spec.linux.rootfsPropagation === 'rshared' ? ['spec.linux.rootfsPropagation'] : []),
  ];
}

// The command lines of `pct create` and `pct set`, with the values that the GUI
// shows. The exact limits, which pct rounds, are in lxc-config.ts. Pure.
import { createHash } from 'node:crypto';
import { weightOfShares } from '../../host/cgroup.js';
import type { Resources } from '../../shapes/spec.js';
import type { ContainerPlan } from '../backend.js';
import { describe, type Mark } from './guest-config.js';
import type { Bridge, GuestOptions, MountPoint } from './guest-options.js';
import { isAt, mountPointsOf } from './mount-points.js';
import type { PassedDevice } from './passthrough.js';

export interface Node {
  /** As in Node.js: "x64". */
  readonly arch: string;
  readonly hostname: string;
  readonly memoryBytes: number;
  /** The number of CPUs. */
  readonly cpus: number;
  readonly cgroup: 'v1' | 'v2';
}

export interface CreateOptions {
  readonly tag: string;
  readonly pool: string;
  readonly mark: Mark;
  /**
   * The archive that pct unpacks: an empty one for a rootfs that is mounted already, or the image. Templates
   * of Proxmox are given by name.
   */
  readonly archive: string;
  readonly guest: GuestOptions;
  /** The devices that PVE makes in the CT (devN). */
  readonly devices: readonly PassedDevice[];
  /** pct 6.0.15 and newer: the host sets the address of the CT, since images do not configure networks. */
  readonly hostManaged: boolean;
  readonly node: Node;
}

const architectures: Readonly<Record<string, string>> = {
  x64: 'amd64',
  arm64: 'arm64',
  ia32: 'i386',
  arm: 'armhf',
  riscv64: 'riscv64',
};

/** console and tty 0: otherwise liblxc would run the process on a terminal. */
export function createArgs(plan: ContainerPlan, options: CreateOptions): string[] {
  const { node, tag, pool, mark } = options;
  const { sandbox, spec } = plan;
  const isOfPod = sandbox.id !== plan.id; // a standalone container is a pod of its own
  return [
    ...rootfsArgs(plan, options),
    ...cardArgs(plan, options.guest, options.hostManaged),
    ...mountPointsOf(plan, options.guest).flatMap((point) => [`--mp${point.index}`, mountPoint(plan, point)]),
    ...options.devices.flatMap((device, index) => [`--dev${index}`, passed(device)]),
    ...featureArgs(plan, options.guest),
    '--unprivileged',
    spec.linux.namespaces.some(({ type }) => type === 'user') ? '1' : '0',
    '--hostname',
    sandbox.namespaces.uts
      ? hostname(isOfPod ? `${sandbox.name}-${plan.name}` : plan.name)
      : hostname(node.hostname),
    ...resourceArgs(spec.linux.resources ?? {}, node),
    '--tags',
    [...new Set([tag, tagOf(sandbox.namespace)])].filter(Boolean).join(';'),
    '--description',
    describe(
      [
        ...(isOfPod
          ? [`Pod ${sandbox.namespace}/${sandbox.name}, container ${plan.name} (attempt ${plan.attempt})`]
          : [`Container ${plan.name}, of no pod`]),
        `Image ${plan.image}`,
        ...(isOfPod
          ? [
              `Pod uid ${sandbox.uid}, sandbox ${sandbox.id}`,
              'Made by crisp for Kubernetes; do not change it here: the pod decides.',
            ]
          : ['Made by crisp; do not change it here.']),
      ],
      mark,
    ),
    '--onboot',
    '0',
    '--console',
    '0',
    '--tty',
    '0',
    ...(pool ? ['--pool', pool] : []),
  ];
}

/**
 * unmanaged: pct must not edit the rootfs for the detected distribution, except
 * for a complete guest.
 */
export function rootfsArgs(
  { spec, template }: ContainerPlan,
  { archive, guest: { volume }, node }: Pick<CreateOptions, 'archive' | 'guest' | 'node'>,
): string[] {
  const rootfs = volume ? `${volume.storage}:${volume.sizeGib}` : spec.root.path;
  if (template !== undefined) return [template, '--rootfs', rootfs];
  return [
    archive,
    '--rootfs',
    rootfs,
    '--ostype',
    'unmanaged',
    '--arch',
    architectures[node.arch] ?? 'amd64',
  ];
}

/** tun is a device, not a feature of PVE. nesting: required by systemd in a complete guest. */
export function featureArgs({ template }: ContainerPlan, { features }: GuestOptions): string[] {
  const all = new Set([...(template === undefined ? [] : ['nesting']), ...features]);
  all.delete('tun');
  return all.size === 0 ? [] : ['--features', [...all].map((name) => `${name}=1`).join(',')];
}

function mountPoint({ spec }: ContainerPlan, { storage, sizeGib, path, backup }: MountPoint): string {
  const isReadOnly = spec.mounts.some((mount) => isAt(mount, path) && mount.options?.includes('ro'));
  return [
    `${storage}:${sizeGib}`,
    `mp=${path}`,
    `backup=${backup ? 1 : 0}`,
    ...(isReadOnly ? ['ro=1'] : []),
  ].join(',');
}

function passed({ path, mode, uid, gid, denyWrite }: PassedDevice): string {
  return [
    path,
    `mode=${mode.toString(8).padStart(4, '0')}`,
    `uid=${uid}`,
    `gid=${gid}`,
    ...(denyWrite ? ['deny-write=1'] : []),
  ].join(',');
}

/** The same for all containers of a pod, so that a replacement gets the same IP address by DHCP. */
export function hardwareAddress(sandboxId: string, index = 0): string {
  const seed = index === 0 ? sandboxId : `${sandboxId}/net${index}`;
  return ['02', ...(createHash('sha256').update(seed).digest('hex').slice(0, 10).match(/../g) ?? [])]
    .join(':')
    .toUpperCase();
}

/**
 * The options --netN of `pct create`, one for each bridge.
 * @param hostManaged whether this pct sets the addresses
 */
export function cardArgs(
  plan: ContainerPlan,
  { bridges }: Pick<GuestOptions, 'bridges'>,
  hostManaged: boolean,
): string[] {
  return bridges.flatMap((bridge) => [`--net${bridge.index}`, network(plan, bridge, hostManaged)]);
}

function network(
  { sandbox, template }: ContainerPlan,
  { index, name, vlan, rate, firewall, address, gateway }: Bridge,
  hostManaged: boolean,
): string {
  return [
    `name=eth${index}`,
    `bridge=${name}`,
    `hwaddr=${hardwareAddress(sandbox.id, index)}`,
    `ip=${address}`,
    'type=veth',
    ...(gateway ? [`gw=${gateway}`] : []),
    ...(vlan ? [`tag=${vlan}`] : []),
    ...(rate ? [`rate=${rate}`] : []),
    ...(firewall ? ['firewall=1'] : []),
    ...(hostManaged && template === undefined ? ['host-managed=1'] : []), // a complete guest configures its own network
  ].join(',');
}

const mib = 1 << 20;
const smallestMemoryMib = 16;

/**
 * All limits, even if none is set: the default of pct is 512 MiB for memory
 * and for swap. The default for swap is none, as in Kubernetes.
 */
export function resourceArgs({ cpu, memory }: Resources, node: Node): string[] {
  return updateArgs(
    { cpu: { shares: 1024, quota: -1, ...cpu }, memory: { limit: -1, swap: memory?.limit ?? 0, ...memory } },
    node,
  );
}

/** Changes only the given limits. -1 (no limit) and values above the node's total become that total. */
export function updateArgs({ cpu = {}, memory = {} }: Resources, node: Node): string[] {
  const all = Math.ceil(node.memoryBytes / mib);
  const args: string[] = [];
  if (memory.limit !== undefined)
    args.push(
      '--memory',
      String(
        memory.limit < 0 ? all : Math.min(all, Math.max(smallestMemoryMib, Math.ceil(memory.limit / mib))),
      ),
    );
  if (memory.swap !== undefined)
    args.push(
      '--swap',
      String(
        memory.swap < 0 ? all : Math.ceil(Math.max(0, memory.swap - Math.max(0, memory.limit ?? 0)) / mib),
      ),
    );
  if (cpu.quota !== undefined) {
    const cpus = cpu.quota < 0 ? 0 : cpu.quota / (cpu.period ?? 100_000);
    args.push('--cpulimit', String(Math.round(cpus * 1000) / 1000));
    // pct binds a CT to this number of CPUs, so an update without a quota must reset it to all.
    if (!cpu.cpus) args.push('--cores', String(Math.min(node.cpus, Math.ceil(cpus) || node.cpus)));
  }
  if (cpu.shares !== undefined) args.push('--cpuunits', String(cpuUnits(cpu.shares, node.cgroup)));
  return args;
}

/**
 * The CPUs of a CT, for its main configuration file: every few seconds pvestatd
 * rebalances the CTs whose configuration does not set this key, and it does not
 * read included files (PVE::Service::pvestatd, rebalance_lxc_containers).
 */
export function pinLines({ cpu }: Resources = {}, { cgroup }: Pick<Node, 'cgroup'>): string[] {
  return cgroup === 'v2' && /^[\d,-]+$/.test(cpu?.cpus ?? '') ? [`${pinKey}: ${cpu?.cpus}`] : [];
}
/** The key of the configuration that binds a CT to CPUs (lxc.container.conf(5)). */
export const pinKey = 'lxc.cgroup2.cpuset.cpus';

/** cgroup v2: cpu.weight; v1: cpu.shares. */
function cpuUnits(shares: number, cgroup: 'v1' | 'v2'): number {
  return cgroup === 'v2' ? weightOfShares(shares) : shares;
}

/** Converts any name to a single DNS label, as required by pct. */
export function hostname(text: string): string {
  const label = text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+/, '')
    .slice(0, 63)
    .replace(/-+$/, '');
  return label || 'crisp';
}

function tagOf(text: string): string {
  return text
    .toLowerCase()
    .replace(/[^a-z0-9_.+-]+/g, '-')
    .replace(/^[^a-z0-9_]+/, '');
}

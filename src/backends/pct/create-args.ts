// The command lines of `pct create` and `pct set`, with the values that the GUI
// shows. The exact limits, which pct rounds, are in lxc-config.ts. Pure.
import { createHash } from 'node:crypto';
import { weightOfShares } from '../../host/cgroup.js';
import type { Resources } from '../../shapes/spec.js';
import type { ContainerPlan } from '../backend.js';
import { describe, type Mark } from './guest-config.js';
import type { Bridge, GuestOptions } from './guest-options.js';

export interface Node {
  /** As Node has it: "x64". */
  readonly arch: string;
  readonly hostname: string;
  readonly memoryBytes: number;
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
  /** pct 6.0.15 and newer: the host sets the address of a CT if its image has no network tools. */
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
    ...(options.guest.bridge ? ['--net0', net0(plan, options.guest.bridge, options.hostManaged)] : []),
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
 * unmanaged: otherwise pct would edit the rootfs for the distribution that it
 * detects, which is wanted only for a complete guest. nesting: required by
 * systemd in a guest.
 */
function rootfsArgs(
  { spec, template }: ContainerPlan,
  { archive, guest: { volume }, node }: CreateOptions,
): string[] {
  const rootfs = volume ? `${volume.storage}:${volume.sizeGib}` : spec.root.path;
  if (template !== undefined) return [template, '--rootfs', rootfs, '--features', 'nesting=1'];
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

/** The same hardware address for each container of a pod: so DHCP gives the next one the same address. */
export function hardwareAddress(sandboxId: string): string {
  return ['02', ...(createHash('sha256').update(sandboxId).digest('hex').slice(0, 10).match(/../g) ?? [])]
    .join(':')
    .toUpperCase();
}

function net0(
  { sandbox, template }: ContainerPlan,
  { name, vlan, rate, firewall, address, gateway }: Bridge,
  hostManaged: boolean,
): string {
  return [
    'name=eth0',
    `bridge=${name}`,
    `hwaddr=${hardwareAddress(sandbox.id)}`,
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
function resourceArgs({ cpu, memory }: Resources, node: Node): string[] {
  return updateArgs(
    { cpu: { shares: 1024, quota: -1, ...cpu }, memory: { limit: -1, swap: memory?.limit ?? 0, ...memory } },
    node,
  );
}

/** The given limits; others are unchanged. -1 is "no limit": the memory of the node. */
export function updateArgs({ cpu = {}, memory = {} }: Resources, node: Node): string[] {
  const all = Math.ceil(node.memoryBytes / mib);
  const args: string[] = [];
  if (memory.limit !== undefined)
    args.push(
      '--memory',
      String(memory.limit < 0 ? all : Math.max(smallestMemoryMib, Math.ceil(memory.limit / mib))),
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
    if (cpus > 0 && !cpu.cpus) args.push('--cores', String(Math.ceil(cpus)));
  }
  if (cpu.shares !== undefined) args.push('--cpuunits', String(cpuUnits(cpu.shares, node.cgroup)));
  return args;
}

/** cgroup v2: cpu.weight; v1: cpu.shares. */
function cpuUnits(shares: number, cgroup: 'v1' | 'v2'): number {
  return cgroup === 'v2' ? weightOfShares(shares) : shares;
}

/** A valid DNS name of one label for pct, from any pod name. */
function hostname(text: string): string {
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

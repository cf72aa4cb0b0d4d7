// What `pct create` and `pct set` get on their command line: what the GUI shows
// and counts with.  Exact limits, where pct rounds, are in lxc-config.ts.  Pure.
import { weightOfShares } from '../../host/cgroup.js';
import type { Resources } from '../../oci/spec.js';
import type { ContainerPlan } from '../backend.js';
import { describe, type Mark } from './guest-config.js';

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
  /** An archive with nothing in it: the rootfs is there already. */
  readonly emptyTemplate: string;
  readonly node: Node;
}

const architectures: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64', ia32: 'i386', arm: 'armhf', riscv64: 'riscv64' };

/**
 * unmanaged: else pct would edit the rootfs for the distribution that it finds.
 * console and tty 0: else liblxc would put the process on a terminal.
 */
export function createArgs(plan: ContainerPlan, options: CreateOptions): string[] {
  const { node, tag, pool, mark } = options;
  const { sandbox, spec } = plan;
  return [
    options.emptyTemplate, '--rootfs', spec.root.path, '--ostype', 'unmanaged', '--arch', architectures[node.arch] ?? 'amd64',
    '--unprivileged', spec.linux.namespaces.some(({ type }) => type === 'user') ? '1' : '0',
    '--hostname', sandbox.namespaces.uts ? hostname(`${sandbox.name}-${plan.name}`) : hostname(node.hostname),
    ...resourceArgs(spec.linux.resources ?? {}, node),
    '--tags', [...new Set([tag, tagOf(sandbox.namespace)])].filter(Boolean).join(';'),
    '--description', describe([
      `Pod ${sandbox.namespace}/${sandbox.name}, container ${plan.name} (attempt ${plan.attempt})`,
      `Image ${plan.image}`, `Pod uid ${sandbox.uid}, sandbox ${sandbox.id}`,
      'Made by crisp for Kubernetes; do not change it here: the pod decides.',
    ], mark, plan.keepsake?.()),
    '--onboot', '0', '--console', '0', '--tty', '0',
    ...(pool ? ['--pool', pool] : []),
  ];
}

const mib = 1 << 20;
const smallestMemoryMib = 16;

/**
 * All limits, also where there is none: pct would take 512 MiB for memory and
 * for swap.  Swap that nobody speaks of is none, which is Kubernetes' default.
 */
function resourceArgs({ cpu, memory }: Resources, node: Node): string[] {
  return updateArgs({ cpu: { shares: 1024, quota: -1, ...cpu }, memory: { limit: -1, swap: memory?.limit ?? 0, ...memory } }, node);
}

/** The limits that are named; what is not stays as it is. -1 is "no limit": the memory of the node. */
export function updateArgs({ cpu = {}, memory = {} }: Resources, node: Node): string[] {
  const all = Math.ceil(node.memoryBytes / mib);
  const args: string[] = [];
  if (memory.limit !== undefined) args.push('--memory', String(memory.limit < 0 ? all : Math.max(smallestMemoryMib, Math.ceil(memory.limit / mib))));
  if (memory.swap !== undefined) args.push('--swap', String(memory.swap < 0 ? all : Math.ceil(Math.max(0, memory.swap - Math.max(0, memory.limit ?? 0)) / mib)));
  if (cpu.quota !== undefined) {
    const cpus = cpu.quota < 0 ? 0 : cpu.quota / (cpu.period ?? 100_000);
    args.push('--cpulimit', String(Math.round(cpus * 1000) / 1000));
    if (cpus > 0 && !cpu.cpus) args.push('--cores', String(Math.ceil(cpus)));
  }
  if (cpu.shares !== undefined) args.push('--cpuunits', String(cpuUnits(cpu.shares, node.cgroup)));
  return args;
}

/** cgroup v2: cpu.weight; v1: cpu.shares. */
function cpuUnits(shares: number, cgroup: 'v1' | 'v2'): number { return cgroup === 'v2' ? weightOfShares(shares) : shares; }

/** A DNS name as pct takes it, of one label, for whatever a pod is called. */
function hostname(text: string): string {
  const label = text.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-+/, '').slice(0, 63).replace(/-+$/, '');
  return label || 'crisp';
}

function tagOf(text: string): string { return text.toLowerCase().replace(/[^a-z0-9_.+-]+/g, '-').replace(/^[^a-z0-9_]+/, ''); }

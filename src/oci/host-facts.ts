// The facts about the host that a spec depends on, read once at the start by
// the daemon and by the command line.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import type { Config } from '../config/config.js';
import { cgroupDriver, cgroupVersion } from '../host/cgroup.js';
import { hugePageSizes } from '../host/cgroup-stats.js';
import { boundingCapabilities, capabilityNames } from '../host/proc.js';
import { log } from '../log.js';
import type { Process } from '../shapes/spec.js';
import { defaultProfile } from './seccomp-default.js';
import { parseProfile, type DockerProfile } from './seccomp.js';
import { containerRlimits, givenNofileVariable } from './ulimits.js';

export interface HostFacts {
  readonly hostname: string;
  readonly cgroup: 'v1' | 'v2';
  readonly systemdCgroup: boolean;
  /** The capabilities that crisp may grant. */
  readonly capabilities: readonly string[];
  /** The capabilities of this kernel: the meaning of "all capabilities". */
  readonly kernelCapabilities: readonly string[];
  /** The profile of RuntimeDefault, in Docker's format; undefined: the configured file cannot be used. */
  readonly seccompProfile: DockerProfile | undefined;
  readonly apparmor: boolean;
  readonly selinux: boolean;
  /** The lowest oom_score_adj that crisp can set: lowering it requires CAP_SYS_RESOURCE (proc(5)). */
  readonly lowestOomScoreAdj: number;
  /** The limits of the processes of each container. */
  readonly rlimits: NonNullable<Process['rlimits']>;
  /** A kernel that does not account for swap (swapaccount=0, or without CONFIG_SWAP) cannot limit it. */
  readonly swapAccounting: boolean;
  /** The huge page sizes that can be limited, such as "2MB"; none without the hugetlb controller. */
  readonly hugepageSizes: readonly string[];
  /** The CPUs and memory nodes that are online. */
  readonly cpus: readonly number[];
  readonly memoryNodes: readonly number[];
}

/** Reads the facts, once at the start. */
export function readHostFacts(config: Config): HostFacts {
  const capabilities = boundingCapabilities();
  const cgroup = cgroupVersion();
  return {
    hostname: hostname(),
    cgroup,
    capabilities,
    systemdCgroup: cgroupDriver(config.runtime.cgroup_driver) === 'systemd',
    kernelCapabilities: capabilityNames.slice(
      0,
      Number(readFileSync('/proc/sys/kernel/cap_last_cap', 'utf8')) + 1,
    ),
    seccompProfile: config.runtime.seccomp_profile
      ? readProfile(config.runtime.seccomp_profile)
      : defaultProfile,
    apparmor: existsSync('/sys/kernel/security/apparmor/profiles'),
    selinux: existsSync('/sys/fs/selinux/enforce'),
    lowestOomScoreAdj: capabilities.includes('CAP_SYS_RESOURCE')
      ? -1000
      : Number(readFileSync('/proc/self/oom_score_adj', 'utf8')),
    rlimits: containerRlimits(
      config.runtime.default_ulimits,
      process.env[givenNofileVariable],
      readFileSync('/proc/self/limits', 'utf8'),
    ),
    swapAccounting:
      cgroup === 'v2'
        ? countsSwap('/sys/fs/cgroup')
        : existsSync('/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes'),
    hugepageSizes: hasHugetlb(cgroup) ? hugePageSizes() : [],
    cpus: onlineList('/sys/devices/system/cpu/online'),
    memoryNodes: onlineList('/sys/devices/system/node/online'),
  };
}

function readProfile(path: string): DockerProfile | undefined {
  try {
    return parseProfile(readFileSync(path, 'utf8'));
  } catch (error) {
    log.warn(
      { path, error: (error as Error).message },
      'no seccomp profile for RuntimeDefault: such containers are refused',
    );
    return undefined;
  }
}

/** v2's root group has no memory.swap.max: the groups below it show whether it exists. */
function countsSwap(root: string): boolean {
  const below = readdirSync(root, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const has = (file: string): boolean => below.some(({ name }) => existsSync(`${root}/${name}/${file}`));
  return has('memory.max') ? has('memory.swap.max') : existsSync('/proc/swaps');
}

function hasHugetlb(cgroup: 'v1' | 'v2'): boolean {
  return cgroup === 'v2'
    ? readFileSync('/sys/fs/cgroup/cgroup.controllers', 'utf8').split(/\s+/).includes('hugetlb')
    : existsSync('/sys/fs/cgroup/hugetlb');
}

/** Without NUMA there is no node folder: all memory is then node 0. */
function onlineList(path: string): number[] {
  return existsSync(path) ? (parseNumberList(readFileSync(path, 'utf8').trim()) ?? [0]) : [0];
}

/** "0-2,5" -> 0, 1, 2, 5 (cpuset(7), list format); undefined: not a valid list. */
export function parseNumberList(text: string): number[] | undefined {
  const numbers: number[] = [];
  for (const part of text.split(',')) {
    const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part);
    if (!match) return undefined;
    const first = Number(match[1]),
      last = Number(match[2] ?? match[1]);
    if (last < first) return undefined;
    for (let number = first; number <= last; number++) numbers.push(number);
  }
  return numbers;
}

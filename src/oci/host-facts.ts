// What a spec needs to know of the host, read once at start.
import { existsSync, readFileSync } from 'node:fs';
import type { Config } from '../config.js';
import { cgroupDriver, cgroupVersion } from '../host/cgroup.js';
import { boundingCapabilities } from '../host/proc.js';
import { log } from '../log.js';
import type { DockerProfile } from './seccomp.js';

export interface HostFacts {
  readonly cgroup: 'v1' | 'v2';
  readonly systemdCgroup: boolean;
  /** What we may hand on. */
  readonly capabilities: readonly string[];
  /** The profile of RuntimeDefault, in Docker's format; undefined: the host has none. */
  readonly seccompProfile: DockerProfile | undefined;
  readonly apparmor: boolean;
  readonly selinux: boolean;
  /** The lowest oom_score_adj that we can give: lowering it takes CAP_SYS_RESOURCE (proc(5)). */
  readonly lowestOomScoreAdj: number;
  /** v1 can only limit swap where the kernel accounts for it. */
  readonly swapAccounting: boolean;
}

export function readHostFacts(config: Config): HostFacts {
  const capabilities = boundingCapabilities();
  const cgroup = cgroupVersion();
  return {
    cgroup, capabilities,
    systemdCgroup: cgroupDriver(config.runtime.cgroup_driver) === 'systemd',
    seccompProfile: readProfile(config.runtime.seccomp_profile),
    apparmor: existsSync('/sys/kernel/security/apparmor/profiles'),
    selinux: existsSync('/sys/fs/selinux/enforce'),
    lowestOomScoreAdj: capabilities.includes('CAP_SYS_RESOURCE') ? -1000 : Number(readFileSync('/proc/self/oom_score_adj', 'utf8')),
    swapAccounting: cgroup === 'v2' ? existsSync('/proc/swaps') : existsSync('/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes'),
  };
}

function readProfile(path: string): DockerProfile | undefined {
  try { return JSON.parse(readFileSync(path, 'utf8')) as DockerProfile; } catch (error) {
    log.warn({ path, error: (error as Error).message }, 'no seccomp profile for RuntimeDefault: such containers are refused');
    return undefined;
  }
}

// Seccomp: the three modes of the CRI, and Docker's profile format (conditions on
// capabilities, architecture and kernel) resolved into the runtime-spec's. Pure.
import { arch as machineArch, release } from 'node:os';
import type { Seccomp } from './spec.js';

interface Conditions { readonly caps?: readonly string[]; readonly arches?: readonly string[]; readonly minKernel?: string }
interface DockerRule {
  readonly name?: string;
  readonly names?: readonly string[];
  readonly action: string;
  readonly errnoRet?: number;
  readonly args?: readonly { index: number; value: number; valueTwo?: number; op: string }[] | null;
  readonly includes?: Conditions;
  readonly excludes?: Conditions;
}
/** containers-common's seccomp.json, and what Localhost profiles may use as well. */
export interface DockerProfile {
  readonly defaultAction: string;
  readonly defaultErrnoRet?: number;
  readonly architectures?: readonly string[];
  readonly archMap?: readonly { architecture: string; subArchitectures?: readonly string[] | null }[] | null;
  readonly flags?: readonly string[];
  readonly syscalls?: readonly DockerRule[] | null;
}

/** Node's name of an architecture -> seccomp's, and Docker's in conditions. */
const architectures: Readonly<Record<string, { seccomp: string; docker: string }>> = {
  x64: { seccomp: 'SCMP_ARCH_X86_64', docker: 'amd64' }, arm64: { seccomp: 'SCMP_ARCH_AARCH64', docker: 'arm64' },
  arm: { seccomp: 'SCMP_ARCH_ARM', docker: 'arm' }, riscv64: { seccomp: 'SCMP_ARCH_RISCV64', docker: 'riscv64' },
  s390x: { seccomp: 'SCMP_ARCH_S390X', docker: 's390x' }, ppc64: { seccomp: 'SCMP_ARCH_PPC64LE', docker: 'ppc64le' },
};

/** A profile as the runtime-spec has it, for a process with these capabilities. */
export function resolveProfile(profile: DockerProfile, capabilities: readonly string[], machine = machineArch(), kernel = release()): Seccomp {
  const own = architectures[machine];
  const mapped = profile.archMap?.find((entry) => entry.architecture === own?.seccomp);
  const holds = (conditions: Conditions | undefined, whenEmpty: boolean): boolean => {
    if (!conditions || (!conditions.caps?.length && !conditions.arches?.length && !conditions.minKernel)) return whenEmpty;
    return (!conditions.caps?.length || conditions.caps.every((name) => capabilities.includes(name)))
      && (!conditions.arches?.length || conditions.arches.includes(own?.docker ?? ''))
      && (!conditions.minKernel || isAtLeast(kernel, conditions.minKernel));
  };
  return {
    defaultAction: profile.defaultAction,
    ...(profile.defaultErrnoRet === undefined ? {} : { defaultErrnoRet: profile.defaultErrnoRet }),
    architectures: mapped ? [mapped.architecture, ...mapped.subArchitectures ?? []] : [...profile.architectures ?? []],
    ...(profile.flags?.length ? { flags: [...profile.flags] } : {}),
    syscalls: (profile.syscalls ?? []).filter((rule) => holds(rule.includes, true) && !excluded(rule.excludes)).map((rule) => ({
      names: [...rule.names ?? (rule.name ? [rule.name] : [])], action: rule.action,
      ...(rule.errnoRet === undefined ? {} : { errnoRet: rule.errnoRet }),
      ...(rule.args?.length ? { args: rule.args.map(({ index, value, valueTwo, op }) => ({ index, value, ...(valueTwo ? { valueTwo } : {}), op })) } : {}),
    })),
  };

  /** One matching exclusion is enough. */
  function excluded(conditions: Conditions | undefined): boolean {
    return (conditions?.caps?.some((name) => capabilities.includes(name)) ?? false)
      || (conditions?.arches?.includes(own?.docker ?? '') ?? false)
      || (conditions?.minKernel !== undefined && isAtLeast(kernel, conditions.minKernel));
  }
}

function isAtLeast(kernel: string, wanted: string): boolean {
  const [major = 0, minor = 0] = kernel.split('.').map((part) => parseInt(part, 10));
  const [wantedMajor = 0, wantedMinor = 0] = wanted.split('.').map((part) => parseInt(part, 10));
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

// Seccomp profiles: resolves Docker's format (conditions on capabilities,
// architecture and kernel) into that of the runtime-spec. crisp's profile
// (seccomp-default.ts), an operator's and Localhost profiles are in Docker's
// format. Pure.
import { arch as machineArch, release } from 'node:os';
import * as z from 'zod';
import type { Seccomp } from '../shapes/spec.js';

const conditions = z
  .looseObject({
    caps: z.array(z.string()).nullish(),
    arches: z.array(z.string()).nullish(),
    minKernel: z.string().nullish(),
  })
  .nullish();
/** The kernel compares 64 bits, JSON here holds 53: a rounded value would have another meaning. */
const argument = z.looseObject({
  index: z.int().min(0).max(5),
  value: z.int().min(0),
  valueTwo: z.int().min(0).nullish(),
  op: z.string(),
});
const action = z.string().regex(/^SCMP_ACT_[A-Z_]+$/);
const profileSchema = z.looseObject({
  defaultAction: action,
  defaultErrnoRet: z.int().min(0).nullish(),
  architectures: z.array(z.string()).nullish(),
  archMap: z
    .array(z.looseObject({ architecture: z.string(), subArchitectures: z.array(z.string()).nullish() }))
    .nullish(),
  flags: z.array(z.string()).nullish(),
  listenerPath: z.string().nullish(),
  listenerMetadata: z.string().nullish(),
  syscalls: z
    .array(
      z.looseObject({
        /** Before Docker 1.12. */
        name: z.string().nullish(),
        names: z.array(z.string()).nullish(),
        action,
        errnoRet: z.int().min(0).nullish(),
        args: z.array(argument).nullish(),
        includes: conditions,
        excludes: conditions,
      }),
    )
    .nullish(),
});
export type DockerProfile = z.infer<typeof profileSchema>;
type Conditions = z.infer<typeof conditions>;

/** A profile from the text of its file. @throws Error with the reason why it is not valid */
export function parseProfile(text: string): DockerProfile {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new Error('it is not JSON'); // the message of JSON.parse quotes the file, which may be any file of the host
  }
  const result = profileSchema.safeParse(json);
  if (!result.success)
    throw new Error(
      result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; '),
    );
  return result.data;
}

/** Node's name of an architecture -> seccomp's, and Docker's in conditions. */
const architectures: Readonly<Record<string, { seccomp: string; docker: string }>> = {
  x64: { seccomp: 'SCMP_ARCH_X86_64', docker: 'amd64' },
  arm64: { seccomp: 'SCMP_ARCH_AARCH64', docker: 'arm64' },
  arm: { seccomp: 'SCMP_ARCH_ARM', docker: 'arm' },
  riscv64: { seccomp: 'SCMP_ARCH_RISCV64', docker: 'riscv64' },
  s390x: { seccomp: 'SCMP_ARCH_S390X', docker: 's390x' },
  ppc64: { seccomp: 'SCMP_ARCH_PPC64LE', docker: 'ppc64le' },
  loong64: { seccomp: 'SCMP_ARCH_LOONGARCH64', docker: 'loong64' },
};

/** A profile in the runtime-spec's format, for a process with these capabilities. */
export function resolveProfile(
  profile: DockerProfile,
  capabilities: readonly string[],
  machine = machineArch(),
  kernel = release(),
): Seccomp {
  const own = architectures[machine];
  const mapped = profile.archMap?.find((entry) => entry.architecture === own?.seccomp);
  const { defaultErrnoRet, flags, listenerPath, listenerMetadata } = profile;
  return {
    defaultAction: profile.defaultAction,
    ...(defaultErrnoRet == null ? {} : { defaultErrnoRet }),
    // A map without this machine means the native architecture alone, which is libseccomp's default.
    architectures: mapped
      ? [mapped.architecture, ...(mapped.subArchitectures ?? [])]
      : [...(profile.architectures ?? [])],
    ...(flags?.length ? { flags } : {}),
    ...(listenerPath ? { listenerPath } : {}),
    ...(listenerMetadata ? { listenerMetadata } : {}),
    syscalls: (profile.syscalls ?? [])
      .filter((rule) => included(rule.includes) && !excluded(rule.excludes))
      .map((rule) => ({
        names: rule.names ?? (rule.name ? [rule.name] : []),
        action: rule.action,
        ...(rule.errnoRet == null ? {} : { errnoRet: rule.errnoRet }),
        ...(rule.args?.length
          ? {
              args: rule.args.map(({ index, value, valueTwo, op }) => ({
                index,
                value,
                ...(valueTwo ? { valueTwo } : {}),
                op,
              })),
            }
          : {}),
      }))
      .filter((rule) => rule.names.length > 0),
  };

  /** Each given kind of condition must be met, and all of the capabilities. */
  function included(wanted: Conditions): boolean {
    return (
      (!wanted?.caps?.length || wanted.caps.every((name) => capabilities.includes(name))) &&
      (!wanted?.arches?.length || wanted.arches.includes(own?.docker ?? '')) &&
      (!wanted?.minKernel || isAtLeast(kernel, wanted.minKernel))
    );
  }
  /** One match is sufficient. */
  function excluded(unwanted: Conditions): boolean {
    return (
      (unwanted?.caps?.some((name) => capabilities.includes(name)) ?? false) ||
      (unwanted?.arches?.includes(own?.docker ?? '') ?? false) ||
      (!!unwanted?.minKernel && isAtLeast(kernel, unwanted.minKernel))
    );
  }
}

function isAtLeast(kernel: string, wanted: string): boolean {
  const [major = 0, minor = 0] = kernel.split('.').map((part) => parseInt(part, 10));
  const [wantedMajor = 0, wantedMinor = 0] = wanted.split('.').map((part) => parseInt(part, 10));
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

// Seccomp, AppArmor and SELinux of a container: checks the request against
// the features of the host. Pure over the facts of inspect.ts.
import type { LinuxContainerSecurityContext__Output } from '../cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import type { SELinuxOption__Output } from '../cri/generated/runtime/v1/SELinuxOption.js';
import { CrispError } from '../errors.js';
import type { HostFacts } from './host-facts.js';
import { resolveProfile, type DockerProfile } from './seccomp.js';
import type { Seccomp } from '../shapes/spec.js';

type Security = LinuxContainerSecurityContext__Output | null;
interface Profile {
  readonly type: 'RuntimeDefault' | 'Unconfined' | 'Localhost';
  readonly reference: string;
}

/** The AppArmor profile of RuntimeDefault, on hosts where it is loaded (deploy/apparmor). */
export const defaultAppArmorProfile = 'crisp-default';

/**
 * The file of a Localhost seccomp profile; undefined: none is requested, or the container is privileged.
 * @throws InvalidArgument
 */
export function seccompFile(security: Security): string | undefined {
  const wanted = seccompProfile(security);
  if (wanted.type !== 'Localhost') return undefined;
  if (!wanted.reference.startsWith('/'))
    throw new CrispError(
      'InvalidArgument',
      `seccomp.localhost_ref: "${wanted.reference}" must be an absolute path`,
    );
  return wanted.reference;
}

/** undefined: unconfined. @throws UnsupportedField, InvalidArgument */
export function containerSeccomp(
  security: Security,
  capabilities: readonly string[],
  host: Pick<HostFacts, 'seccompProfile'>,
  localProfile: DockerProfile | undefined,
): Seccomp | undefined {
  const wanted = seccompProfile(security);
  if (wanted.type === 'Unconfined') return undefined;
  const profile = wanted.type === 'Localhost' ? localProfile : host.seccompProfile;
  if (!profile)
    throw new CrispError('UnsupportedField', `seccomp ${wanted.type}: this host has no such profile`, {
      hint: 'runtime.seccomp_profile names a file that cannot be used; without it crisp has a profile of its own',
    });
  return resolveProfile(profile, capabilities);
}

/**
 * undefined: none. A requested profile is a protection: without it the
 * container is refused. Without a request the default is used if it is loaded.
 * A privileged container gets a profile that it names, but not the default, as
 * in containerd.
 * @param loaded the profiles that the kernel has
 * @throws UnsupportedField
 */
export function containerAppArmor(
  security: Security,
  host: Pick<HostFacts, 'apparmor'>,
  loaded: readonly string[],
): string | undefined {
  const wanted = profileOf(
    security?.apparmor ?? null,
    security?.apparmor_profile ?? '',
    'apparmor',
    'RuntimeDefault',
  );
  if (wanted.type === 'Unconfined' || (wanted.type === 'RuntimeDefault' && security?.privileged))
    return undefined;
  const profile = wanted.type === 'Localhost' ? wanted.reference : defaultAppArmorProfile;
  if (loaded.includes(profile)) return profile;
  if (!security?.apparmor && !security?.apparmor_profile) return undefined;
  throw host.apparmor
    ? new CrispError('UnsupportedField', `apparmor: profile "${profile}" is not loaded on this host`, {
        hint: 'load it with apparmor_parser',
      })
    : new CrispError(
        'UnsupportedField',
        `apparmor: the kernel of this host has no AppArmor, so profile "${profile}" cannot be applied`,
      );
}

/**
 * The labels of the process and of its mounts, with the pod's values for those
 * that the container does not set.
 * @throws InvalidArgument for values that cannot be part of a label
 */
export function selinuxLabels(
  container: SELinuxOption__Output | null,
  pod: SELinuxOption__Output | null,
  host: Pick<HostFacts, 'selinux'>,
): { process?: string; mount?: string; notHonoured: string[] } {
  const wanted = container ?? pod;
  if (!wanted || !(wanted.user || wanted.role || wanted.type || wanted.level)) return { notHonoured: [] };
  for (const field of ['user', 'role', 'type'] as const) {
    if (!/^\w*$/.test(wanted[field]))
      throw new CrispError(
        'InvalidArgument',
        `selinux_options.${field}: "${wanted[field]}" is not a valid SELinux name`,
      );
  }
  // s0:c1,c5 or s0-s0:c0.c1023 (the Multi-Level Security part of a context)
  if (!/^(s\d+(:c[\d.,c]+)?(-s\d+(:c[\d.,c]+)?)?)?$/.test(wanted.level))
    throw new CrispError(
      'InvalidArgument',
      `selinux_options.level: "${wanted.level}" is not a valid SELinux level`,
    );
  if (!host.selinux) return { notHonoured: ['linux.security_context.selinux_options'] };
  const user = wanted.user || 'system_u',
    level = wanted.level || 's0';
  return {
    process: [user, wanted.role || 'system_r', wanted.type || 'container_t', level].join(':'),
    mount: [user, 'object_r', 'container_file_t', level].join(':'),
    notHonoured: [],
  };
}

function seccompProfile(security: Security): Profile {
  const wanted = profileOf(
    security?.seccomp ?? null,
    security?.seccomp_profile_path ?? '',
    'seccomp',
    'Unconfined',
  );
  return security?.privileged ? { type: 'Unconfined', reference: '' } : wanted;
}

/**
 * The current field, or the deprecated string: "", "unconfined", "runtime/default", "docker/default",
 * "localhost/NAME".
 */
function profileOf(
  profile: { profile_type: string; localhost_ref: string } | null,
  deprecated: string,
  field: string,
  whenUnset: Profile['type'],
): Profile {
  if (profile) {
    if (profile.profile_type === 'Localhost' && !profile.localhost_ref)
      throw new CrispError('InvalidArgument', `${field}.localhost_ref is empty`);
    return {
      type: profile.profile_type as Profile['type'],
      reference: profile.localhost_ref.replace(/^localhost\//, ''),
    };
  }
  if (deprecated === '') return { type: whenUnset, reference: '' };
  if (deprecated === 'unconfined') return { type: 'Unconfined', reference: '' };
  if (deprecated === 'runtime/default' || deprecated === 'docker/default')
    return { type: 'RuntimeDefault', reference: '' };
  if (deprecated.startsWith('localhost/'))
    return { type: 'Localhost', reference: deprecated.slice('localhost/'.length) };
  throw new CrispError('InvalidArgument', `${field}: unknown profile "${deprecated}"`);
}

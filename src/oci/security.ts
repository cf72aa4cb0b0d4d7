// Seccomp, AppArmor and SELinux of a container: what was asked, against what
// the host has. Pure but for reading a Localhost seccomp profile.
import { readFileSync } from 'node:fs';
import type { LinuxContainerSecurityContext__Output } from '../cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import type { SELinuxOption__Output } from '../cri/generated/runtime/v1/SELinuxOption.js';
import { CrispError } from '../errors.js';
import type { HostFacts } from './host-facts.js';
import { resolveProfile, type DockerProfile } from './seccomp.js';
import type { Seccomp } from './spec.js';

type Security = LinuxContainerSecurityContext__Output | null;

/** undefined: unconfined. @throws UnsupportedField, InvalidArgument */
export function containerSeccomp(security: Security, privileged: boolean, capabilities: readonly string[], host: HostFacts): Seccomp | undefined {
  const wanted = profileOf(security?.seccomp ?? null, security?.seccomp_profile_path ?? '', 'seccomp');
  if (privileged || wanted.type === 'Unconfined') return undefined;
  if (wanted.type === 'RuntimeDefault') {
    if (!host.seccompProfile) throw new CrispError('UnsupportedField', 'seccomp RuntimeDefault: this host has no default profile', { hint: 'install golang-github-containers-common, or set runtime.seccomp_profile' });
    return resolveProfile(host.seccompProfile, capabilities);
  }
  if (!wanted.reference.startsWith('/')) throw new CrispError('InvalidArgument', `seccomp.localhost_ref: "${wanted.reference}" must be an absolute path`);
  let profile: DockerProfile;
  try { profile = JSON.parse(readFileSync(wanted.reference, 'utf8')) as DockerProfile; } catch (error) {
    throw new CrispError('InvalidArgument', `seccomp.localhost_ref: ${wanted.reference} cannot be used: ${(error as Error).message}`);
  }
  if (!profile.defaultAction) throw new CrispError('InvalidArgument', `seccomp.localhost_ref: ${wanted.reference} has no defaultAction`);
  return resolveProfile(profile, capabilities);
}

/** undefined: none. A profile by name is refused where the kernel cannot apply it: it was asked for as a protection. */
export function containerAppArmor(security: Security, privileged: boolean, host: HostFacts): { profile: string | undefined; notHonoured: string[] } {
  const wanted = profileOf(security?.apparmor ?? null, security?.apparmor_profile ?? '', 'apparmor');
  if (privileged || wanted.type === 'Unconfined') return { profile: undefined, notHonoured: [] };
  if (wanted.type === 'Localhost') {
    if (!host.apparmor) throw new CrispError('UnsupportedField', `apparmor: the kernel of this host has no AppArmor, so profile "${wanted.reference}" cannot be applied`);
    return { profile: wanted.reference, notHonoured: [] };
  }
  const asked = security?.apparmor !== null && security?.apparmor !== undefined;
  return { profile: undefined, notHonoured: asked ? ['linux.security_context.apparmor'] : [] };
}

/** "user:role:type:level", with the pod's values where the container has none. */
export function selinuxLabel(container: SELinuxOption__Output | null, pod: SELinuxOption__Output | null, host: HostFacts): { label: string | undefined; notHonoured: string[] } {
  const wanted = container ?? pod;
  if (!wanted || !(wanted.user || wanted.role || wanted.type || wanted.level)) return { label: undefined, notHonoured: [] };
  if (!host.selinux) return { label: undefined, notHonoured: ['linux.security_context.selinux_options'] };
  return { label: [wanted.user || 'system_u', wanted.role || 'system_r', wanted.type || 'container_t', wanted.level || 's0'].join(':'), notHonoured: [] };
}

/** The field that counts, or the deprecated path: "", "unconfined", "runtime/default", "docker/default", "localhost/NAME". */
function profileOf(profile: { profile_type: string; localhost_ref: string } | null, deprecated: string, field: string): { type: 'RuntimeDefault' | 'Unconfined' | 'Localhost'; reference: string } {
  if (profile) {
    if (profile.profile_type === 'Localhost' && !profile.localhost_ref) throw new CrispError('InvalidArgument', `${field}.localhost_ref is empty`);
    return { type: profile.profile_type as 'RuntimeDefault', reference: profile.localhost_ref.replace(/^localhost\//, '') };
  }
  if (deprecated === '' || deprecated === 'unconfined') return { type: 'Unconfined', reference: '' };
  if (deprecated === 'runtime/default' || deprecated === 'docker/default') return { type: 'RuntimeDefault', reference: '' };
  if (deprecated.startsWith('localhost/')) return { type: 'Localhost', reference: deprecated.slice('localhost/'.length) };
  throw new CrispError('InvalidArgument', `${field}: unknown profile "${deprecated}"`);
}

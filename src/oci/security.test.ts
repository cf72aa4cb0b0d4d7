import { describe, expect, test } from '@jest/globals';
import type { LinuxContainerSecurityContext } from '../cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import type { SELinuxOption } from '../cri/generated/runtime/v1/SELinuxOption.js';
import { receivedSecurity } from '../../test/helpers/received.js';
import { containerAppArmor, containerSeccomp, seccompFile, selinuxLabels } from './security.js';

const profile = { defaultAction: 'SCMP_ACT_ERRNO' };
const local = { defaultAction: 'SCMP_ACT_LOG' };

describe('seccomp', () => {
  const action = (
    wanted: LinuxContainerSecurityContext,
    seccompProfile: typeof profile | undefined = profile,
  ) => containerSeccomp(receivedSecurity(wanted), [], { seccompProfile }, local)?.defaultAction;
  test.each<[LinuxContainerSecurityContext, string | undefined]>([
    [{}, undefined],
    [{ seccomp: { profile_type: 'Unconfined' } }, undefined],
    [{ seccomp: { profile_type: 'RuntimeDefault' } }, 'SCMP_ACT_ERRNO'],
    [{ seccomp: { profile_type: 'Localhost', localhost_ref: '/p.json' } }, 'SCMP_ACT_LOG'],
    [{ seccomp_profile_path: 'unconfined' }, undefined],
    [{ seccomp_profile_path: 'runtime/default' }, 'SCMP_ACT_ERRNO'],
    [{ seccomp_profile_path: 'docker/default' }, 'SCMP_ACT_ERRNO'],
    [{ seccomp_profile_path: 'localhost//p.json' }, 'SCMP_ACT_LOG'],
    [{ seccomp_profile_path: 'runtime/default', seccomp: { profile_type: 'Unconfined' } }, undefined],
    [{ seccomp: { profile_type: 'RuntimeDefault' }, privileged: true }, undefined],
  ])('%j: %s', (wanted, expected) => {
    expect(action(wanted)).toBe(expected);
  });
  test('the file that it needs', () => {
    expect(seccompFile(null)).toBeUndefined();
    expect(seccompFile(receivedSecurity({ seccomp_profile_path: 'localhost//p.json' }))).toBe('/p.json');
    expect(() => seccompFile(receivedSecurity({ seccomp_profile_path: 'localhost/p.json' }))).toThrow(
      'absolute',
    );
  });
  test('RuntimeDefault is refused without a profile', () => {
    expect(() =>
      containerSeccomp(
        receivedSecurity({ seccomp: { profile_type: 'RuntimeDefault' } }),
        [],
        { seccompProfile: undefined },
        undefined,
      ),
    ).toThrow(expect.objectContaining({ id: 'UnsupportedField' }));
  });
  test('an unknown name is refused', () => {
    expect(() => action({ seccomp_profile_path: 'mine' })).toThrow('unknown profile "mine"');
  });
});

describe('AppArmor', () => {
  const of = (wanted: LinuxContainerSecurityContext, loaded: string[] = [], apparmor = true) =>
    containerAppArmor(receivedSecurity(wanted), { apparmor }, loaded);
  test('a named profile is applied, or refused', () => {
    expect(of({ apparmor: { profile_type: 'Localhost', localhost_ref: 'mine' } }, ['mine'])).toBe('mine');
    expect(of({ apparmor_profile: 'localhost/mine' }, ['mine'])).toBe('mine');
    expect(() => of({ apparmor_profile: 'localhost/mine' }, ['other'])).toThrow(
      expect.objectContaining({ id: 'UnsupportedField' }),
    );
    expect(() => of({ apparmor_profile: 'localhost/mine' }, [], false)).toThrow(
      expect.objectContaining({ id: 'UnsupportedField' }),
    );
  });
  test('the default is our profile if it is loaded; else explicit requests for it are refused', () => {
    expect(of({}, ['crisp-default'])).toBe('crisp-default');
    expect(of({})).toBeUndefined();
    expect(() => of({ apparmor: { profile_type: 'RuntimeDefault' } })).toThrow(
      'profile "crisp-default" is not loaded',
    );
    expect(() => of({ apparmor_profile: 'runtime/default' }, [], false)).toThrow(
      'the kernel of this host has no AppArmor',
    );
  });
  test('unconfined has no profile', () => {
    expect(of({ apparmor: { profile_type: 'Unconfined' } }, ['crisp-default'])).toBeUndefined();
  });
  test('a privileged container has no profile unless it names one', () => {
    expect(of({ privileged: true }, ['crisp-default'])).toBeUndefined();
    expect(
      of({ privileged: true, apparmor: { profile_type: 'RuntimeDefault' } }, ['crisp-default']),
    ).toBeUndefined();
    expect(
      of({ privileged: true, apparmor: { profile_type: 'Localhost', localhost_ref: 'mine' } }, ['mine']),
    ).toBe('mine');
    expect(() =>
      of({ privileged: true, apparmor: { profile_type: 'Localhost', localhost_ref: 'mine' } }),
    ).toThrow(expect.objectContaining({ id: 'UnsupportedField' }));
  });
});

describe('SELinux', () => {
  const of = (container: SELinuxOption | null, pod: SELinuxOption | null = null, selinux = true) => {
    const convert = (wanted: SELinuxOption | null) =>
      wanted && receivedSecurity({ selinux_options: wanted }).selinux_options;
    return selinuxLabels(convert(container), convert(pod), { selinux });
  };
  test('labels of the process and its mounts', () => {
    expect(of({ user: 'u', role: 'r', type: 't', level: 's1' })).toMatchObject({
      process: 'u:r:t:s1',
      mount: 'u:object_r:container_file_t:s1',
    });
    expect(of({ level: 's0:c4,c5' })).toEqual({
      process: 'system_u:system_r:container_t:s0:c4,c5',
      mount: 'system_u:object_r:container_file_t:s0:c4,c5',
      notHonoured: [],
    });
    expect(of(null, { type: 'spc_t' })).toMatchObject({ process: 'system_u:system_r:spc_t:s0' });
    expect(of(null)).toEqual({ notHonoured: [] });
    expect(of({}, null, false)).toEqual({ notHonoured: [] });
  });
  test('are reported if the kernel does not support them', () => {
    expect(of({ level: 's0' }, null, false)).toEqual({
      notHonoured: ['linux.security_context.selinux_options'],
    });
  });
  test.each([{ level: 's0,c4,c5' }, { level: 'top' }, { type: 'a:b' }, { user: 'a b' }])(
    '%j is refused',
    (wanted) => {
      expect(() => of(wanted)).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
    },
  );
});

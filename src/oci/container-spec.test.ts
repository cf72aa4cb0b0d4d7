import { describe, expect, test } from '@jest/globals';
import type { SandboxPlan } from '../shapes/sandbox.js';
import type { ContainerConfig } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { LinuxContainerResources } from '../cri/generated/runtime/v1/LinuxContainerResources.js';
import type { LinuxContainerSecurityContext } from '../cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import type { PodSandboxConfig } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { receivedContainer, receivedPod } from '../../test/helpers/received.js';
import {
  idMap,
  podInUserNamespace,
  specIdMap,
  userNamespaceFrom,
} from '../../test/helpers/user-namespaces.js';
import { defaultCapabilities } from './capabilities.js';
import { containerSpec, type SpecInput } from './container-spec.js';
import type { HostFacts } from './host-facts.js';
import { noCdi } from './cdi.js';
import type { RootfsFacts } from './inspect.js';
import { maskedPaths, readonlyPaths } from './hidden-paths.js';
import { minimalSpec } from './minimal-spec.js';
import { validateSpec } from './spec-schema.js';

const host: HostFacts = {
  hostname: 'node',
  cgroup: 'v1',
  systemdCgroup: false,
  capabilities: defaultCapabilities,
  kernelCapabilities: [...defaultCapabilities, 'CAP_SYS_ADMIN'],
  seccompProfile: { defaultAction: 'SCMP_ACT_ERRNO' },
  apparmor: false,
  selinux: false,
  lowestOomScoreAdj: -1000,
  rlimits: [],
  swapAccounting: false,
  hugepageSizes: [],
  cpus: [0],
  memoryNodes: [0],
};
const plan: SandboxPlan = {
  id: 'sandbox',
  name: 'pod',
  namespace: 'test',
  uid: 'u1',
  attempt: 0,
  labels: {},
  annotations: {},
  folder: '/state/pods/sandbox',
  hostname: 'box',
  namespaces: { network: '/ns/net', ipc: '/ns/ipc', uts: '/ns/uts' },
  cgroupParent: '/pods/pod1',
};
const image = { Entrypoint: ['/entry'], Env: ['PATH=/image'] };

/** As if everything that is named were there, with no symlinks on the way. */
function facts(wanted: ContainerConfig, cdi = noCdi): RootfsFacts {
  return {
    accounts: { passwd: '', group: '' },
    devices: [],
    hostDevices: [],
    cdi,
    seccompProfile: undefined,
    apparmorProfiles: [],
    mounts: (wanted.mounts ?? []).map((mount) => ({
      target: mount.container_path ?? '',
      source: mount.host_path ?? '',
      propagation: 'shared',
    })),
  };
}
function of(wanted: ContainerConfig = {}, sandbox: PodSandboxConfig = {}, more: Partial<SpecInput> = {}) {
  const config = receivedContainer(wanted);
  const made = containerSpec({
    config,
    sandbox: receivedPod(sandbox),
    image,
    plan,
    containerId: 'container',
    rootfs: '/rootfs',
    facts: facts(wanted),
    host,
    podFolder: '/state/pods/sandbox',
    sharedMemory: '/state/pods/sandbox/shm',
    volumes: [],
    allowedAnnotations: [],
    ...more,
  });
  expect(validateSpec(made.spec)).toEqual([]);
  return made;
}
const secure = (security_context: LinuxContainerSecurityContext): ContainerConfig => ({
  linux: { security_context },
});
const privilegedPod: PodSandboxConfig = { linux: { security_context: { privileged: true } } };

test('a container without any settings', () => {
  const { spec, user, notHonoured } = of();
  expect(notHonoured).toEqual([]);
  expect(user).toEqual({ uid: 0, gid: 0, supplementalGroups: [0] });
  expect(spec).toMatchObject({
    process: {
      terminal: false,
      user: { uid: 0, gid: 0, additionalGids: [0] },
      args: ['/entry'],
      cwd: '/',
      noNewPrivileges: false,
      oomScoreAdj: 0,
    },
    root: { path: '/rootfs', readonly: false },
    linux: {
      cgroupsPath: '/pods/pod1/container',
      maskedPaths: [...maskedPaths],
      readonlyPaths: [...readonlyPaths],
    },
    annotations: {
      'io.crisp.container-id': 'container',
      'io.crisp.container-name': 'main',
      'io.crisp.image': 'busybox',
      'io.crisp.sandbox-id': 'sandbox',
      'io.crisp.pod-name': 'pod',
      'io.crisp.pod-namespace': 'test',
      'io.crisp.pod-uid': 'u1',
    },
  });
  // The pinned namespaces have their hostname and sysctls already, and the runtime would refuse to set them in a joined one.
  expect(spec.hostname).toBeUndefined();
  expect(spec.linux.sysctl).toBeUndefined();
  expect(spec.linux.seccomp).toBeUndefined();
});

describe('the scope of a container under systemd', () => {
  const slice = {
    host: { ...host, cgroup: 'v2' as const, systemdCgroup: true },
    plan: { ...plan, cgroupParent: '/kubepods.slice/kubepods-pod1.slice' },
  };
  const properties = (wanted: ContainerConfig) =>
    Object.entries(of(wanted, {}, slice).spec.annotations ?? {}).filter(([key]) =>
      key.startsWith('org.systemd.'),
    );

  test('has no task limit of its own, and the grace period of the pod', () => {
    expect(of({}, {}, slice).spec.linux.cgroupsPath).toBe('kubepods-pod1.slice:crisp:container');
    expect(properties({})).toEqual([['org.systemd.property.TasksMax', 'uint64 18446744073709551615']]);
    expect(properties({ annotations: { 'io.kubernetes.pod.terminationGracePeriod': '30' } })).toContainEqual([
      'org.systemd.property.TimeoutStopUSec',
      'uint64 30000000',
    ]);
  });

  test.each(['', '-1', '1e9', 'x'])('takes no grace period from "%s"', (text) => {
    expect(properties({ annotations: { 'io.kubernetes.pod.terminationGracePeriod': text } })).toHaveLength(1);
  });

  test('keeps a task limit that the container requests', () => {
    expect(properties({ linux: { resources: { unified: { 'pids.max': '64' } } } })).toEqual([]);
  });
});

test('the security of a container', () => {
  const { spec } = of({
    tty: true,
    ...secure({
      readonly_rootfs: true,
      no_new_privs: true,
      masked_paths: ['/proc/kcore'],
      readonly_paths: ['/proc/sys'],
      seccomp: { profile_type: 'RuntimeDefault' },
      capabilities: { drop_capabilities: ['ALL'] },
    }),
  });
  expect(spec).toMatchObject({
    process: { terminal: true, noNewPrivileges: true, capabilities: { bounding: [] } },
    root: { readonly: true },
    linux: {
      maskedPaths: ['/proc/kcore'],
      readonlyPaths: ['/proc/sys'],
      seccomp: { defaultAction: 'SCMP_ACT_ERRNO' },
    },
  });
});

test('the default paths apply to each list that is not set, unless the pod has its own user namespace', () => {
  expect(of(secure({ masked_paths: ['/proc/kcore'] })).spec.linux).toMatchObject({
    maskedPaths: ['/proc/kcore'],
    readonlyPaths: [...readonlyPaths],
  });
  const unmasked = of({}, podInUserNamespace(100_000), {
    plan: { ...plan, namespaces: { ...plan.namespaces, user: '/ns/user' } },
  });
  expect(unmasked.spec.linux).toMatchObject({ maskedPaths: [], readonlyPaths: [] });
  // A user namespace that the backend gives (a CT's) says nothing about procMount.
  const ofBackend = of({}, {}, { plan: { ...plan, namespaces: { ...plan.namespaces, user: '/ns/user' } } });
  expect(ofBackend.spec.linux).toMatchObject({ maskedPaths: [...maskedPaths] });
});

test('the ulimits of the host apply to the container', () => {
  const rlimits = [{ type: 'RLIMIT_NOFILE', soft: 1024, hard: 4096 }];
  expect(of().spec.process).not.toHaveProperty('rlimits');
  expect(of({}, {}, { host: { ...host, rlimits } }).spec.process.rlimits).toEqual(rlimits);
});

test('a negative quota means no quota', () => {
  const cpu = (resources: LinuxContainerResources) => of({ linux: { resources } }).spec.linux.resources?.cpu;
  expect(cpu({ cpu_quota: -1, cpu_period: 100_000, cpu_shares: 512 })).toEqual({
    period: 100_000,
    shares: 512,
  });
  expect(cpu({ cpu_quota: -1 })).toBeUndefined();
  expect(cpu({ cpu_quota: 50_000 })).toEqual({ quota: 50_000 });
});

test('only allowed annotations are passed to the runtime; those of the container override those of the pod', () => {
  const annotations = { 'run.oci.handler': 'wasm', 'example.com/a': 'container' };
  const more = {
    allowedAnnotations: ['example.com/*'],
    plan: { ...plan, annotations: { 'example.com/a': 'pod', 'example.com/b': 'pod', other: 'pod' } },
  };
  const theirs = Object.entries(of({ annotations }, undefined, more).spec.annotations ?? {}).filter(
    ([key]) => !key.startsWith('io.crisp.'),
  );
  expect(Object.fromEntries(theirs)).toEqual({ 'example.com/a': 'container', 'example.com/b': 'pod' });
});

test('a privileged container has no masked paths, and needs a privileged pod', () => {
  const wanted = secure({ privileged: true, masked_paths: ['/proc/kcore'], readonly_paths: ['/proc/sys'] });
  const { spec, notHonoured } = of(wanted, privilegedPod);
  expect(spec.linux).not.toHaveProperty('maskedPaths');
  expect(spec.linux.resources?.devices).toEqual([{ allow: true, access: 'rwm' }]);
  expect(notHonoured).toEqual(['linux.security_context.privileged']); // the host lacks CAP_SYS_ADMIN
  expect(() => of(wanted)).toThrow('the pod of this container is not privileged');
});

describe('a setting that cannot be applied is reported', () => {
  test.each<[string, ContainerConfig]>([
    ['linux.security_context.capabilities', secure({ capabilities: { add_capabilities: ['SYS_ADMIN'] } })],
    ['linux.security_context.selinux_options', secure({ selinux_options: { level: 's0' } })],
    [
      'linux.security_context.namespace_options.network',
      secure({ namespace_options: { network: 'NODE', pid: 'CONTAINER' } }),
    ],
    [
      'linux.resources.memory_swap_limit_in_bytes',
      { linux: { resources: { memory_limit_in_bytes: 1 << 20, memory_swap_limit_in_bytes: 1 << 20 } } },
    ],
    ['linux.resources.oom_score_adj', { linux: { resources: { oom_score_adj: -5 } } }],
    ['windows', { windows: {} }],
  ])('%s', (field, wanted) => {
    expect(of(wanted, {}, { host: { ...host, lowestOomScoreAdj: 0 } }).notHonoured).toEqual([field]);
  });
});

test('the SELinux labels of the pod apply to a container without its own', () => {
  const pod: PodSandboxConfig = { linux: { security_context: { selinux_options: { level: 's0:c1,c2' } } } };
  expect(of({}, pod, { host: { ...host, selinux: true } }).spec).toMatchObject({
    process: { selinuxLabel: 'system_u:system_r:container_t:s0:c1,c2' },
    linux: { mountLabel: 'system_u:object_r:container_file_t:s0:c1,c2' },
  });
  expect(of({}, pod).notHonoured).toEqual(['linux.security_context.selinux_options']);
});

test('the user namespace of the pod, which the container must match', () => {
  const userns_options = userNamespaceFrom(100_000);
  const pod = podInUserNamespace(100_000);
  const mapped: Partial<SpecInput> = {
    plan: { ...plan, namespaces: { ...plan.namespaces, user: '/ns/user' } },
  };
  const { spec } = of(secure({ namespace_options: { pid: 'CONTAINER', userns_options } }), pod, mapped);
  expect(spec.linux).toMatchObject({
    uidMappings: specIdMap(100_000),
    gidMappings: specIdMap(100_000),
  });
  expect(spec.linux.namespaces).toContainEqual({ type: 'user', path: '/ns/user' });
  expect(() =>
    of(
      secure({
        namespace_options: { userns_options: { ...userns_options, uids: idMap(0) } },
      }),
      pod,
      mapped,
    ),
  ).toThrow('differ from those of the pod');
  expect(() => of(secure({ namespace_options: { userns_options } }))).toThrow('differ from those of the pod');
});

test('CDI devices are applied to every part of the spec', () => {
  const cdi = {
    env: ['GPU=0'],
    devices: [{ device: { type: 'c' as const, path: '/dev/gpu', major: 9, minor: 1 }, permissions: 'rw' }],
    mounts: [{ destination: '/lib/gpu', source: '/usr/lib/gpu', type: 'bind', options: ['bind'] }],
    hooks: { createContainer: [{ path: '/usr/bin/hook' }] },
    additionalGids: [44],
    notHonoured: [],
  };
  const { spec, user } = of({}, {}, { facts: facts({}, cdi) });
  expect(spec.process.env).toContain('GPU=0');
  expect(spec.process.user.additionalGids).toEqual([0, 44]);
  expect(user.supplementalGroups).toEqual([0]);
  expect(spec.mounts).toContainEqual(cdi.mounts[0]);
  expect(spec.hooks).toEqual(cdi.hooks);
  expect(spec.linux.devices).toEqual([cdi.devices[0]?.device]);
  expect(spec.linux.resources?.devices?.at(-1)).toEqual({
    allow: true,
    type: 'c',
    major: 9,
    minor: 1,
    access: 'rw',
  });
});

test('SELinux labels, if the kernel supports them', () => {
  const { spec, notHonoured } = of(
    {
      ...secure({ selinux_options: { level: 's0:c1' } }),
      mounts: [{ host_path: '/x', container_path: '/x', selinux_relabel: true }],
    },
    {},
    { host: { ...host, selinux: true } },
  );
  expect(spec.process.selinuxLabel).toBe('system_u:system_r:container_t:s0:c1');
  expect(spec.linux.mountLabel).toBe('system_u:object_r:container_file_t:s0:c1');
  expect(notHonoured).toEqual(['mounts.selinux_relabel']);
});

test.each([-1001, 1001])('an oom_score_adj of %i is refused', (oom_score_adj) => {
  expect(() => of({ linux: { resources: { oom_score_adj } } })).toThrow('resources.oom_score_adj');
});

test('a pod without a hostname has the hostname of the host', () => {
  expect(of({}, {}, { plan: { ...plan, hostname: undefined } }).spec.process.env).toContain('HOSTNAME=node');
});

test('the minimal profile needs no pod', () => {
  const spec = minimalSpec(image, { passwd: '', group: '' });
  expect(validateSpec(spec)).toEqual([]);
  expect(spec).toMatchObject({
    hostname: 'crisp',
    root: { path: 'rootfs' },
    process: { args: ['/entry'], noNewPrivileges: true },
  });
  expect(spec.linux.maskedPaths).toEqual([...maskedPaths]); // the defaults, as for other containers
  expect(() => minimalSpec({}, { passwd: '', group: '' })).toThrow('there is no command');
});

test('the whole spec of a container without any settings has no empty parts', () => {
  const { spec } = of();
  expect(Object.keys(spec.process).sort()).toEqual(
    ['args', 'capabilities', 'cwd', 'env', 'noNewPrivileges', 'oomScoreAdj', 'terminal', 'user'].sort(),
  );
  expect(Object.keys(spec).sort()).toEqual([
    'annotations',
    'linux',
    'mounts',
    'ociVersion',
    'process',
    'root',
  ]);
  expect(Object.keys(spec.linux).sort()).toEqual(
    ['cgroupsPath', 'devices', 'maskedPaths', 'namespaces', 'readonlyPaths', 'resources', 'rootfsPropagation']
      .filter((key) => key !== 'rootfsPropagation' || spec.linux.rootfsPropagation)
      .sort(),
  );
});

test.each([-1000, 0, 1000])('an oom_score_adj of %i is applied', (oom_score_adj) => {
  const { spec, notHonoured } = of({ linux: { resources: { oom_score_adj } } });
  expect([spec.process.oomScoreAdj, notHonoured]).toEqual([oom_score_adj, []]);
});

test('a quota is kept beside other limits, and zero is no quota of -1', () => {
  const cpu = (resources: LinuxContainerResources): unknown =>
    of({ linux: { resources } }).spec.linux.resources?.cpu;
  expect(cpu({ cpu_quota: 5_000, cpu_period: 100_000, cpu_shares: 7 })).toEqual({
    quota: 5_000,
    period: 100_000,
    shares: 7,
  });
  expect(cpu({ cpu_quota: -1, cpu_shares: 7 })).toEqual({ shares: 7 });
  expect(cpu({ cpu_quota: -1 })).toBeUndefined();
});

test('a privileged container that cannot have all capabilities is reported as such', () => {
  const { notHonoured } = of(secure({ privileged: true }), privilegedPod);
  expect(notHonoured).toEqual(['linux.security_context.privileged']);
});

test('the annotation of the image is the name that the user gave', () => {
  const image_ = (image: NonNullable<ContainerConfig['image']>): unknown =>
    of({ image }).spec.annotations?.['io.crisp.image'];
  expect(image_({ image: 'sha256:1', user_specified_image: 'nginx:1' })).toBe('nginx:1');
  expect(image_({ image: 'sha256:1' })).toBe('sha256:1');
});

test('a relabel without SELinux is nothing to report', () => {
  const wanted = { mounts: [{ host_path: '/x', container_path: '/x', selinux_relabel: true }] };
  expect(of(wanted).notHonoured).toEqual([]);
});

test('mounts that the CRI has no words for come after those of the request', () => {
  const moreMounts = [{ destination: '/cache', type: 'tmpfs', source: 'tmpfs', options: ['size=1m'] }];
  expect(of({}, {}, { moreMounts }).spec.mounts).toContainEqual(moreMounts[0]);
});

test('without the result of a probe every feature counts as supported', () => {
  const wanted: ContainerConfig = {
    mounts: [{ host_path: '/x', container_path: '/x', readonly: true, recursive_read_only: true }],
  };
  const options = of(wanted).spec.mounts.find(({ destination }) => destination === '/x')?.options;
  expect(options).toContain('rro');
  const features = { recursiveReadOnlyMounts: false, userNamespaces: true };
  expect(() => of(wanted, {}, { features })).toThrow(expect.objectContaining({ id: 'RROUnsupported' }));
});

test('a read-only rootfs is read-only for the runtime', () => {
  expect(of(secure({ readonly_rootfs: true })).spec.root).toEqual({ path: '/rootfs', readonly: true });
  expect(of().spec.root).toEqual({ path: '/rootfs', readonly: false });
});

test('a container with an IPC namespace of its own has shared memory of its own', () => {
  const shm = (wanted: ContainerConfig): unknown =>
    of(wanted).spec.mounts.find(({ destination }) => destination === '/dev/shm')?.source;
  expect(shm({})).toBe('/state/pods/sandbox/shm');
  expect(shm(secure({ namespace_options: { ipc: 'CONTAINER' } }))).not.toBe('/state/pods/sandbox/shm');
});

test('a relabel is reported where there is SELinux, and only for a mount that asks for it', () => {
  const wanted = { mounts: [{ host_path: '/x', container_path: '/x' }] };
  expect(of(wanted, {}, { host: { ...host, selinux: true } }).notHonoured).toEqual([]);
});

test('the AppArmor profile is that of the request, on a host with AppArmor', () => {
  const wanted = secure({ apparmor: { profile_type: 'Localhost', localhost_ref: 'mine' } });
  const made = of(
    wanted,
    {},
    {
      host: { ...host, apparmor: true },
      facts: { ...facts(wanted), apparmorProfiles: ['mine'] },
    },
  );
  expect(made.spec.process.apparmorProfile).toBe('mine');
});

test('the minimal profile has the rights and the mounts of every container, and hides kernel files', () => {
  const { process, mounts, linux } = minimalSpec(image, { passwd: '', group: '' });
  expect(process.capabilities).toMatchObject({
    bounding: defaultCapabilities,
    effective: defaultCapabilities,
    ambient: [],
  });
  expect(mounts.map(({ destination }) => destination)).toEqual(
    expect.arrayContaining(['/proc', '/dev', '/dev/pts', '/dev/shm', '/sys']),
  );
  expect(mounts.find(({ destination }) => destination === '/sys')?.options).toContain('ro');
  expect(linux.maskedPaths).toEqual(expect.arrayContaining(['/proc/kcore', '/proc/keys', '/sys/firmware']));
  expect(linux.namespaces.map(({ type }) => type)).toEqual(['pid', 'network', 'mount', 'ipc', 'uts']);
});

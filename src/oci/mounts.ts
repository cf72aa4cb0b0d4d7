// The mounts of a container: the standard mounts, the pod's files, and the
// mounts of the request. Pure over the facts of inspect.ts.
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { Mount__Output } from '../cri/generated/runtime/v1/Mount.js';
import { CrispError } from '../errors.js';
import type { MountFacts } from './inspect.js';
import { hasCgroupNamespace, idMappings } from './namespaces.js';
import { podFileNames } from '../pod/files.js';
import type { Mount } from '../shapes/spec.js';

export interface MountsInput {
  readonly config: ContainerConfig__Output;
  readonly facts: readonly MountFacts[];
  readonly privileged: boolean;
  readonly readOnlyRootfs: boolean;
  readonly hostNetwork: boolean;
  readonly hasUserNamespace: boolean;
  /** The pod's /dev/shm; undefined: the host's. */
  readonly sharedMemory: string | undefined;
  /** The container has an ipc namespace of its own, and so a /dev/shm of its own. */
  readonly hasOwnIpc: boolean;
  /** The folder with the pod's resolv.conf, hosts and hostname. */
  readonly podFolder: string;
  readonly cgroup: 'v1' | 'v2';
  /** The VOLUMEs of the image. */
  readonly volumes: readonly Volume[];
  /** The mounts of CDI devices, and of --tmpfs of the command line. */
  readonly moreMounts: readonly Mount[];
  /** The features of the runtime. */
  readonly features: MountFeatures;
}
export interface MountFeatures {
  readonly recursiveReadOnlyMounts: boolean;
  readonly userNamespaces: boolean;
}

/** A folder of a container for a VOLUME of its image. */
export interface Volume {
  /** The path in the container. */
  readonly target: string;
  /** On the host. */
  readonly source: string;
}

export interface MountsResult {
  readonly mounts: Mount[];
  readonly rootfsPropagation: string | undefined;
}

const safe = ['nosuid', 'noexec', 'nodev'];
/** The standard mounts. */
export const baseMounts: readonly Mount[] = [
  { destination: '/proc', type: 'proc', source: 'proc', options: safe },
  {
    destination: '/dev',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
  },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: safe },
];
/** The size that Docker uses, and that the pod's has (pod/memory.ts). */
export const ownSharedMemory: Mount = {
  destination: '/dev/shm',
  type: 'tmpfs',
  source: 'shm',
  options: [...safe, 'mode=1777', 'size=65536k'],
};
/** The mount of /sys; rw for privileged containers. */
export function sysfs(access: 'ro' | 'rw'): Mount {
  return { destination: '/sys', type: 'sysfs', source: 'sysfs', options: [...safe, access] };
}

/** @throws InvalidArgument, UnsupportedField, RROUnsupported */
export function containerMounts(input: MountsInput): MountsResult {
  const requested = [
    ...input.config.mounts.map((mount, index) =>
      requestedMount(mount, input.facts[index] as MountFacts, `mounts[${index}]`, input.features),
    ),
    ...input.moreMounts,
  ];
  const taken = new Set(requested.map((mount) => mount.destination));
  const standard = [...standardMounts(input), ...podMounts(input)];
  const volumes = input.volumes
    .filter(({ target }) => !standard.some(({ destination }) => destination === target))
    .map(({ target, source }) => ({
      destination: target,
      type: 'bind',
      source,
      options: ['rbind', 'rprivate', 'rw'],
    }));
  const own = [...standard, ...volumes].filter(
    ({ destination }) => !taken.has(destination) && !(taken.has('/dev') && destination.startsWith('/dev/')),
  ); // a /dev of the request replaces all of it
  const propagations = input.config.mounts.map((mount) => mount.propagation);
  return {
    // A mount comes before the mounts inside it; sort() is stable, so standard mounts come first among
    // equals.
    mounts: [...own, ...requested].sort((one, other) => depth(one) - depth(other)),
    // Otherwise the runtime would disconnect the container's mounts from the host's: it makes all of them
    // private or slave.
    rootfsPropagation: propagations.includes('PROPAGATION_BIDIRECTIONAL')
      ? 'rshared'
      : propagations.includes('PROPAGATION_HOST_TO_CONTAINER')
        ? 'rslave'
        : undefined,
  };
}

function depth({ destination }: Mount): number {
  return destination.split('/').filter(Boolean).length;
}

function standardMounts({
  privileged,
  hostNetwork,
  sharedMemory,
  hasOwnIpc,
  hasUserNamespace,
  cgroup,
}: MountsInput): Mount[] {
  const access = privileged ? 'rw' : 'ro';
  return [
    ...baseMounts,
    hasOwnIpc
      ? ownSharedMemory
      : {
          destination: '/dev/shm',
          type: 'bind',
          source: sharedMemory ?? '/dev/shm',
          options: ['rbind', 'rw'],
        },
    // sysfs belongs to the network namespace: a container with a user namespace and the host's network may
    // not mount it again.
    hasUserNamespace && hostNetwork
      ? { destination: '/sys', type: 'bind', source: '/sys', options: ['rbind', ...safe, access] }
      : sysfs(access),
    // A new mount of the host's own cgroup2 tree would set the options of that one tree for all (nsdelegate would be lost).
    cgroup === 'v2' && !hasCgroupNamespace(privileged, cgroup)
      ? {
          destination: '/sys/fs/cgroup',
          type: 'bind',
          source: '/sys/fs/cgroup',
          options: ['rbind', ...safe, access],
        }
      : {
          destination: '/sys/fs/cgroup',
          type: 'cgroup',
          source: 'cgroup',
          options: [...safe, 'relatime', access],
        },
  ];
}

function podMounts({ podFolder, readOnlyRootfs }: MountsInput): Mount[] {
  // The flags of the tmpfs below them, which a runtime in a user namespace may not drop when it makes the
  // mounts read-only (mount_namespaces(7)).
  const options = ['rbind', 'rprivate', ...safe, readOnlyRootfs ? 'ro' : 'rw'];
  return podFileNames.map((name) => ({
    destination: `/etc/${name}`,
    type: 'bind',
    source: `${podFolder}/${name}`,
    options,
  }));
}

const propagationOption = {
  PROPAGATION_PRIVATE: 'rprivate',
  PROPAGATION_HOST_TO_CONTAINER: 'rslave',
  PROPAGATION_BIDIRECTIONAL: 'rshared',
} as const;
/** mount(8) options that apply to a bind mount and cannot override another field of the request. */
const knownMountOptions = new Set([
  'nosuid',
  'suid',
  'nodev',
  'dev',
  'noexec',
  'exec',
  'noatime',
  'atime',
  'nodiratime',
  'diratime',
  'relatime',
  'norelatime',
  'strictatime',
  'nostrictatime',
  'nosymfollow',
  'symfollow',
]);

function requestedMount(
  mount: Mount__Output,
  facts: MountFacts,
  field: string,
  features: MountFeatures,
): Mount {
  const refused = (why: string, hint?: string): CrispError =>
    new CrispError('InvalidArgument', `${field}${why}`, hint ? { hint } : {});
  if (facts.target === '/') throw refused('.container_path: the root of the container cannot be replaced');
  checkPropagation(mount, facts, refused);
  if (mount.recursive_read_only) {
    if (!mount.readonly) throw refused('.recursive_read_only needs readonly');
    if (mount.propagation !== 'PROPAGATION_PRIVATE')
      throw refused('.recursive_read_only needs private propagation');
    if (!features.recursiveReadOnlyMounts)
      throw new CrispError(
        'RROUnsupported',
        `${field}: the runtime of this pod, on this kernel, cannot mount recursively read-only`,
      );
  }
  if (mount.image && !mount.readonly) throw refused(': an image volume must be readonly');
  for (const option of mount.mount_options)
    if (!knownMountOptions.has(option))
      throw refused(`.mount_options: "${option}" is not an option of a bind mount`);
  const mapped = !mount.image && (mount.uidMappings.length > 0 || mount.gidMappings.length > 0); // an image's files are mapped already
  if (mapped && !features.userNamespaces)
    throw new CrispError(
      'UnsupportedField',
      `${field}: the runtime of this pod cannot map the ids of a mount`,
    );
  return {
    destination: facts.target,
    type: 'bind',
    source: facts.source,
    options: [
      'rbind',
      propagationOption[mount.propagation],
      mount.readonly ? (mount.recursive_read_only ? 'rro' : 'ro') : 'rw',
      ...mount.mount_options,
      ...(mapped ? ['idmap'] : []),
    ],
    ...(mapped
      ? { uidMappings: idMappings(mount.uidMappings), gidMappings: idMappings(mount.gidMappings) }
      : {}),
  };
}

/** Mount events propagate only from mounts in a peer group with the host (mount_namespaces(7)). */
function checkPropagation(
  mount: Mount__Output,
  { propagation }: MountFacts,
  refused: (why: string, hint: string) => CrispError,
): void {
  const possible =
    mount.propagation === 'PROPAGATION_BIDIRECTIONAL'
      ? ['shared']
      : mount.propagation === 'PROPAGATION_HOST_TO_CONTAINER'
        ? ['shared', 'slave']
        : undefined;
  if (!possible || possible.includes(propagation)) return;
  throw refused(
    `.propagation: ${mount.host_path} is on a ${propagation} mount, so ${mount.propagation} is not possible`,
    'run `mount --make-rshared` on the mount that contains it',
  );
}

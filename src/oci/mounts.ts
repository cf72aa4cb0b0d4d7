// The mounts of a container: the ones that every container has, the pod's files,
// and the request's.  Pure over the facts of inspect.ts.
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { Mount__Output } from '../cri/generated/runtime/v1/Mount.js';
import { CrispError } from '../errors.js';
import type { MountFacts } from './inspect.js';
import type { IdMapping, Mount } from './spec.js';

export interface MountsInput {
  readonly config: ContainerConfig__Output;
  readonly facts: readonly MountFacts[];
  readonly privileged: boolean;
  readonly readOnlyRootfs: boolean;
  readonly hostNetwork: boolean;
  /** The pod's /dev/shm; undefined: the host's. */
  readonly sharedMemory: string | undefined;
  /** The folder with the pod's resolv.conf, hosts and hostname. */
  readonly podFolder: string;
  readonly hasUserNamespace: boolean;
  readonly cgroup: 'v1' | 'v2';
}

export interface MountsResult { readonly mounts: Mount[]; readonly rootfsPropagation: string | undefined }

/** @throws InvalidArgument, UnsupportedField */
export function containerMounts(input: MountsInput): MountsResult {
  const requested = input.config.mounts.map((mount, index) => requestedMount(mount, input.facts[index] as MountFacts, index, input.readOnlyRootfs));
  const taken = new Set(requested.map((mount) => mount.destination));
  const own = [...standardMounts(input), ...podFiles(input)].filter((mount) => !taken.has(mount.destination));
  const propagations = input.config.mounts.map((mount) => mount.propagation);
  return {
    // A parent must be mounted before what lies in it; the standard ones come first among equals.
    mounts: [...own, ...requested].map((mount, order) => ({ mount, order, depth: mount.destination.split('/').length }))
      .sort((one, other) => (one.order < own.length && other.order < own.length ? one.order - other.order : one.depth - other.depth || one.order - other.order))
      .map(({ mount }) => mount),
    rootfsPropagation: propagations.includes('PROPAGATION_BIDIRECTIONAL') ? 'rshared' : propagations.includes('PROPAGATION_HOST_TO_CONTAINER') ? 'rslave' : undefined,
  };
}

function standardMounts({ privileged, hostNetwork, sharedMemory, hasUserNamespace, cgroup }: MountsInput): Mount[] {
  const access = privileged ? 'rw' : 'ro';
  // sysfs belongs to the network namespace: whoever has a user namespace and the host's network may not mount it anew.
  const sys: Mount = hasUserNamespace && hostNetwork
    ? { destination: '/sys', type: 'bind', source: '/sys', options: ['rbind', 'nosuid', 'noexec', 'nodev', access] }
    : { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', access] };
  return [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
    { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'] },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
    { destination: '/dev/shm', type: 'bind', source: sharedMemory ?? '/dev/shm', options: ['rbind', 'rw'] },
    sys,
    { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: ['nosuid', 'noexec', 'nodev', 'relatime', cgroup === 'v2' ? access : 'ro'] },
  ];
}

/** Written per pod; the kubelet mounts its own /etc/hosts over it. */
function podFiles({ podFolder, readOnlyRootfs, privileged }: MountsInput): Mount[] {
  const options = ['rbind', 'rprivate', readOnlyRootfs && !privileged ? 'ro' : 'rw'];
  return ['resolv.conf', 'hostname'].map((name) => ({ destination: `/etc/${name}`, type: 'bind', source: `${podFolder}/${name}`, options }));
}

const propagationOption = { PROPAGATION_PRIVATE: 'rprivate', PROPAGATION_HOST_TO_CONTAINER: 'rslave', PROPAGATION_BIDIRECTIONAL: 'rshared' } as const;
/** mount(8) options that a bind mount can take and that cannot undo another field of the request. */
const knownMountOptions = new Set(['nosuid', 'suid', 'nodev', 'dev', 'noexec', 'exec', 'noatime', 'atime', 'nodiratime', 'diratime', 'relatime', 'norelatime', 'strictatime', 'nostrictatime', 'nosymfollow', 'symfollow']);

function requestedMount(mount: Mount__Output, facts: MountFacts, index: number, readOnlyRootfs: boolean): Mount {
  const field = `mounts[${index}]`;
  if (mount.propagation === 'PROPAGATION_BIDIRECTIONAL' && facts.propagation !== 'shared') {
    throw new CrispError('InvalidArgument', `${field}: ${mount.host_path} lies on a ${facts.propagation} mount, so bidirectional propagation is not possible`, { hint: 'mount --make-rshared the mount that holds it' });
  }
  if (mount.propagation === 'PROPAGATION_HOST_TO_CONTAINER' && facts.propagation !== 'shared' && facts.propagation !== 'slave') {
    throw new CrispError('InvalidArgument', `${field}: ${mount.host_path} lies on a ${facts.propagation} mount, so propagation from the host is not possible`, { hint: 'mount --make-rshared the mount that holds it' });
  }
  if (mount.recursive_read_only) {
    if (!mount.readonly) throw new CrispError('InvalidArgument', `${field}: recursive_read_only needs readonly`);
    if (mount.propagation !== 'PROPAGATION_PRIVATE') throw new CrispError('InvalidArgument', `${field}: recursive_read_only needs private propagation`);
  }
  for (const option of mount.mount_options) {
    if (!knownMountOptions.has(option)) throw new CrispError('InvalidArgument', `${field}.mount_options: "${option}" is not an option of a bind mount`);
  }
  const idMappings = idMaps(mount);
  const readOnly = mount.readonly || mount.image !== null || (readOnlyRootfs && facts.target === '/etc/hosts');
  return {
    destination: facts.target, type: 'bind', source: facts.source,
    options: ['rbind', propagationOption[mount.propagation], readOnly ? (mount.recursive_read_only ? 'rro' : 'ro') : 'rw', ...mount.mount_options, ...(idMappings ? ['idmap'] : [])],
    ...idMappings,
  };
}

function idMaps(mount: Mount__Output): { uidMappings: IdMapping[]; gidMappings: IdMapping[] } | undefined {
  const convert = (maps: Mount__Output['uidMappings']): IdMapping[] => maps.map((map) => ({ containerID: map.container_id, hostID: map.host_id, size: map.length }));
  return mount.uidMappings.length || mount.gidMappings.length ? { uidMappings: convert(mount.uidMappings), gidMappings: convert(mount.gidMappings) } : undefined;
}

// The support of every field of every request, on each kind of backend. docs/cri-coverage.md is generated
// from it; coverage.test.ts checks it against the proto (no field without a verdict) and against the tests
// (for each "applied" field a test sends it).
//
//   applied    it takes effect, or is returned where the CRI requires it
//   rejected   a request with it is refused, with the reason
//   reported   the container is made without it, and this is shown: notHonoured in its verbose status and in the log
//   none       it needs no action; the note gives the reason
export type Verdict = 'applied' | 'rejected' | 'reported' | 'none';

export interface FieldCoverage {
  /** crun, runc and other OCI runtimes. */
  readonly oci: Verdict;
  /** Proxmox VE containers. */
  readonly pct: Verdict;
  readonly note: string;
  /** The test whose requests have the field; absent for "none". */
  readonly test: string | undefined;
}
type Fields = Readonly<Record<string, FieldCoverage>>;

const on =
  (verdict: Verdict) =>
  (test: string | undefined, names: string, note = '', pct: Verdict = verdict): Fields =>
    Object.fromEntries(names.split(' ').map((name) => [name, { oci: verdict, pct, note, test }]));
const applied = on('applied');
const rejected = on('rejected');
const reported = on('reported');
const none = (names: string, note: string): Fields => on('none')(undefined, names, note);

// Where the requests are.
const at = (name: string): string => `test/integration/${name}.test.ts`;
const badInput = at('bad-input');
const bundle = at('bundle');
const contract = 'test/helpers/contract.ts';
const fields = at('requests');
const stats = at('stats');
const checkpoint = at('checkpoint');
const requests = 'test/helpers/requests.ts';
const spec = 'src/oci/container-spec.test.ts';
const resources = 'src/oci/resources.test.ts';
const mounts = 'src/oci/mounts.test.ts';
const hostFiles = 'test/integration/host-files.test.ts';
const security = 'src/oci/security.test.ts';
const users = 'src/oci/users.test.ts';
const namespaces = 'src/oci/namespaces.test.ts';
const streaming = at('streaming-pods');

const windows = 'only for Windows nodes';
const wholePods = 'no runtime supports it: the call is refused';

/** Message -> field -> verdict. Fields of messages that are refused as a whole are "rejected". */
export const coverage: Readonly<Record<string, Fields>> = {
  // ------------------------------------------------------------ pods
  RunPodSandboxRequest: applied(requests, 'config runtime_handler'),
  PodSandboxConfig: {
    ...applied(requests, 'metadata hostname log_directory linux'),
    ...applied(bundle, 'dns_config'),
    ...applied(fields, 'port_mappings'),
    ...applied(
      at('routing'),
      'labels annotations',
      'they route the pod; annotations are also passed to CNI plugins, and to the runtime if its handler allows them',
    ),
    ...none('windows', windows),
  },
  PodSandboxMetadata: applied(
    requests,
    'name uid namespace attempt',
    'a pod without name, uid or namespace is refused',
  ),
  DNSConfig: applied(
    'src/pod/files.test.ts',
    'servers searches options',
    'resolv.conf of containers without a mount for it',
  ),
  PortMapping: applied(fields, 'protocol container_port host_port host_ip', 'by the CNI plugin portmap'),
  LinuxPodSandboxConfig: {
    ...applied(fields, 'cgroup_parent', '', 'none'),
    ...applied(badInput, 'security_context sysctls'),
    ...none(
      'overhead resources',
      'the kubelet itself limits the cgroup that it passes; UpdatePodSandboxResources limits a cgroup of crisp',
    ),
  },
  LinuxSandboxSecurityContext: {
    ...applied(bundle, 'namespace_options'),
    ...applied(spec, 'privileged', 'without it, no container of the pod may be privileged'),
    ...applied(
      spec,
      'selinux_options',
      'for containers without their own; reported if the kernel has no SELinux',
    ),
    ...applied(users, 'supplemental_groups_policy', 'for containers that do not set it'),
    ...none(
      'run_as_user run_as_group readonly_rootfs supplemental_groups seccomp_profile_path seccomp apparmor',
      'about the process of a sandbox: there is none',
    ),
  },
  NamespaceOption: {
    ...applied(
      namespaces,
      'network pid ipc',
      'reported if a container requests a namespace that its pod does not have',
    ),
    ...applied(namespaces, 'target_id', 'a running container of the same pod'),
    ...applied(
      namespaces,
      'userns_options',
      'if the probe of the handler finds user namespaces; pct: only with the ids of unprivileged CTs',
    ),
  },
  UserNamespace: applied(namespaces, 'mode uids gids'),
  IDMapping: applied(namespaces, 'host_id container_id length'),
  SELinuxOption: applied(security, 'user role type level'),
  Int64Value: applied(users, 'value'),
  SecurityProfile: applied(security, 'profile_type localhost_ref'),
  LinuxContainerResources: {
    ...applied(resources, 'cpu_period cpu_quota cpu_shares memory_limit_in_bytes cpuset_cpus cpuset_mems'),
    ...applied(spec, 'oom_score_adj', 'at create; reported if it is lower than crisp may set'),
    ...applied(resources, 'hugepage_limits', 'reported for page sizes that cannot be limited'),
    ...applied(resources, 'unified', 'rejected on cgroup v1'),
    ...applied(
      resources,
      'memory_swap_limit_in_bytes',
      'without one a memory limit allows no swap; reported without swap accounting',
    ),
  },
  HugepageLimit: applied(resources, 'page_size limit'),
  WindowsPodSandboxConfig: none('security_context', windows),
  WindowsSandboxSecurityContext: none(
    'run_as_username credential_spec host_process namespace_options',
    windows,
  ),
  WindowsNamespaceOption: none('network', windows),
  StopPodSandboxRequest: applied(contract, 'pod_sandbox_id', 'every call accepts a unique prefix of an id'),
  RemovePodSandboxRequest: applied(contract, 'pod_sandbox_id'),
  PodSandboxStatusRequest: applied(at('routing'), 'pod_sandbox_id verbose'),
  ListPodSandboxRequest: applied(fields, 'filter'),
  StreamPodSandboxesRequest: applied(fields, 'filter'),
  PodSandboxFilter: applied(fields, 'id state label_selector'),
  PodSandboxStateValue: applied(fields, 'state'),
  UpdatePodSandboxResourcesRequest: {
    ...applied(fields, 'pod_sandbox_id'),
    ...applied(
      fields,
      'resources',
      'on a cgroup of crisp; stored and returned for a cgroup that the kubelet itself resizes',
      'none',
    ),
    ...applied(fields, 'overhead', 'stored and returned'),
  },

  // ------------------------------------------------------------ containers
  CreateContainerRequest: {
    ...applied(requests, 'pod_sandbox_id config'),
    ...none('sandbox_config', 'the config of RunPodSandbox is used'),
  },
  ContainerConfig: {
    ...applied(requests, 'metadata image command log_path linux'),
    ...applied(at('confinement'), 'working_dir', 'refused if it leads into /proc'),
    ...applied(bundle, 'envs mounts devices'),
    ...applied(fields, 'args labels stop_signal'),
    ...applied(at('routing'), 'annotations', 'stored; the runtime gets those that its handler allows'),
    ...applied(streaming, 'stdin stdin_once'),
    ...applied(fields, 'tty'),
    ...applied(bundle, 'CDI_devices', 'pct: hooks of a device are reported'),
    ...reported(spec, 'windows'),
  },
  ContainerMetadata: applied(requests, 'name attempt'),
  ImageSpec: {
    ...applied(requests, 'image'),
    ...applied(
      fields,
      'user_specified_image',
      'stored and shown; image in ContainerStatus is the first tag of the image, otherwise its digest',
    ),
    ...none('annotations runtime_handler', 'an image is the same for every handler'),
    ...none('image_ref', 'set in answers'),
  },
  KeyValue: applied(bundle, 'key value'),
  Mount: {
    ...applied(bundle, 'container_path readonly'),
    ...applied(
      hostFiles,
      'host_path',
      'created if it does not exist, unless runtime.absent_mount_sources_to_reject matches',
    ),
    ...applied(
      mounts,
      'propagation',
      "rejected if the host's mount does not allow it; pct: mounts of an unprivileged CT do not reach the host, which is reported",
    ),
    ...applied(mounts, 'uidMappings gidMappings', 'rejected if the runtime cannot map the ids of a mount'),
    ...applied(mounts, 'recursive_read_only', 'rejected if the probe of the handler does not find it'),
    ...applied(fields, 'image image_sub_path', 'read-only'),
    ...applied(mounts, 'mount_options', 'options of bind mounts; others are rejected'),
    ...reported(spec, 'selinux_relabel', 'if the kernel has SELinux: crisp does not relabel files'),
  },
  Device: applied(bundle, 'container_path host_path permissions'),
  CDIDevice: applied(bundle, 'name'),
  LinuxContainerConfig: applied(bundle, 'resources security_context'),
  LinuxContainerSecurityContext: {
    ...applied(bundle, 'capabilities readonly_rootfs no_new_privs'),
    ...applied(
      bundle,
      'masked_paths readonly_paths',
      'an empty list means the default paths, or none in a pod with a user namespace',
    ),
    ...applied(spec, 'privileged', 'limited to the privileges of crisp itself: the rest is reported'),
    ...applied(namespaces, 'namespace_options'),
    ...applied(security, 'selinux_options', 'reported if the kernel has no SELinux'),
    ...applied(users, 'run_as_user run_as_username supplemental_groups supplemental_groups_policy'),
    ...applied(bundle, 'run_as_group'),
    ...applied(
      security,
      'apparmor apparmor_profile',
      'rejected if the requested profile is not loaded; a privileged container only has a profile that it names; pct: without a named profile, the profile that PVE makes for the CT',
    ),
    ...applied(
      security,
      'seccomp seccomp_profile_path',
      'pct: reported, since PVE applies its own profile to every CT',
      'reported',
    ),
  },
  Capability: applied(
    'src/oci/capabilities.test.ts',
    'add_capabilities drop_capabilities add_ambient_capabilities',
    'capabilities that crisp itself does not have are reported',
  ),
  WindowsContainerConfig: none('resources security_context', windows),
  WindowsContainerResources: none(
    'cpu_shares cpu_count cpu_maximum memory_limit_in_bytes rootfs_size_in_bytes affinity_cpus',
    windows,
  ),
  WindowsCpuGroupAffinity: none('cpu_mask cpu_group', windows),
  WindowsContainerSecurityContext: none('run_as_username credential_spec host_process', windows),
  StartContainerRequest: applied(contract, 'container_id', 'every call accepts a unique prefix of an id'),
  StopContainerRequest: applied(contract, 'container_id timeout'),
  RemoveContainerRequest: applied(contract, 'container_id'),
  ListContainersRequest: applied(fields, 'filter'),
  StreamContainersRequest: applied(fields, 'filter'),
  ContainerFilter: applied(fields, 'id state pod_sandbox_id label_selector'),
  ContainerStateValue: applied(fields, 'state'),
  ContainerStatusRequest: applied(fields, 'container_id verbose'),
  UpdateContainerResourcesRequest: {
    ...applied(contract, 'container_id linux'),
    ...rejected(fields, 'windows', 'a request without "linux" is refused'),
    ...none('annotations', 'crisp has no options that are set this way'),
  },
  ReopenContainerLogRequest: applied(hostFiles, 'container_id', 'a missing log folder is made again'),
  CheckpointContainerRequest: applied(
    checkpoint,
    'container_id location timeout',
    'if criu and the runtime support it; otherwise, and on pct, rejected',
    'rejected',
  ),
  CheckpointPodRequest: rejected(fields, 'pod_sandbox_id output_path container_ids options', wholePods),
  RestorePodRequest: rejected(
    fields,
    'checkpoint_path config runtime_handler options container_configs',
    wholePods,
  ),

  // ------------------------------------------------------------ exec and streams
  ExecSyncRequest: applied(contract, 'container_id cmd timeout'),
  ExecRequest: applied(fields, 'container_id cmd tty stdin stdout stderr'),
  AttachRequest: {
    ...applied(fields, 'container_id stdin stdout stderr'),
    ...none('tty', 'determined by the container'),
  },
  PortForwardRequest: {
    ...applied(fields, 'pod_sandbox_id'),
    ...applied(fields, 'port', 'checked; the client then opens its own choice of ports'),
  },

  // ------------------------------------------------------------ statistics
  ContainerStatsRequest: applied(stats, 'container_id'),
  ListContainerStatsRequest: applied(stats, 'filter'),
  StreamContainerStatsRequest: applied(stats, 'filter'),
  ContainerStatsFilter: applied(stats, 'id pod_sandbox_id label_selector'),
  PodSandboxStatsRequest: applied(stats, 'pod_sandbox_id'),
  ListPodSandboxStatsRequest: applied(stats, 'filter'),
  StreamPodSandboxStatsRequest: applied(stats, 'filter'),
  PodSandboxStatsFilter: applied(stats, 'id label_selector'),

  // ------------------------------------------------------------ the runtime
  VersionRequest: none('version', "the kubelet's version; the answer has crisp's own"),
  StatusRequest: applied(at('routing'), 'verbose'),
  UpdateRuntimeConfigRequest: applied(at('errors'), 'runtime_config'),
  RuntimeConfig: applied(at('errors'), 'network_config'),
  NetworkConfig: applied(at('errors'), 'pod_cidr', 'rendered into the template of the configuration'),

  // ------------------------------------------------------------ images
  ListImagesRequest: applied(fields, 'filter'),
  StreamImagesRequest: applied(fields, 'filter'),
  ImageFilter: applied(fields, 'image'),
  ImageStatusRequest: applied(fields, 'image verbose'),
  PullImageRequest: {
    ...applied(fields, 'image auth'),
    ...none('sandbox_config', 'a pull does not depend on a pod'),
  },
  AuthConfig: {
    ...applied(fields, 'username password auth identity_token'),
    ...applied(fields, 'server_address', 'credentials for another registry are not used'),
    ...rejected(
      fields,
      'registry_token',
      'it could only be passed to skopeo in a way that all users of the host can read',
    ),
  },
  RemoveImageRequest: applied(at('errors'), 'image'),
};

const intro = `# Support of the fields of the CRI
<!-- Made by \`npm run docs\`; do not edit. -->

Every field of every request of CRI v1, on each kind of backend: oci (crun, runc) and pct (Proxmox VE containers).

- **applied**: it takes effect, or is returned where the CRI requires it.
- **rejected**: a request that sets it is refused, with the reason.
- **reported**: the container is made without it, and this is shown: \`notHonoured\` in its verbose status (\`crictl inspect\`), and a line in the log.
- **none**: it needs no action; the note gives the reason.

A note beside "applied" gives exceptions for some hosts or values. Generated from src/coverage.ts; a test fails if the proto has a field that is not listed, or if the test that is named for an applied, rejected or reported field does not send it.
`;

/** docs/cri-coverage.md. */
export function coverageDocument(): string {
  const tables = Object.entries(coverage).map(([message, fields]) =>
    [
      `## ${message}`,
      '',
      '| field | oci | pct | note | test |',
      '| --- | --- | --- | --- | --- |',
      ...Object.entries(fields).map(
        ([name, { oci, pct, note, test }]) =>
          `| \`${name}\` | ${oci} | ${pct} | ${note} | ${test ? `\`${test}\`` : ''} |`,
      ),
      '',
    ].join('\n'),
  );
  return [intro, ...tables].join('\n');
}

// The honesty table: what becomes of every field of every request, on each kind
// of backend.  docs/cri-coverage.md is made from it; coverage.test.ts holds it to
// the proto (no field without a verdict) and to the tests (no "applied" without
// one that sends the field).
//
//   applied    it has its effect, or comes back where the CRI says so
//   rejected   a request with it is refused, with the reason
//   reported   the container is made without it, and says so: notHonoured in its verbose status and in the log
//   none       there is nothing to do with it here; the note says why
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

const windows = 'of Windows nodes';
const wholePods = 'no runtime has it: the call is refused';

/** Message -> field -> what becomes of it. Fields of messages that are refused as a whole are "rejected". */
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
      'they route the pod; annotations also reach CNI plugins, and the runtime where its handler allows them',
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
    'resolv.conf of the containers that bring none',
  ),
  PortMapping: applied(fields, 'protocol container_port host_port host_ip', 'by the CNI plugin portmap'),
  LinuxPodSandboxConfig: {
    ...applied(fields, 'cgroup_parent', '', 'none'),
    ...applied(badInput, 'security_context sysctls'),
    ...none(
      'overhead resources',
      'the kubelet limits the cgroup that it names itself; UpdatePodSandboxResources limits one of ours',
    ),
  },
  LinuxSandboxSecurityContext: {
    ...applied(bundle, 'namespace_options'),
    ...applied(spec, 'privileged', 'without it, no container of the pod may be privileged'),
    ...applied(
      spec,
      'selinux_options',
      'for containers that have none; reported where the kernel has no SELinux',
    ),
    ...applied(users, 'supplemental_groups_policy', 'for containers that say nothing'),
    ...none(
      'run_as_user run_as_group readonly_rootfs supplemental_groups seccomp_profile_path seccomp apparmor',
      'about the process of a sandbox: there is none',
    ),
  },
  NamespaceOption: {
    ...applied(namespaces, 'network pid ipc', 'a container that asks for what its pod has not: reported'),
    ...applied(namespaces, 'target_id', 'a running container of the same pod'),
    ...applied(
      namespaces,
      'userns_options',
      'where the probe of the handler finds user namespaces; pct: the ids of unprivileged CTs and no others',
    ),
  },
  UserNamespace: applied(namespaces, 'mode uids gids'),
  IDMapping: applied(namespaces, 'host_id container_id length'),
  SELinuxOption: applied(security, 'user role type level'),
  Int64Value: applied(users, 'value'),
  SecurityProfile: applied(security, 'profile_type localhost_ref'),
  LinuxContainerResources: {
    ...applied(resources, 'cpu_period cpu_quota cpu_shares memory_limit_in_bytes cpuset_cpus cpuset_mems'),
    ...applied(spec, 'oom_score_adj', 'at create; reported where it is below what crisp may give'),
    ...applied(resources, 'hugepage_limits', 'reported for page sizes that no controller limits'),
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
  StopPodSandboxRequest: applied(
    contract,
    'pod_sandbox_id',
    'in every call, the beginning of exactly one id is that id',
  ),
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
      'on a cgroup of ours; kept and reported for one that the kubelet resizes itself',
      'none',
    ),
    ...applied(fields, 'overhead', 'kept and reported'),
  },

  // ------------------------------------------------------------ containers
  CreateContainerRequest: {
    ...applied(requests, 'pod_sandbox_id config'),
    ...none('sandbox_config', 'the one of RunPodSandbox counts'),
  },
  ContainerConfig: {
    ...applied(requests, 'metadata image command log_path linux'),
    ...applied(at('confinement'), 'working_dir', 'one that leads into /proc is refused'),
    ...applied(bundle, 'envs mounts devices'),
    ...applied(fields, 'args labels stop_signal'),
    ...applied(at('routing'), 'annotations', 'kept; the runtime gets those that its handler allows'),
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
      'kept and shown; image in ContainerStatus is the first tag of the image, else its digest',
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
      'made where it does not exist, unless runtime.absent_mount_sources_to_reject has it',
    ),
    ...applied(
      mounts,
      'propagation',
      "rejected where the host's mount does not allow it; pct: mounts of an unprivileged CT do not reach the host, which is reported",
    ),
    ...applied(mounts, 'uidMappings gidMappings', 'rejected where the runtime cannot map the ids of a mount'),
    ...applied(mounts, 'recursive_read_only', 'rejected where the probe of the handler does not find it'),
    ...applied(fields, 'image image_sub_path', 'read-only'),
    ...applied(mounts, 'mount_options', 'what a bind mount can take; rejected otherwise'),
    ...reported(spec, 'selinux_relabel', 'where the kernel has SELinux: crisp relabels no files'),
  },
  Device: applied(bundle, 'container_path host_path permissions'),
  CDIDevice: applied(bundle, 'name'),
  LinuxContainerConfig: applied(bundle, 'resources security_context'),
  LinuxContainerSecurityContext: {
    ...applied(bundle, 'capabilities readonly_rootfs no_new_privs'),
    ...applied(
      bundle,
      'masked_paths readonly_paths',
      'an empty list: the usual paths, or none in a pod with a user namespace',
    ),
    ...applied(spec, 'privileged', 'bounded by what crisp itself may give: the rest is reported'),
    ...applied(namespaces, 'namespace_options'),
    ...applied(security, 'selinux_options', 'reported where the kernel has no SELinux'),
    ...applied(users, 'run_as_user run_as_username supplemental_groups supplemental_groups_policy'),
    ...applied(bundle, 'run_as_group'),
    ...applied(
      security,
      'apparmor apparmor_profile',
      'rejected where the profile that is asked for is not loaded; a privileged container has none but one that it names; pct: without a profile by name, the one that PVE makes for the CT',
    ),
    ...applied(
      security,
      'seccomp seccomp_profile_path',
      'pct: PVE applies its own profile to every CT, so this one is reported',
      'reported',
    ),
  },
  Capability: applied(
    'src/oci/capabilities.test.ts',
    'add_capabilities drop_capabilities add_ambient_capabilities',
    'what crisp may not give itself is reported',
  ),
  WindowsContainerConfig: none('resources security_context', windows),
  WindowsContainerResources: none(
    'cpu_shares cpu_count cpu_maximum memory_limit_in_bytes rootfs_size_in_bytes affinity_cpus',
    windows,
  ),
  WindowsCpuGroupAffinity: none('cpu_mask cpu_group', windows),
  WindowsContainerSecurityContext: none('run_as_username credential_spec host_process', windows),
  StartContainerRequest: applied(
    contract,
    'container_id',
    'in every call, the beginning of exactly one id is that id',
  ),
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
    ...none('annotations', 'no option of crisp is set this way'),
  },
  ReopenContainerLogRequest: applied(hostFiles, 'container_id', 'a log folder that has gone is made again'),
  CheckpointContainerRequest: applied(
    checkpoint,
    'container_id location timeout',
    'where criu and the runtime can; rejected on pct and elsewhere',
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
    ...none('tty', 'a container that has a terminal is attached to as one'),
  },
  PortForwardRequest: {
    ...applied(fields, 'pod_sandbox_id'),
    ...applied(fields, 'port', 'checked; the ports that the client then opens count'),
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
  VersionRequest: none('version', "the kubelet's; the answer is crisp's own"),
  StatusRequest: applied(at('routing'), 'verbose'),
  UpdateRuntimeConfigRequest: applied(at('errors'), 'runtime_config'),
  RuntimeConfig: applied(at('errors'), 'network_config'),
  NetworkConfig: applied(at('errors'), 'pod_cidr', 'rendered into the template of the configuration'),

  // ------------------------------------------------------------ images
  ListImagesRequest: applied(fields, 'filter'),
  StreamImagesRequest: applied(fields, 'filter'),
  ImageFilter: applied(fields, 'image'),
  ImageStatusRequest: applied(fields, 'image verbose'),
  PullImageRequest: { ...applied(fields, 'image auth'), ...none('sandbox_config', "a pull is the node's") },
  AuthConfig: {
    ...applied(fields, 'username password auth identity_token'),
    ...applied(fields, 'server_address', 'credentials for another registry are not used'),
    ...rejected(fields, 'registry_token', 'it could only be given to skopeo where everybody may read it'),
  },
  RemoveImageRequest: applied(at('errors'), 'image'),
};

const intro = `# What becomes of each field of the CRI
<!-- Made by \`npm run docs\`; do not edit. -->

Every field of every request of CRI v1, on each kind of backend: oci (crun, runc) and pct (Proxmox VE containers).

- **applied**: it has its effect, or comes back where the CRI says so.
- **rejected**: a request that sets it is refused, with the reason.
- **reported**: the container is made without it and says so: \`notHonoured\` in its verbose status (\`crictl inspect\`), and a line in the log.
- **none**: there is nothing to do with it here; the note says why.

A note beside "applied" names the hosts or values for which another word holds. Made from src/coverage.ts; a test fails when the proto has a field that is not here, and when the test that is named for an applied, rejected or reported field makes no such message with that field.
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

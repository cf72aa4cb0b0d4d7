// The support of every field of every request, on each kind of backend. docs/cri-coverage.md is generated
// from it; coverage.test.ts checks it against the proto (no field without a verdict) and against the tests
// (for each "applied" field a test sends it and asserts the effect that is named here).
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
  /** The file of the test whose requests have the field; absent for "none". */
  readonly test: string | undefined;
  /** Text of the assertion of that test that shows the effect, outside of the request; absent for "none". */
  readonly effect: string | undefined;
}
type Fields = Readonly<Record<string, FieldCoverage>>;
/** Field -> text of an assertion. */
type Effects = Readonly<Record<string, string>>;

const on =
  (verdict: Verdict) =>
  (test: string, effects: Effects, note = '', pct: Verdict = verdict): Fields =>
    Object.fromEntries(
      Object.entries(effects).map(([name, effect]) => [name, { oci: verdict, pct, note, test, effect }]),
    );
const applied = on('applied');
const rejected = on('rejected');
const reported = on('reported');
const none = (names: string, note: string): Fields =>
  Object.fromEntries(
    names
      .split(' ')
      .map((name) => [name, { oci: 'none', pct: 'none', note, test: undefined, effect: undefined }]),
  );
/** Several fields that one assertion shows. */
const all = (names: string, effect: string): Effects =>
  Object.fromEntries(names.split(' ').map((name) => [name, effect]));

// Where the tests are. The requests of most of them begin with those of test/helpers/requests.ts.
const at = (name: string): string => `test/integration/${name}.test.ts`;
const bundle = at('bundle');
const contract = 'test/helpers/contract.ts';
const fields = at('requests');
const routing = at('routing');
const stats = at('stats');
const hostFiles = at('host-files');
const spec = 'src/oci/container-spec.test.ts';
const resources = 'src/oci/resources.test.ts';
const mounts = 'src/oci/mounts.test.ts';
const security = 'src/oci/security.test.ts';
const users = 'src/oci/users.test.ts';
const namespaces = 'src/oci/namespaces.test.ts';

const windows = 'only for Windows nodes';
const wholePods = 'no runtime supports it: the call is refused';

/** Message -> field -> verdict. Fields of messages that are refused as a whole are "rejected". */
export const coverage: Readonly<Record<string, Fields>> = {
  // ------------------------------------------------------------ pods
  RunPodSandboxRequest: applied(contract, {
    config: 'metadata: pod.config.metadata',
    runtime_handler: 'runtime_handler: handler',
  }),
  PodSandboxConfig: {
    ...applied(contract, {
      metadata: 'metadata: pod.config.metadata',
      hostname: 'box\\ninet',
      log_directory: "log_path: pathOf(pod, 'main')",
    }),
    ...applied(fields, { linux: '${parent}/${id}' }),
    ...applied(bundle, { dns_config: 'search test.local' }),
    ...applied(fields, { port_mappings: "fetched('127.0.0.1')).toBe('found" }),
    ...applied(
      routing,
      { labels: 'label tier "/back|front/"', annotations: "'example.com/pod'" },
      'they route the pod; annotations are also passed to CNI plugins, and to the runtime if its handler allows them',
    ),
    ...none('windows', windows),
  },
  PodSandboxMetadata: applied(
    contract,
    all('name uid namespace attempt', 'metadata: pod.config.metadata'),
    'a pod without name, uid or namespace is refused',
  ),
  DNSConfig: applied(
    'src/pod/files.test.ts',
    { servers: 'nameserver 10.0.0.10', searches: 'search a.b b', options: 'options ndots:5 timeout:1' },
    'resolv.conf of containers without a mount for it',
  ),
  PortMapping: applied(
    fields,
    {
      ...all('protocol container_port host_port', "fetched('127.0.0.1')).toBe('found"),
      host_ip: 'fetched(gateway)).rejects',
    },
    'by the CNI plugin portmap',
  ),
  LinuxPodSandboxConfig: {
    ...applied(fields, { cgroup_parent: '${parent}/${id}' }, '', 'none'),
    ...applied(spec, { security_context: 'container_t:s0:c1,c2' }),
    ...applied(at('security'), { sysctls: "'1024\\n'" }),
    ...none(
      'overhead resources',
      'the kubelet itself limits the cgroup that it passes; UpdatePodSandboxResources limits a cgroup of crisp',
    ),
  },
  LinuxSandboxSecurityContext: {
    ...applied(bundle, { namespace_options: '0 300000 65536' }),
    ...applied(
      spec,
      { privileged: 'the pod of this container is not privileged' },
      'without it, no container of the pod may be privileged',
    ),
    ...applied(
      spec,
      { selinux_options: 'container_t:s0:c1,c2' },
      'for containers without their own; reported if the kernel has no SELinux',
    ),
    ...applied(users, { supplemental_groups_policy: 'toEqual([1001])' }, 'for containers that do not set it'),
    ...none(
      'run_as_user run_as_group readonly_rootfs supplemental_groups seccomp_profile_path seccomp apparmor',
      'about the process of a sandbox: there is none',
    ),
  },
  NamespaceOption: {
    ...applied(
      namespaces,
      {
        network: "['network', 'ipc']",
        pid: "path: '/proc/7/ns/pid'",
        ipc: "toContainEqual({ type: 'ipc' })",
      },
      'reported if a container requests a namespace that its pod does not have',
    ),
    ...applied(namespaces, { target_id: "path: '/proc/42/ns/pid'" }, 'a running container of the same pod'),
    ...applied(
      namespaces,
      { userns_options: 'uidMappings: [{ containerID: 0' },
      'if the probe of the handler finds user namespaces; pct: only with the ids of unprivileged CTs',
    ),
  },
  UserNamespace: applied(namespaces, {
    mode: 'toEqual({})',
    uids: 'uidMappings: [{ containerID: 0',
    gids: 'gidMappings: [{ containerID: 0',
  }),
  IDMapping: applied(namespaces, {
    host_id: 'hostID: 65_536',
    container_id: 'containerID: 0',
    length: 'size: 65_536',
  }),
  SELinuxOption: applied(security, {
    ...all('user role type', "process: 'u:r:t:s1'"),
    level: "mount: 'u:object_r:container_file_t:s1'",
  }),
  Int64Value: applied(users, { value: 'uid: 7' }),
  SecurityProfile: applied(security, { profile_type: "'SCMP_ACT_ERRNO'", localhost_ref: "toBe('mine')" }),
  LinuxContainerResources: {
    ...applied(resources, {
      cpu_period: 'period: 100_000',
      cpu_quota: 'quota: 50_000',
      cpu_shares: 'shares: 512',
      memory_limit_in_bytes: 'limit: 1 << 26',
      cpuset_cpus: "cpus: '0-1,3'",
      cpuset_mems: "mems: '0'",
    }),
    ...applied(
      bundle,
      { oom_score_adj: '50000\\n0\\n500' },
      'at create; reported if it is lower than crisp may set',
    ),
    ...applied(
      resources,
      { hugepage_limits: "hugepageLimits: [{ pageSize: '2MB'" },
      'reported for page sizes that cannot be limited',
    ),
    ...applied(resources, { unified: "unified: { 'memory.high': '50000000' }" }, 'rejected on cgroup v1'),
    ...applied(
      resources,
      { memory_swap_limit_in_bytes: 'swap: 1 << 27' },
      'without one a memory limit allows no swap; reported without swap accounting',
    ),
  },
  HugepageLimit: applied(resources, { page_size: "pageSize: '2MB'", limit: 'limit: 4 << 20' }),
  WindowsPodSandboxConfig: none('security_context', windows),
  WindowsSandboxSecurityContext: none(
    'run_as_username credential_spec host_process namespace_options',
    windows,
  ),
  WindowsNamespaceOption: none('network', windows),
  StopPodSandboxRequest: applied(
    contract,
    { pod_sandbox_id: 'SANDBOX_NOTREADY' },
    'every call accepts a unique prefix of an id',
  ),
  RemovePodSandboxRequest: applied(contract, { pod_sandbox_id: 'daemon.traces()).toEqual(clean)' }),
  PodSandboxStatusRequest: applied(routing, {
    pod_sandbox_id: 'choice(byRule.id)).toEqual',
    verbose: 'choice(byClass.id)).toEqual',
  }),
  ListPodSandboxRequest: applied(fields, { filter: 'toEqual([other.id])' }),
  StreamPodSandboxesRequest: applied(fields, { filter: 'not.toContain(pod.id)' }),
  PodSandboxFilter: applied(fields, {
    id: 'toEqual([pod.id])',
    state: 'toEqual([])',
    label_selector: 'toEqual([other.id])',
  }),
  PodSandboxStateValue: applied(fields, { state: 'toEqual([])' }),
  UpdatePodSandboxResourcesRequest: {
    ...applied(fields, { pod_sandbox_id: '67108864' }),
    ...applied(
      fields,
      { resources: '67108864\\n50000' },
      'on a cgroup of crisp; stored and returned for a cgroup that the kubelet itself resizes',
      'none',
    ),
    ...applied(fields, { overhead: '"overhead"' }, 'stored and returned'),
  },

  // ------------------------------------------------------------ containers
  CreateContainerRequest: {
    ...applied(fields, { pod_sandbox_id: 'toEqual([created])', config: 'toEqual([created])' }),
    ...none('sandbox_config', 'the config of RunPodSandbox is used'),
  },
  ContainerConfig: {
    ...applied(contract, {
      image: 'image: { image: testImage }',
      command: 'stdout F out',
      log_path: "log_path: pathOf(pod, 'main')",
      linux: 'memory_limit_in_bytes: String(64 << 20)',
    }),
    ...applied(stats, { metadata: "metadata: { name: 'busy', attempt: 0 }" }),
    ...applied(at('confinement'), { working_dir: "said(id, 'pwd')" }, 'refused if it leads into /proc'),
    ...applied(bundle, {
      envs: "'FROM=request'",
      mounts: 'from the host\\nfrom the host\\nbelow',
      devices: 'crw-rw-rw- 1, 3',
    }),
    ...applied(fields, { ...all('args stop_signal', 'exit_code: 9'), labels: 'toEqual([created])' }),
    ...applied(
      routing,
      { annotations: "'example.com/container'" },
      'stored; the runtime gets those that its handler allows',
    ),
    ...applied(at('streaming-pods'), all('stdin stdin_once', "['got hello\\n', 'err\\n']")),
    ...applied(fields, { tty: '/^\\/dev\\//' }),
    ...applied(bundle, { CDI_devices: 'crw-rw-rw- 1, 5' }, 'pct: hooks of a device are reported'),
    ...reported(spec, { windows: "'windows'" }),
  },
  ContainerMetadata: applied(stats, all('name attempt', "metadata: { name: 'busy', attempt: 0 }")),
  ImageSpec: {
    ...applied(contract, { image: 'image: { image: testImage }' }),
    ...applied(
      fields,
      { user_specified_image: "user_specified_image: 'busybox:1'" },
      'stored and shown; image in ContainerStatus is the first tag of the image, otherwise its digest',
    ),
    ...none('annotations runtime_handler', 'an image is the same for every handler'),
    ...none('image_ref', 'set in answers'),
  },
  KeyValue: applied(bundle, { key: "'FROM=request'", value: "'LINES=a'" }),
  Mount: {
    ...applied(bundle, {
      container_path: 'from the host\\nfrom the host\\nbelow',
      readonly: 'touch: /run/secrets/x: Read-only file system',
    }),
    ...applied(
      hostFiles,
      { host_path: 'madeMountSources: [base' },
      'created if it does not exist, unless runtime.absent_mount_sources_to_reject matches',
    ),
    ...applied(
      mounts,
      { propagation: "toContain('rshared')" },
      "rejected if the host's mount does not allow it; pct: mounts of an unprivileged CT do not reach the host, which is reported",
    ),
    ...applied(
      mounts,
      { uidMappings: 'uidMappings: [{ containerID: 0', gidMappings: 'gidMappings: [{ containerID: 0' },
      'rejected if the runtime cannot map the ids of a mount',
    ),
    ...applied(
      mounts,
      { recursive_read_only: "'rro'" },
      'rejected if the probe of the handler does not find it',
    ),
    ...applied(fields, all('image image_sub_path', '/programs/sh\\nrefused'), 'read-only'),
    ...applied(mounts, { mount_options: "'noexec'" }, 'options of bind mounts; others are rejected'),
    ...reported(
      spec,
      { selinux_relabel: "'mounts.selinux_relabel'" },
      'if the kernel has SELinux: crisp does not relabel files',
    ),
  },
  Device: {
    ...applied(bundle, all('container_path host_path', 'crw-rw-rw- 1, 3')),
    ...applied('src/oci/inspect.test.ts', { permissions: "permissions: 'r'" }),
  },
  CDIDevice: applied(bundle, { name: 'crw-rw-rw- 1, 5' }),
  LinuxContainerConfig: applied(bundle, {
    resources: '50000\\n0\\n500',
    security_context: '1000\\n1001\\n1001 50 3000',
  }),
  LinuxContainerSecurityContext: {
    ...applied(bundle, {
      capabilities: "toBe('0000000000001000')",
      readonly_rootfs: 'touch: /x: Read-only file system',
      no_new_privs: "toBe('1')",
    }),
    ...applied(
      bundle,
      { masked_paths: '/^0\\n0\\n', readonly_paths: 'Read-only file system$/' },
      'an empty list means the default paths, or none in a pod with a user namespace',
    ),
    ...applied(
      spec,
      { privileged: "{ allow: true, access: 'rwm' }" },
      'limited to the privileges of crisp itself: the rest is reported',
    ),
    ...applied(namespaces, { namespace_options: "{ type: 'network', path: '/ns/net' }" }),
    ...applied(security, { selinux_options: "process: 'u:r:t:s1'" }, 'reported if the kernel has no SELinux'),
    ...applied(users, {
      run_as_user: 'uid: 7',
      run_as_username: 'uid: 1000, gid: 1001',
      supplemental_groups: '[9, 50, 7, 3]',
      supplemental_groups_policy: '[9, 3]',
    }),
    ...applied(bundle, { run_as_group: '77\\n88\\n88' }),
    ...applied(
      security,
      all('apparmor apparmor_profile', "toBe('mine')"),
      'rejected if the requested profile is not loaded; a privileged container only has a profile that it names; pct: without a named profile, the profile that PVE makes for the CT',
    ),
    ...applied(
      security,
      { seccomp: "'SCMP_ACT_ERRNO'", seccomp_profile_path: "toBe('/p.json')" },
      'pct: reported, since PVE applies its own profile to every CT',
      'reported',
    ),
  },
  Capability: applied(
    'src/oci/capabilities.test.ts',
    {
      add_capabilities: "bounding: ['CAP_SYS_ADMIN']",
      drop_capabilities: "['CAP_NET_ADMIN']",
      add_ambient_capabilities: "ambient: ['CAP_NET_ADMIN']",
    },
    'capabilities that crisp itself does not have are reported',
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
    { container_id: "state: 'CONTAINER_RUNNING'" },
    'every call accepts a unique prefix of an id',
  ),
  StopContainerRequest: applied(contract, {
    container_id: "state: 'CONTAINER_EXITED', exit_code: 3",
    timeout: 'exit_code: 137',
  }),
  RemoveContainerRequest: applied(contract, { container_id: 'daemon.traces()).toEqual(clean)' }),
  ListContainersRequest: applied(fields, { filter: 'toEqual([running])' }),
  StreamContainersRequest: applied(fields, { filter: 'not.toContain(running)' }),
  ContainerFilter: applied(fields, {
    ...all('id state', 'toEqual([running])'),
    ...all('pod_sandbox_id label_selector', 'toEqual([created])'),
  }),
  ContainerStateValue: applied(fields, { state: 'toEqual([running])' }),
  ContainerStatusRequest: applied(fields, {
    container_id: "user_specified_image: 'busybox:1'",
    verbose: 'sandboxID: pod.id',
  }),
  UpdateContainerResourcesRequest: {
    ...applied(contract, all('container_id linux', 'memory_limit_in_bytes: String(96 << 20)')),
    ...rejected(fields, { windows: "'linux is missing'" }, 'a request without "linux" is refused'),
    ...none('annotations', 'crisp has no options that are set this way'),
  },
  ReopenContainerLogRequest: applied(
    hostFiles,
    { container_id: 'stdout F second' },
    'a missing log folder is made again',
  ),
  CheckpointContainerRequest: applied(
    at('checkpoint'),
    { ...all('container_id location', "'./config.dump'"), timeout: "'negative'" },
    'if criu and the runtime support it; otherwise, and on pct, rejected',
    'rejected',
  ),
  CheckpointPodRequest: rejected(
    fields,
    all('pod_sandbox_id output_path container_ids options', "'whole pods'"),
    wholePods,
  ),
  RestorePodRequest: rejected(
    fields,
    all('checkpoint_path config runtime_handler options container_configs', "'no pod checkpoints'"),
    wholePods,
  ),

  // ------------------------------------------------------------ exec and streams
  ExecSyncRequest: applied(contract, {
    ...all('container_id cmd', 'box\\ninet'),
    timeout: '/ExecTimeout/',
  }),
  ExecRequest: applied(fields, all('container_id cmd tty stdin stdout stderr', 'url: expect')),
  AttachRequest: {
    ...applied(fields, all('container_id stdin stdout stderr', 'url: expect')),
    ...none('tty', 'determined by the container'),
  },
  PortForwardRequest: {
    ...applied(fields, { pod_sandbox_id: 'url: expect' }),
    ...applied(fields, { port: 'url: expect' }, 'checked; the client then opens its own choice of ports'),
  },

  // ------------------------------------------------------------ statistics
  ContainerStatsRequest: applied(stats, { container_id: 'id: busy' }),
  ListContainerStatsRequest: applied(stats, { filter: 'metadata?.name).sort()).toEqual(names)' }),
  StreamContainerStatsRequest: applied(stats, { filter: 'streamed.sort()).toEqual(names)' }),
  ContainerStatsFilter: applied(stats, all('id pod_sandbox_id label_selector', "['busy']")),
  PodSandboxStatsRequest: applied(stats, { pod_sandbox_id: 'id: pod.id' }),
  ListPodSandboxStatsRequest: applied(stats, { filter: 'toEqual([pod.id])' }),
  StreamPodSandboxStatsRequest: applied(stats, { filter: 'streamed).toEqual(ids)' }),
  PodSandboxStatsFilter: applied(stats, all('id label_selector', 'toEqual([pod.id])')),

  // ------------------------------------------------------------ the runtime
  VersionRequest: none('version', "the kubelet's version; the answer has crisp's own"),
  StatusRequest: applied(routing, { verbose: "toContain('broken on purpose')" }),
  UpdateRuntimeConfigRequest: applied('src/cri/runtime.test.ts', {
    runtime_config: 'setPodCidr 10.1.0.0/24',
  }),
  RuntimeConfig: applied('src/cri/runtime.test.ts', { network_config: 'setPodCidr 10.1.0.0/24' }),
  NetworkConfig: applied(
    'src/cri/runtime.test.ts',
    { pod_cidr: 'setPodCidr 10.1.0.0/24' },
    'rendered into the template of the configuration',
  ),

  // ------------------------------------------------------------ images
  ListImagesRequest: applied(fields, { filter: 'names(testImage)).toEqual([testImage])' }),
  StreamImagesRequest: applied(fields, { filter: 'not.toContain(testImage)' }),
  ImageFilter: applied(fields, { image: 'toEqual([])' }),
  ImageStatusRequest: applied(fields, {
    image: 'image?.repo_tags).toEqual([testImage])',
    verbose: 'Object.keys(info)).not.toEqual([])',
  }),
  PullImageRequest: {
    ...applied(fields, { image: "'me:open-sesame'", auth: "'me:open-sesame'" }),
    ...none('sandbox_config', 'a pull does not depend on a pod'),
  },
  AuthConfig: {
    ...applied(fields, {
      ...all('username password', "toBe(`Basic ${base64('me:open-sesame')}`)"),
      auth: "toBe(`Basic ${base64('you:open-sesame')}`)",
      identity_token: 'refresh_token=open-sesame',
    }),
    ...applied(
      fields,
      { server_address: "not.toContain(base64('me:open-sesame'))" },
      'credentials for another registry are not used',
    ),
    ...rejected(
      fields,
      { registry_token: "'registry_token'" },
      'it could only be passed to skopeo in a way that all users of the host can read',
    ),
  },
  RemoveImageRequest: applied(routing, { image: '/ImageInUse/' }),
};

const intro = `# Support of the fields of the CRI
<!-- Made by \`npm run docs\`; do not edit. -->

Every field of every request of CRI v1, on each kind of backend: oci (crun, runc) and pct (Proxmox VE containers).

- **applied**: it takes effect, or is returned where the CRI requires it.
- **rejected**: a request that sets it is refused, with the reason.
- **reported**: the container is made without it, and this is shown: \`notHonoured\` in its verbose status (\`crictl inspect\`), and a line in the log.
- **none**: it needs no action; the note gives the reason.

A note beside "applied" gives exceptions for some hosts or values. Generated from src/coverage.ts; a test fails if the proto has a field that is not listed, or if the test that is named for an applied, rejected or reported field does not send it and assert its effect.
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

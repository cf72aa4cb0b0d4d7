// A Kubernetes Pod -> the CRI messages that a kubelet would send for it, as far
// as this is possible without a cluster. Pure; for `crisp explain`. Data that
// only a cluster has (ConfigMaps, Secrets, volumes other than hostPath, the
// mapping of RuntimeClass names) is mentioned in `notes`.
import * as z from 'zod';
import type { KeyPath } from '../config/source.js';
import { CrispError, toCrispError } from '../errors.js';
import { maskedPaths, readonlyPaths } from '../oci/hidden-paths.js';
import { quantity } from '../pod/quantity.js';

/** A document of a manifest. */
export interface Manifest {
  readonly kind: string;
  readonly metadata?: Pod['metadata'];
  readonly spec?: unknown;
  readonly items?: readonly Manifest[];
}
const text = z.string();
const texts = z.record(text, text);
const amounts = z.record(text, z.union([text, z.number()]));
/** A field of Kubernetes that is accepted, but not read, since runtimes do not get it. */
const unread = z.unknown().optional();
const unreadFields = <Name extends string>(...names: Name[]) =>
  Object.fromEntries(names.map((name) => [name, unread])) as Record<Name, typeof unread>;
const profile = z.strictObject({ type: text.optional(), localhostProfile: text.optional() });
const security = z.strictObject({
  ...unreadFields('runAsNonRoot', 'windowsOptions'),
  runAsUser: z.number().optional(),
  runAsGroup: z.number().optional(),
  seccompProfile: profile.optional(),
  appArmorProfile: profile.optional(),
  seLinuxOptions: texts.optional(),
});
const container = z.strictObject({
  ...unreadFields(
    'imagePullPolicy',
    'livenessProbe',
    'ports',
    'readinessProbe',
    'resizePolicy',
    'restartPolicy',
    'restartPolicyRules',
    'startupProbe',
    'terminationMessagePath',
    'terminationMessagePolicy',
    'volumeDevices',
  ),
  name: text.min(1),
  image: text.min(1),
  command: z.array(text).optional(),
  args: z.array(text).optional(),
  workingDir: text.optional(),
  stdin: z.boolean().optional(),
  stdinOnce: z.boolean().optional(),
  tty: z.boolean().optional(),
  lifecycle: z
    .strictObject({ ...unreadFields('postStart', 'preStop'), stopSignal: text.optional() })
    .optional(),
  env: z.array(z.strictObject({ name: text, value: text.optional(), valueFrom: unread })).optional(),
  envFrom: z.array(z.unknown()).optional(),
  volumeMounts: z
    .array(
      z.strictObject({
        ...unreadFields('subPathExpr'),
        name: text,
        mountPath: text,
        readOnly: z.boolean().optional(),
        subPath: text.optional(),
        mountPropagation: text.optional(),
        recursiveReadOnly: text.optional(),
      }),
    )
    .optional(),
  resources: z
    .strictObject({ ...unreadFields('claims'), limits: amounts.optional(), requests: amounts.optional() })
    .optional(),
  securityContext: security
    .extend({
      privileged: z.boolean().optional(),
      readOnlyRootFilesystem: z.boolean().optional(),
      allowPrivilegeEscalation: z.boolean().optional(),
      procMount: text.optional(),
      capabilities: z
        .strictObject({ add: z.array(text).optional(), drop: z.array(text).optional() })
        .optional(),
    })
    .optional(),
});
/**
 * The fields of a Pod that concern a runtime, and the names of all other fields (API reference of core/v1,
 * PodSpec).
 */
const podSchema = z.strictObject({
  ...unreadFields('apiVersion', 'status'),
  kind: text.optional(),
  metadata: z
    .strictObject({
      ...unreadFields(
        'creationTimestamp',
        'deletionGracePeriodSeconds',
        'deletionTimestamp',
        'finalizers',
        'generateName',
        'generation',
        'managedFields',
        'ownerReferences',
        'resourceVersion',
        'selfLink',
      ),
      name: text.optional(),
      namespace: text.optional(),
      uid: text.optional(),
      labels: texts.optional(),
      annotations: texts.optional(),
    })
    .optional(),
  spec: z.strictObject({
    ...unreadFields(
      'activeDeadlineSeconds',
      'affinity',
      'automountServiceAccountToken',
      'dnsConfig',
      'dnsPolicy',
      'enableServiceLinks',
      'ephemeralContainers',
      'hostAliases',
      'hostnameOverride',
      'imagePullSecrets',
      'nodeName',
      'nodeSelector',
      'os',
      'overhead',
      'preemptionPolicy',
      'priority',
      'priorityClassName',
      'readinessGates',
      'resourceClaims',
      'resources',
      'restartPolicy',
      'schedulerName',
      'schedulingGates',
      'serviceAccount',
      'serviceAccountName',
      'setHostnameAsFQDN',
      'subdomain',
      'terminationGracePeriodSeconds',
      'tolerations',
      'topologySpreadConstraints',
      'workloadRef',
    ),
    runtimeClassName: text.optional(),
    hostNetwork: z.boolean().optional(),
    hostPID: z.boolean().optional(),
    hostIPC: z.boolean().optional(),
    hostUsers: z.boolean().optional(),
    shareProcessNamespace: z.boolean().optional(),
    hostname: text.optional(),
    securityContext: security
      .extend({
        ...unreadFields('fsGroupChangePolicy', 'seLinuxChangePolicy'),
        sysctls: z.array(z.strictObject({ name: text, value: text })).optional(),
        supplementalGroups: z.array(z.number()).optional(),
        supplementalGroupsPolicy: text.optional(),
        fsGroup: z.number().optional(),
      })
      .optional(),
    containers: z.array(container).min(1),
    initContainers: z.array(container).optional(),
    volumes: z
      .array(
        z.object({
          name: text,
          hostPath: z.object({ path: text }).optional(),
          emptyDir: z.unknown().optional(),
          image: z.object({ reference: text }).optional(),
        }),
      )
      .optional(),
  }),
});
export type Pod = z.input<typeof podSchema>;
type PodSpec = Pod['spec'];
type Container = z.infer<typeof container>;
type Security = z.infer<typeof security>;
type Profile = z.infer<typeof profile>;
type Volume = NonNullable<PodSpec['volumes']>[number];

/** A mistake in a manifest, for which a cluster would refuse it. */
export interface Mistake {
  /** From the top of the document. */
  readonly path: KeyPath;
  readonly message: string;
}

export interface CriPod {
  /** "NAMESPACE/NAME" */
  readonly title: string;
  /** The RuntimeClass, which usually has the name of its handler. */
  readonly handler: string;
  readonly sandbox: object;
  readonly containers: readonly { readonly name: string; readonly config: object }[];
  readonly notes: readonly string[];
  /** If there are any, there is no message. */
  readonly mistakes: readonly Mistake[];
  /** Fields that Kubernetes does not have. */
  readonly unknownFields: readonly KeyPath[];
}

/** Placeholders for the suffixes that a cluster appends to a workload's name for its pods. */
const suffixes: Readonly<Record<string, string>> = {
  Deployment: '-hash-id',
  ReplicaSet: '-id',
  ReplicationController: '-id',
  DaemonSet: '-id',
  Job: '-id',
  CronJob: '-time-id',
  StatefulSet: '-0',
};

/**
 * The pods of a document: itself, a pod from its template, or the pods of its items. Empty: it makes none.
 * @param path the path of the document in its file, for an item of a list
 */
export function podsOf(document: Manifest, path: KeyPath = []): CriPod[] {
  if (document.kind === 'Pod') return [readPod(document, path)];
  if (document.kind === 'List' || document.kind === 'PodList')
    return (document.items ?? []).flatMap((item, index) =>
      podsOf({ ...item, kind: item.kind ?? 'Pod' }, [...path, 'items', index]),
    );
  const suffix = suffixes[document.kind];
  if (suffix === undefined) return [];
  const own = document.spec as
    { template?: unknown; jobTemplate?: { spec?: { template?: unknown } } } | undefined;
  const ofJob = own?.jobTemplate?.spec?.template;
  const { name = '', namespace = 'default' } = document.metadata ?? {};
  const pod = readPod(
    ofJob ?? own?.template,
    [...path, 'spec', ...(ofJob === undefined ? [] : ['jobTemplate', 'spec']), 'template'],
    { name: `${name}${suffix}`, namespace },
  );
  return [
    {
      ...pod,
      notes: [`a pod of the ${document.kind} ${name}, with a name that the cluster completes`, ...pod.notes],
    },
  ];
}

/** @param identity name and namespace for a pod from a template */
function readPod(value: unknown, path: KeyPath, identity?: { name: string; namespace: string }): CriPod {
  const { pod, mistakes, unknownFields } = checked(value);
  const { name, namespace = 'default' } =
    identity ?? (value as { metadata?: { name?: string; namespace?: string } } | undefined)?.metadata ?? {};
  const found = {
    unknownFields: unknownFields.map((field) => [...path, ...field]),
    mistakes: mistakes.map((mistake): Mistake => ({ ...mistake, path: [...path, ...mistake.path] })),
  };
  if (pod)
    try {
      return { ...criPod(identity ? { ...pod, metadata: { ...pod.metadata, ...identity } } : pod), ...found };
    } catch (error) {
      found.mistakes.push({ path, message: toCrispError(error).message });
    }
  return {
    title: `${namespace}/${name ?? ''}`,
    handler: '',
    sandbox: {},
    containers: [],
    notes: [],
    ...found,
  };
}

function checked(value: unknown): {
  pod?: Pod;
  mistakes: readonly Mistake[];
  unknownFields: readonly KeyPath[];
} {
  const given = withoutNulls(value);
  const { data, error } = podSchema.safeParse(given);
  if (data) return { pod: data, mistakes: [], unknownFields: [] };
  const unknownFields = error.issues.flatMap((issue) =>
    issue.code === 'unrecognized_keys'
      ? issue.keys.map((key): KeyPath => [...(issue.path as (string | number)[]), key])
      : [],
  );
  const mistakes = error.issues
    .filter(({ code }) => code !== 'unrecognized_keys')
    .map(({ path, message }) => ({
      path: path as KeyPath,
      message: message.replace(/^Invalid \w+: /, '').replace(/^.* received undefined$/, 'is missing'),
    }));
  if (mistakes.length) return { mistakes, unknownFields };
  for (const path of unknownFields) removeAt(given, path);
  return { ...checked(given), unknownFields };
}

function removeAt(value: unknown, path: KeyPath): void {
  const parent = path.slice(0, -1).reduce((one, key) => (one as Record<string, unknown>)[key], value);
  delete (parent as Record<string, unknown>)[path.at(-1) ?? ''];
}

/** "spec.containers[0].image" */
export function keyText(path: KeyPath): string {
  return path
    .map((key, index) => (typeof key === 'number' ? `[${key}]` : index === 0 ? key : `.${key}`))
    .join('');
}

/** A key without a value is treated as absent, as by the API server. */
function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (typeof value !== 'object' || value === null) return value ?? undefined;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, own]) => own !== null)
      .map(([key, own]) => [key, withoutNulls(own)]),
  );
}

export function criPod(pod: Pod): CriPod {
  const { spec } = pod;
  const { name = '', namespace = 'default', uid = 'UID', labels = {}, annotations = {} } = pod.metadata ?? {};
  const notes: string[] = [];
  if (spec.runtimeClassName)
    notes.push(`the RuntimeClass ${spec.runtimeClassName} is assumed to have a handler of the same name`);
  if (spec.securityContext?.fsGroup !== undefined)
    notes.push('the kubelet applies fsGroup to volumes; the runtime gets it as a supplemental group');
  if (spec.hostUsers === false)
    notes.push('hostUsers: the kubelet chooses the ids on the host; these are a guess');
  const namespaces = namespaceOptions(spec);
  const sandbox = {
    metadata: { name, namespace, uid, attempt: 0 },
    hostname: spec.hostNetwork ? '' : (spec.hostname ?? name),
    log_directory: `/var/log/pods/${namespace}_${name}_${uid}`,
    labels,
    annotations,
    dns_config: { servers: [], searches: [], options: [] },
    linux: {
      cgroup_parent: `/kubepods/pod${uid}`,
      sysctls: Object.fromEntries(
        (spec.securityContext?.sysctls ?? []).map((sysctl) => [sysctl.name, sysctl.value]),
      ),
      security_context: { namespace_options: namespaces, ...selinux(spec.securityContext) },
    },
  };
  const all = [...(spec.initContainers ?? []), ...spec.containers];
  return {
    title: `${namespace}/${name}`,
    handler: spec.runtimeClassName ?? '',
    mistakes: [],
    unknownFields: [],
    sandbox,
    containers: all.map((one) => ({ name: one.name, config: containerConfig(one, spec, namespaces, notes) })),
    notes,
  };
}

function namespaceOptions(spec: PodSpec): object {
  const ids = [{ container_id: 0, host_id: 65_536, length: 65_536 }]; // the first ids that a kubelet assigns
  return {
    network: spec.hostNetwork ? 'NODE' : 'POD',
    ipc: spec.hostIPC ? 'NODE' : 'POD',
    pid: spec.hostPID ? 'NODE' : spec.shareProcessNamespace ? 'POD' : 'CONTAINER',
    ...(spec.hostUsers === false ? { userns_options: { mode: 'POD', uids: ids, gids: ids } } : {}),
  };
}

function containerConfig(container: Container, pod: PodSpec, namespaces: object, notes: string[]): object {
  const who = `container ${container.name}`;
  if (container.envFrom?.length || container.env?.some((entry) => entry.valueFrom))
    notes.push(`${who}: variables from ConfigMaps, Secrets and fields are not known here`);
  const security = { ...pod.securityContext, ...container.securityContext };
  const privileged = security.privileged ?? false;
  const paths =
    privileged || container.securityContext?.procMount === 'Unmasked'
      ? { masked_paths: [], readonly_paths: [] }
      : { masked_paths: maskedPaths, readonly_paths: readonlyPaths };
  const groups = [
    ...(pod.securityContext?.supplementalGroups ?? []),
    ...(pod.securityContext?.fsGroup === undefined ? [] : [pod.securityContext.fsGroup]),
  ];
  return {
    metadata: { name: container.name, attempt: 0 },
    image: { image: container.image, user_specified_image: container.image },
    command: container.command ?? [],
    args: container.args ?? [],
    working_dir: container.workingDir ?? '',
    envs: (container.env ?? [])
      .filter((entry) => !entry.valueFrom)
      .map(({ name, value = '' }) => ({ key: name, value: Buffer.from(value) })),
    mounts: (container.volumeMounts ?? []).flatMap((mount) =>
      volumeMount(mount, pod.volumes ?? [], who, notes),
    ),
    ...(container.lifecycle?.stopSignal ? { stop_signal: `SIGNAL_${container.lifecycle.stopSignal}` } : {}),
    log_path: `${container.name}/0.log`,
    stdin: container.stdin ?? false,
    stdin_once: container.stdinOnce ?? false,
    tty: container.tty ?? false,
    linux: {
      resources: resources(container, who, notes),
      security_context: {
        namespace_options: namespaces,
        privileged,
        readonly_rootfs: security.readOnlyRootFilesystem ?? false,
        no_new_privs: security.allowPrivilegeEscalation === false,
        capabilities: {
          add_capabilities: security.capabilities?.add ?? [],
          drop_capabilities: security.capabilities?.drop ?? [],
        },
        ...(security.runAsUser === undefined ? {} : { run_as_user: { value: String(security.runAsUser) } }),
        ...(security.runAsGroup === undefined
          ? {}
          : { run_as_group: { value: String(security.runAsGroup) } }),
        supplemental_groups: groups.map(String),
        supplemental_groups_policy: pod.securityContext?.supplementalGroupsPolicy ?? 'Merge',
        ...selinux(security),
        ...paths,
        seccomp: profileOf(security.seccompProfile, 'Unconfined', '/var/lib/kubelet/seccomp/'),
        ...(security.appArmorProfile
          ? { apparmor: profileOf(security.appArmorProfile, 'RuntimeDefault', '') }
          : {}),
      },
    },
  };
}

/** Without a profile a kubelet requests seccomp Unconfined (unless it has --seccomp-default). */
function profileOf(wanted: Profile | undefined, otherwise: string, folder: string): object {
  return {
    profile_type: wanted?.type ?? otherwise,
    localhost_ref: wanted?.localhostProfile ? `${folder}${wanted.localhostProfile}` : '',
  };
}

function selinux(security: Security | undefined): object {
  return security?.seLinuxOptions ? { selinux_options: security.seLinuxOptions } : {};
}

const propagations: Readonly<Record<string, string>> = {
  HostToContainer: 'PROPAGATION_HOST_TO_CONTAINER',
  Bidirectional: 'PROPAGATION_BIDIRECTIONAL',
};

function volumeMount(
  mount: NonNullable<Container['volumeMounts']>[number],
  volumes: readonly Volume[],
  who: string,
  notes: string[],
): object[] {
  const volume = volumes.find((candidate) => candidate.name === mount.name);
  const common = {
    container_path: mount.mountPath,
    readonly: mount.readOnly ?? false,
    propagation: propagations[mount.mountPropagation ?? ''] ?? 'PROPAGATION_PRIVATE',
    recursive_read_only: mount.recursiveReadOnly === 'Enabled' || mount.recursiveReadOnly === 'IfPossible',
  };
  if (volume?.image)
    return [
      {
        ...common,
        readonly: true,
        image: { image: volume.image.reference },
        image_sub_path: mount.subPath ?? '',
      },
    ];
  if (volume?.hostPath)
    return [{ ...common, host_path: [volume.hostPath.path, mount.subPath].filter(Boolean).join('/') }];
  notes.push(`${who}: the kubelet prepares the volume ${mount.name}; its path on the host is a guess`);
  return [{ ...common, host_path: `/var/lib/kubelet/pods/UID/volumes/${mount.name}` }];
}

/**
 * Converts like the kubelet: shares from the request, quota from the limit, memory in bytes. @throws
 * InvalidArgument
 */
function resources(
  { resources: { limits = {}, requests = {} } = {} }: Container,
  who: string,
  notes: string[],
): object {
  const amount = (name: string, value: string | number | undefined): number | undefined => {
    if (value === undefined) return undefined;
    const number = quantity(value);
    if (Number.isNaN(number))
      throw new CrispError(
        'InvalidArgument',
        `${who}: resources: ${name} "${value}" is not a quantity such as 500m, 64Mi or 2`,
      );
    return number;
  };
  const cpuRequest = amount('cpu', requests['cpu'] ?? limits['cpu']);
  const cpuLimit = amount('cpu', limits['cpu']);
  const memory = amount('memory', limits['memory']);
  const ofPlugins = Object.keys(limits).filter((name) => name.includes('/'));
  if (ofPlugins.length)
    notes.push(`${who}: only its device plugin knows the devices and mounts of ${ofPlugins.join(', ')}`);
  return {
    cpu_shares: String(Math.max(2, Math.floor((cpuRequest ?? 0) * 1024))),
    ...(cpuLimit === undefined
      ? {}
      : { cpu_period: '100000', cpu_quota: String(Math.max(1000, Math.round(cpuLimit * 100_000))) }),
    ...(memory === undefined ? {} : { memory_limit_in_bytes: String(Math.ceil(memory)) }),
    hugepage_limits: Object.entries(limits)
      .filter(([name]) => name.startsWith('hugepages-'))
      .map(([name, value]) => ({
        page_size: name.replace(/^hugepages-(.*)i$/, '$1B'),
        limit: String(amount(name, value)),
      })),
  };
}

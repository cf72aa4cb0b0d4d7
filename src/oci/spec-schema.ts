// The schema of config.json in the OCI runtime specification (1.0 to 1.3,
// Linux), for `crisp bundle --validate` and for the tests, which validate every
// spec that crisp generates. The types of crisp's own specs are in spec.ts.
import * as z from 'zod';

export interface SpecIssue {
  /** "process.args.0" */ readonly path: string;
  readonly message: string;
}

/** All problems of a config.json; empty: none. */
export function validateSpec(json: unknown): SpecIssue[] {
  const result = specSchema.safeParse(json);
  return result.success ? [] : result.error.issues.flatMap(describe);
}

function describe(issue: z.core.$ZodIssue): SpecIssue[] {
  if (issue.code !== 'unrecognized_keys') return [{ path: issue.path.join('.'), message: issue.message }];
  return issue.keys.map((key) => ({
    path: [...issue.path, key].join('.'),
    message: 'is not a property of the runtime specification, so runtimes ignore it',
  }));
}

// 64-bit numbers may be larger than JavaScript can represent exactly: z.int() would refuse them.
const whole = z.number().refine(Number.isInteger, 'must be a whole number');
const uint64 = whole.min(0).max(2 ** 64);
const int64 = whole.min(-(2 ** 63)).max(2 ** 63);
const uint32 = z
  .int()
  .min(0)
  .max(2 ** 32 - 1);
const int32 = z
  .int()
  .min(-(2 ** 31))
  .max(2 ** 31 - 1);
const uint16 = z
  .int()
  .min(0)
  .max(2 ** 16 - 1);
const absolutePath = z.string().startsWith('/', 'must be an absolute path');
const strings = z.array(z.string());
const texts = z.record(z.string().min(1), z.string());

const idMappings = z.array(z.strictObject({ containerID: uint32, hostID: uint32, size: uint32.min(1) }));
const capabilities = z.array(z.string().regex(/^CAP_[A-Z0-9_]+$/, 'must be the name of a capability, CAP_…'));

const processSchema = z.strictObject({
  terminal: z.boolean().optional(),
  consoleSize: z.strictObject({ height: uint64, width: uint64 }).optional(),
  user: z.strictObject({
    uid: uint32,
    gid: uint32,
    umask: uint32.optional(),
    additionalGids: z.array(uint32).optional(),
    username: z.string().optional(),
  }),
  args: strings.min(1, 'must have at least one entry'),
  commandLine: z.string().optional(),
  env: z.array(z.string().regex(/^[^=]+=/, 'must be NAME=VALUE')).optional(),
  cwd: absolutePath,
  capabilities: z
    .strictObject({
      bounding: capabilities.optional(),
      permitted: capabilities.optional(),
      effective: capabilities.optional(),
      inheritable: capabilities.optional(),
      ambient: capabilities.optional(),
    })
    .optional(),
  rlimits: z
    .array(z.strictObject({ type: z.string().regex(/^RLIMIT_[A-Z]+$/), soft: uint64, hard: uint64 }))
    .optional(),
  noNewPrivileges: z.boolean().optional(),
  apparmorProfile: z.string().optional(),
  selinuxLabel: z.string().optional(),
  oomScoreAdj: z.int().min(-1000).max(1000).optional(),
  scheduler: z
    .strictObject({
      policy: z.enum([
        'SCHED_OTHER',
        'SCHED_FIFO',
        'SCHED_RR',
        'SCHED_BATCH',
        'SCHED_ISO',
        'SCHED_IDLE',
        'SCHED_DEADLINE',
      ]),
      nice: int32.optional(),
      priority: int32.optional(),
      flags: z.array(z.string().startsWith('SCHED_FLAG_')).optional(),
      runtime: uint64.optional(),
      deadline: uint64.optional(),
      period: uint64.optional(),
    })
    .optional(),
  ioPriority: z
    .strictObject({
      class: z.enum(['IOPRIO_CLASS_RT', 'IOPRIO_CLASS_BE', 'IOPRIO_CLASS_IDLE']),
      priority: int32.optional(),
    })
    .optional(),
  execCPUAffinity: z
    .strictObject({ initial: z.string().optional(), final: z.string().optional() })
    .optional(),
});

const mountSchema = z.strictObject({
  destination: absolutePath,
  type: z.string().optional(),
  source: z.string().optional(),
  options: strings.optional(),
  uidMappings: idMappings.optional(),
  gidMappings: idMappings.optional(),
});

const hooks = z
  .array(
    z.strictObject({
      path: absolutePath,
      args: strings.optional(),
      env: strings.optional(),
      timeout: z.int().min(1).optional(),
    }),
  )
  .optional();

const blockDevice = { major: int64, minor: int64 };
const throttled = z.array(z.strictObject({ ...blockDevice, rate: uint64.optional() })).optional();
const resourcesSchema = z.strictObject({
  devices: z
    .array(
      z.strictObject({
        allow: z.boolean(),
        type: z.enum(['a', 'c', 'b']).optional(),
        major: int64.optional(),
        minor: int64.optional(),
        access: z
          .string()
          .regex(/^[rwm]*$/, 'must be made of r, w and m')
          .optional(),
      }),
    )
    .optional(),
  memory: z
    .strictObject({
      limit: int64.optional(),
      reservation: int64.optional(),
      swap: int64.optional(),
      kernel: int64.optional(),
      kernelTCP: int64.optional(),
      swappiness: uint64.optional(),
      disableOOMKiller: z.boolean().optional(),
      useHierarchy: z.boolean().optional(),
      checkBeforeUpdate: z.boolean().optional(),
    })
    .optional(),
  cpu: z
    .strictObject({
      shares: uint64.optional(),
      quota: int64.optional(),
      burst: uint64.optional(),
      period: uint64.optional(),
      realtimeRuntime: int64.optional(),
      realtimePeriod: uint64.optional(),
      cpus: z.string().optional(),
      mems: z.string().optional(),
      idle: int64.optional(),
    })
    .optional(),
  pids: z.strictObject({ limit: int64 }).optional(),
  blockIO: z
    .strictObject({
      weight: uint16.optional(),
      leafWeight: uint16.optional(),
      weightDevice: z
        .array(z.strictObject({ ...blockDevice, weight: uint16.optional(), leafWeight: uint16.optional() }))
        .optional(),
      throttleReadBpsDevice: throttled,
      throttleWriteBpsDevice: throttled,
      throttleReadIOPSDevice: throttled,
      throttleWriteIOPSDevice: throttled,
    })
    .optional(),
  hugepageLimits: z
    .array(
      z.strictObject({
        pageSize: z.string().regex(/^[1-9][0-9]*[KMG]B$/, 'must be a size like 2MB'),
        limit: uint64,
      }),
    )
    .optional(),
  network: z
    .strictObject({
      classID: uint32.optional(),
      priorities: z.array(z.strictObject({ name: z.string(), priority: uint32 })).optional(),
    })
    .optional(),
  rdma: z
    .record(z.string(), z.strictObject({ hcaHandles: uint32.optional(), hcaObjects: uint32.optional() }))
    .optional(),
  unified: texts.optional(),
});

const seccompAction = z.enum([
  'SCMP_ACT_KILL',
  'SCMP_ACT_KILL_PROCESS',
  'SCMP_ACT_KILL_THREAD',
  'SCMP_ACT_TRAP',
  'SCMP_ACT_ERRNO',
  'SCMP_ACT_TRACE',
  'SCMP_ACT_ALLOW',
  'SCMP_ACT_LOG',
  'SCMP_ACT_NOTIFY',
]);
const seccompSchema = z.strictObject({
  defaultAction: seccompAction,
  defaultErrnoRet: uint32.optional(),
  architectures: z.array(z.string().regex(/^SCMP_ARCH_[A-Z0-9_]+$/)).optional(),
  flags: z.array(z.string().startsWith('SECCOMP_FILTER_FLAG_')).optional(),
  listenerPath: z.string().optional(),
  listenerMetadata: z.string().optional(),
  syscalls: z
    .array(
      z.strictObject({
        names: strings.min(1),
        action: seccompAction,
        errnoRet: uint32.optional(),
        args: z
          .array(
            z.strictObject({
              index: uint32.max(5),
              value: uint64,
              valueTwo: uint64.optional(),
              op: z.enum([
                'SCMP_CMP_NE',
                'SCMP_CMP_LT',
                'SCMP_CMP_LE',
                'SCMP_CMP_EQ',
                'SCMP_CMP_GE',
                'SCMP_CMP_GT',
                'SCMP_CMP_MASKED_EQ',
              ]),
            }),
          )
          .optional(),
      }),
    )
    .optional(),
});

const timeOffset = z.strictObject({ secs: int64.optional(), nanosecs: uint32.optional() }).optional();
const linuxSchema = z.strictObject({
  namespaces: z
    .array(
      z.strictObject({
        type: z.enum(['pid', 'network', 'mount', 'ipc', 'uts', 'user', 'cgroup', 'time']),
        path: absolutePath.optional(),
      }),
    )
    .optional(),
  uidMappings: idMappings.optional(),
  gidMappings: idMappings.optional(),
  timeOffsets: z.strictObject({ boottime: timeOffset, monotonic: timeOffset }).optional(),
  devices: z
    .array(
      z.strictObject({
        type: z.enum(['c', 'b', 'u', 'p']),
        path: absolutePath,
        major: int64.optional(),
        minor: int64.optional(),
        fileMode: z.int().min(0).max(0o777).optional(),
        uid: uint32.optional(),
        gid: uint32.optional(),
      }),
    )
    .optional(),
  netDevices: z.record(z.string(), z.strictObject({ name: z.string().optional() })).optional(),
  cgroupsPath: z.string().optional(),
  resources: resourcesSchema.optional(),
  intelRdt: z
    .strictObject({
      closID: z.string().optional(),
      schemata: strings.optional(),
      l3CacheSchema: z.string().optional(),
      memBwSchema: z.string().optional(),
      enableMonitoring: z.boolean().optional(),
      enableCMT: z.boolean().optional(),
      enableMBM: z.boolean().optional(), // the last two until 1.2
    })
    .optional(),
  memoryPolicy: z
    .strictObject({
      mode: z.string().startsWith('MPOL_').optional(),
      nodes: z.string().optional(),
      flags: z.array(z.string().startsWith('MPOL_F_')).optional(),
    })
    .optional(),
  // The specification has four values; crun and runc also accept the recursive ones, which a container with
  // propagated mounts needs.
  rootfsPropagation: z
    .enum(['private', 'shared', 'slave', 'unbindable', 'rprivate', 'rshared', 'rslave', 'runbindable'])
    .optional(),
  seccomp: seccompSchema.optional(),
  sysctl: texts.optional(),
  maskedPaths: z.array(absolutePath).optional(),
  readonlyPaths: z.array(absolutePath).optional(),
  mountLabel: z.string().optional(),
  personality: z
    .strictObject({ domain: z.enum(['LINUX', 'LINUX32']).optional(), flags: strings.optional() })
    .optional(),
});

/** The schema of config.json; unknown keys are errors. */
export const specSchema = z
  .strictObject({
    ociVersion: z.string().regex(/^1\.\d+\.\d+([-+].*)?$/, 'must be a version 1.x.y'),
    root: z.strictObject({ path: z.string().min(1), readonly: z.boolean().optional() }),
    hostname: z.string().optional(),
    domainname: z.string().optional(),
    process: processSchema.optional(), // required for start, not for create
    mounts: z.array(mountSchema).optional(),
    hooks: z
      .strictObject({
        prestart: hooks,
        createRuntime: hooks,
        createContainer: hooks,
        startContainer: hooks,
        poststart: hooks,
        poststop: hooks,
      })
      .optional(),
    annotations: texts.optional(),
    linux: linuxSchema.optional(),
    // Settings of other platforms are ignored.
    solaris: z.unknown().optional(),
    windows: z.unknown().optional(),
    vm: z.unknown().optional(),
    zos: z.unknown().optional(),
    freebsd: z.unknown().optional(),
  })
  .superRefine((spec, context) => {
    const wrong = (path: (string | number)[], message: string): void =>
      context.addIssue({ code: 'custom', path, message });
    const types = (spec.linux?.namespaces ?? []).map((namespace) => namespace.type);
    types.forEach((type, index) => {
      if (types.indexOf(type) !== index) wrong(['linux', 'namespaces', index], `a second ${type} namespace`);
    });
    const limits = (spec.process?.rlimits ?? []).map((limit) => limit.type);
    limits.forEach((type, index) => {
      if (limits.indexOf(type) !== index) wrong(['process', 'rlimits', index], `a second ${type}`);
    });
    if ((spec.hostname !== undefined || spec.domainname !== undefined) && !types.includes('uts'))
      wrong(['hostname'], 'needs a uts namespace, otherwise it would rename the host');
    for (const field of ['uidMappings', 'gidMappings'] as const)
      if (spec.linux?.[field]?.length && !types.includes('user'))
        wrong(['linux', field], 'needs a user namespace');
    spec.linux?.devices?.forEach(({ type, major, minor }, index) => {
      if (type !== 'p' && (major === undefined || minor === undefined))
        wrong(['linux', 'devices', index], 'needs major and minor');
    });
    spec.mounts?.forEach(({ uidMappings, gidMappings }, index) => {
      if (!uidMappings !== !gidMappings)
        wrong(['mounts', index], 'needs both uidMappings and gidMappings, or none');
    });
  });

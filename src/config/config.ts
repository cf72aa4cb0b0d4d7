// The configuration: one zod schema -> one frozen Config.
//
// YAML from --config (default /etc/crisp/config.yaml, which may be absent),
// then the drop-ins of config.d beside it in order of their names, then the
// flags.  Strict: an unknown key or a wrong type is an error that names the
// file, the line and the path of the key. docs/configuration.md, `crisp
// config --default` and --schema are generated from the schema, too.
import { realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import * as z from 'zod';
import { ulimitNames } from '../oci/ulimits.js';
import { dropIns, flagSource, merge, placeOf, yamlSource, type KeyPath, type Source } from './source.js';
import { CrispError } from '../errors.js';
import { pattern } from './pattern.js';

const absolutePath = z.string().regex(/^\//, 'must be an absolute path');
const pathOrEmpty = z.string().regex(/^(\/|$)/, 'must be an absolute path, or empty');
const seconds = z.number().positive().meta({ unit: 'seconds' });
const vmid = z.number().int().min(100).max(999_999_999);
const tool = (name: string, what: string) => z.string().min(1).default(name).describe(what);
const patternText = z
  .string()
  .min(1)
  .superRefine((text, context) => {
    try {
      pattern(text);
    } catch (error) {
      context.addIssue((error as Error).message);
    }
  });

const handler = z.strictObject({
  type: z
    .enum(['oci', 'pct'])
    .describe('oci: crun, runc or another OCI runtime under conmon; pct: Proxmox VE containers'),
  path: pathOrEmpty.default('').describe('the binary; empty: found on PATH under the name of the handler'),
  root: pathOrEmpty
    .default('')
    .describe(
      'the folder of the runtime with the state of its containers (its --root); crisp changes only containers with bundles that it made; empty: runtimes/NAME in the state folder',
    ),
  args: z.array(z.string()).default([]).describe('arguments before the verb of every call'),
  allowed_annotations: z
    .array(patternText)
    .default([])
    .describe(
      'annotations of pods and containers that are passed to the runtime in config.json (crun acts on run.oci.*): their keys, as patterns like in routing rules',
    ),
});
export type HandlerConfig = z.infer<typeof handler>;

const ulimit = z
  .string()
  .regex(/^\d{1,16}(:\d{1,16})?$/, 'must be SOFT:HARD or one number for both')
  .refine((text) => {
    const [soft = 0, hard = soft] = text.split(':').map(Number);
    return soft <= hard && Number.isSafeInteger(hard);
  }, 'the soft limit is above the hard limit, or too large');

const rule = z
  .strictObject({
    namespace: patternText.optional().describe('the namespace of the pod'),
    pod: patternText.optional().describe('its name'),
    labels: z
      .record(z.string(), patternText)
      .optional()
      .describe('for each key: the pod has the label, and its value matches'),
    annotations: z.record(z.string(), patternText).optional().describe('the same for annotations'),
    image: patternText
      .optional()
      .describe(
        'the full name of the image; such a rule applies only to `crisp run` and `crisp create`, since a kubelet makes the pod before it names the images',
      ),
    handler: z.string().describe('the handler for matching pods'),
  })
  .refine(
    ({ handler: _, ...conditions }) => Object.keys(conditions).length > 0,
    'has no condition: give namespace, pod, labels, annotations or image',
  );
export type RuleConfig = z.infer<typeof rule>;

/** Always present; a configuration adds to them or changes their keys. */
const defaultHandlers = { crun: { type: 'oci' as const }, runc: { type: 'oci' as const } };
/** Present on a Proxmox VE node only: on any other host it would never be ready. */
const handlersOfProxmox = { lxc: { type: 'pct' as const } };
const defaultPveFolder = '/etc/pve';

/**
 * The schema of the configuration, with defaults and descriptions: docs/configuration.md is generated from
 * it.
 */
export const configSchema = z
  .strictObject({
    listen: z
      .string()
      .regex(/^unix:\/\/\//, 'must be unix:///path')
      .default('unix:///run/crisp/crisp.sock')
      .describe('the socket of RuntimeService and ImageService'),
    root: absolutePath.default('/var/lib/crisp').describe('persistent data: images and rootfs layers'),
    state: absolutePath
      .default('/run/crisp')
      .describe('records, bundles and pinned namespaces; best on a tmpfs'),
    cli_state: absolutePath
      .default('/run/crisp-cli')
      .describe('the same for containers of `crisp run` and `crisp create`, which do not need the daemon'),
    log_level: z
      .enum(['trace', 'debug', 'info', 'warn', 'error'])
      .default('info')
      .describe('the lowest level that is logged; debug includes a line for each program that crisp runs'),
    default_container_type: z
      .string()
      .default('crun')
      .describe('the handler of pods without a RuntimeClass and without a matching rule'),
    fallback: z
      .record(z.string(), z.string())
      .default({ crun: 'runc' })
      .describe(
        'handler: the handler that replaces it while its probe fails, for pods without a RuntimeClass; {}: none',
      ),
    routing: z
      .strictObject({
        rules: z
          .array(rule)
          .default([])
          .describe('in order; the first rule of which all conditions match is used'),
        crun_name_patterns: z
          .array(patternText)
          .default([])
          .describe('pods with matching names run on crun, if no rule matches'),
      })
      .prefault({})
      .describe('the handler of pods without a RuntimeClass'),
    handlers: z
      .record(z.string().regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/), handler)
      .default(z.record(z.string(), handler).parse(defaultHandlers))
      .describe(
        'the runtime handlers, by the name that a RuntimeClass uses; crun and runc are always among them, and lxc (type pct) where lxc.pve_folder is a folder',
      ),
    runtime: z
      .strictObject({
        conmon: z.string().default('conmon').describe('the container monitor'),
        cgroup_driver: z
          .enum(['auto', 'cgroupfs', 'systemd'])
          .default('auto')
          .describe('auto: systemd if it is running, otherwise cgroupfs'),
        seccomp_profile: pathOrEmpty
          .default('')
          .describe(
            "the profile of RuntimeDefault, a file in Docker's format; empty: crisp's own (src/oci/seccomp-default.ts)",
          ),
        default_ulimits: z
          .partialRecord(z.enum(ulimitNames), ulimit)
          .default({})
          .describe(
            'limits of the processes of each container, with the names of ulimit(1): {nofile: "1024:65536"} is SOFT:HARD, one number sets both; the default for nofile is the limit of the service (LimitNOFILE; 1024:1048576 in crisp.service)',
          ),
        image_volumes: z
          .enum(['bind', 'mkdir', 'ignore'])
          .default('bind')
          .describe(
            'how to handle the VOLUMEs of an image. bind: a writable folder with the content of the image, removed with the container; mkdir: only create the folder in the root filesystem; ignore: nothing',
          ),
        absent_mount_sources_to_reject: z
          .array(patternText)
          .default([])
          .describe(
            'host paths of mounts that are an error if they do not exist, as patterns of full paths without a trailing slash; all others are created, as folders of root with mode 0755',
          ),
        lost_monitor: z
          .enum(['report', 'end'])
          .default('report')
          .describe(
            'how to handle a running container after its monitor (conmon, the watcher of a CT) has died. report: it keeps running without a log, and its exit code is read from the kernel, if that provides it; end: it is killed, as with containerd, so that the kubelet makes a new one. Both are reported as an error in the log, in crisp_monitors_lost_total and in its status',
          ),
        unclaimed_seconds: seconds
          .default(60)
          .describe(
            'how long a pod or container is kept for a retry if its caller disconnected while it was made',
          ),
      })
      .prefault({})
      .describe('running containers'),
    lxc: z
      .strictObject({
        tools: z
          .strictObject({
            pct: tool('pct', 'makes, starts, changes and destroys CTs'),
            pvesh: tool('pvesh', 'reports the version of the node'),
            pvesm: tool('pvesm', 'finds templates'),
            lxc_info: tool('lxc-info', 'reports the first process of a CT'),
            lxc_attach: tool('lxc-attach', 'runs commands in a CT'),
            systemctl: tool('systemctl', 'reads the drop-ins of CTs'),
          })
          .prefault({})
          .describe('programs of a Proxmox VE node: absolute paths, or names found on PATH'),
        vmid_range: z
          .strictObject({
            first: vmid.default(900_000).describe('the lowest'),
            last: vmid.default(989_999).describe('the highest'),
          })
          .prefault({})
          .describe('the ids of CTs that crisp makes; it never changes others'),
        tag: z
          .string()
          .regex(
            /^[a-z0-9_][a-z0-9_+.-]*$/,
            'must be a Proxmox tag: lower-case letters, digits, and _ + . - after the first',
          )
          .default('crisp')
          .describe('the tag of each CT; crisp never changes a CT without it'),
        owner: z
          .string()
          .regex(/^[\w.-]*$/, 'must be a name')
          .default('')
          .describe('the owner of the CTs, in their notes; empty: the name of the node'),
        pool: z
          .string()
          .regex(/^[\w./-]*$/, 'must be the name of a pool')
          .default('')
          .describe('the resource pool of the CTs; empty: none'),
        network: z
          .enum(['cni', 'bridge'])
          .default('cni')
          .describe('cni: the network of OCI pods; bridge: the CT has a net0 on a bridge of the node'),
        bridge: z
          .strictObject({
            name: z
              .string()
              .regex(/^[\w.-]{1,15}$/, 'must be the name of a bridge')
              .default('vmbr0')
              .describe('its name'),
            vlan: z.number().int().min(0).max(4094).default(0).describe('the VLAN tag; 0: none'),
            rate: z
              .number()
              .min(0)
              .default(0)
              .describe('the rate limit of a CT for sending, in megabytes per second; 0: no limit'),
            firewall: z.boolean().default(false).describe('the firewall of Proxmox VE for these CTs'),
          })
          .prefault({})
          .describe('net0 of CTs with network bridge; their address comes from DHCP unless the pod sets one'),
        rootfs: z
          .strictObject({
            storage: z
              .string()
              .regex(/^([a-z][a-z0-9._-]*)?$/i, 'must be the name of a storage')
              .default('')
              .describe(
                'the storage for a volume of each CT; empty: no volume, the root filesystem is an overlay over the image',
              ),
            size_gib: z
              .number()
              .min(0)
              .default(8)
              .describe('the size of a volume; 0 on a storage of folders: a folder'),
          })
          .prefault({})
          .describe('the location of the root filesystems of CTs'),
        choices: z
          .strictObject({
            bridges: z.array(patternText).default(['*']).describe('bridges and SDN vnets, as patterns'),
            storages: z.array(patternText).default(['*']).describe('storages for volumes, as patterns'),
            max_size_gib: z.number().positive().default(1024).describe('the largest volume'),
            features: z
              .array(z.enum(['nesting', 'fuse', 'keyctl', 'tun']))
              .default([])
              .describe('features of CTs; tun is the device /dev/net/tun'),
          })
          .prefault({})
          .describe(
            'the allowed values of the annotations of pods, if allowed_annotations of the handler allows them; bridge.name and rootfs.storage are always allowed',
          ),
        unprivileged: z
          .boolean()
          .default(true)
          .describe(
            'CTs in a user namespace; pods that share a namespace of the host or are privileged never are',
          ),
        pct_timeout_seconds: seconds.default(120).describe('how long one call of pct may take'),
        pve_folder: absolutePath.default(defaultPveFolder).describe('the configuration of the cluster'),
        lxc_folder: absolutePath.default('/var/lib/lxc').describe('the folder of liblxc'),
        lock_folder: absolutePath.default('/run/lock/lxc').describe('the locks of pct'),
        unit_folder: absolutePath
          .default('/run/systemd/system')
          .describe('the folder of drop-ins of `pve-container@.service`'),
      })
      .prefault({})
      .describe('Proxmox VE containers, for handlers of type pct'),
    network: z
      .strictObject({
        conf_dir: absolutePath.default('/etc/cni/net.d').describe('CNI conflists; the first by name is used'),
        bin_dirs: z
          .array(absolutePath)
          .default(['/opt/cni/bin', '/usr/lib/cni'])
          .describe('the folders of CNI plugins, searched in order'),
        template: pathOrEmpty
          .default('')
          .describe('a conflist template to render with the pod CIDR of UpdateRuntimeConfig; empty: none'),
        plugin_timeout_seconds: seconds.default(90).describe('how long one plugin may take'),
      })
      .prefault({})
      .describe('the network of pods'),
    images: z
      .strictObject({
        registries_conf: pathOrEmpty
          .default('')
          .describe('containers-registries.conf(5); empty: the default of the host'),
        signature_policy: pathOrEmpty
          .default('')
          .describe('containers-policy.json(5); empty: the default of the host'),
        auth_file: pathOrEmpty
          .default('')
          .describe('containers-auth.json(5); empty: only credentials of the request'),
        certs_dir: pathOrEmpty.default('').describe('containers-certs.d(5); empty: the default of the host'),
        pull_progress_timeout_seconds: seconds
          .default(60)
          .describe('a pull fails after this time without progress'),
        environment: z
          .record(z.string().regex(/^[A-Za-z_]\w*$/), z.string())
          .default({})
          .describe(
            'environment variables for skopeo and the credential helpers that it starts; they take precedence over HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY (also in lower case), SSL_CERT_FILE and SSL_CERT_DIR of the service, which are passed on',
          ),
        pinned: z
          .array(z.string())
          .default([])
          .describe('images that are never garbage-collected: references, a trailing * is a prefix'),
        preload_dir: pathOrEmpty
          .default('')
          .describe('a folder of OCI archives that are imported and pinned at the start; empty: none'),
      })
      .prefault({})
      .describe('pulling and keeping images'),
    streaming: z
      .strictObject({
        address: z
          .string()
          .default('127.0.0.1')
          .describe('the address of the server for exec, attach and port-forward'),
        port: z.number().int().min(0).max(65535).default(0).describe('0: any free port'),
        tls_cert: pathOrEmpty.default('').describe('certificate (PEM); with tls_key, serves TLS'),
        tls_key: pathOrEmpty.default('').describe('its private key (PEM)'),
      })
      .prefault({})
      .describe('the server of exec, attach and port-forward'),
    metrics: z
      .strictObject({
        address: z
          .string()
          .default('127.0.0.1')
          .describe('the address of /metrics (Prometheus) and /healthz'),
        port: z.number().int().min(0).max(65535).default(0).describe('0: not served'),
      })
      .prefault({})
      .describe('the metrics and the health of the daemon itself'),
  })
  .superRefine((config, context) => {
    const mustExist = (name: string, path: KeyPath): void => {
      if (!Object.hasOwn(config.handlers, name))
        context.addIssue({
          code: 'custom',
          path: [...path],
          message: `"${name}" is not a handler; there are: ${Object.keys(config.handlers).join(', ')}`,
        });
    };
    if (`${config.cli_state}/`.startsWith(`${config.state}/`))
      context.addIssue({
        code: 'custom',
        path: ['cli_state'],
        message:
          'must not be in the state folder of the daemon, which would remove everything without a record',
      });
    if (config.lxc.vmid_range.first > config.lxc.vmid_range.last)
      context.addIssue({ code: 'custom', path: ['lxc', 'vmid_range'], message: 'first is above last' });
    for (const [name, { type, path, args }] of Object.entries(config.handlers)) {
      if (type === 'pct' && (path || args.length))
        context.addIssue({
          code: 'custom',
          path: ['handlers', name],
          message: 'a handler of type pct has no path and no args: its programs are in lxc.tools',
        });
    }
    mustExist(config.default_container_type, ['default_container_type']);
    config.routing.rules.forEach((one, index) =>
      mustExist(one.handler, ['routing', 'rules', index, 'handler']),
    );
    for (const [from, to] of Object.entries(config.fallback)) {
      mustExist(from, ['fallback', from]);
      mustExist(to, ['fallback', from]);
      const seen = [from];
      for (let next: string | undefined = to; next !== undefined; next = config.fallback[next]) {
        if (seen.includes(next)) {
          context.addIssue({
            code: 'custom',
            path: ['fallback', from],
            message: `is a cycle: ${[...seen, next].join(' -> ')}`,
          });
          break;
        }
        seen.push(next);
      }
    }
  });
export type Config = z.infer<typeof configSchema>;

/** The file that is read without --config; it may be missing. */
export const defaultConfigFile = '/etc/crisp/config.yaml';

/** Reads, merges and checks the configuration. @throws InvalidConfigFile with file, line and key */
export function loadConfig(file?: string, flags: Partial<Config> = {}): Config {
  const main = resolve(file ?? defaultConfigFile); // the daemon reads it again after it has changed its working folder
  const config = checkConfig([
    yamlSource(main, file !== undefined),
    ...dropIns(join(dirname(main), 'config.d')).map((dropIn) => yamlSource(dropIn, true)),
    flagSource(flags),
  ]);
  return Object.freeze({
    ...config,
    root: realFolder(config.root),
    state: realFolder(config.state),
    cli_state: realFolder(config.cli_state),
  });
}

/**
 * The kernel lists mounts by their real paths, so crisp uses real paths too (/var/run/crisp is in /run).
 * Parts that do not exist yet are kept.
 */
function realFolder(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path === '/' ? path : join(realFolder(dirname(path)), basename(path));
  }
}

/** @throws InvalidConfigFile */
export function checkConfig(sources: readonly Source[]): Config {
  const given = sources.reduce<Record<string, unknown>>((value, source) => merge(value, source.value), {});
  const handlers = isFolder(
    (given['lxc'] as { pve_folder?: unknown } | undefined)?.pve_folder ?? defaultPveFolder,
  )
    ? { ...defaultHandlers, ...handlersOfProxmox }
    : defaultHandlers;
  const result = configSchema.safeParse(merge({ handlers }, given));
  if (!result.success)
    throw new CrispError(
      'InvalidConfigFile',
      result.error.issues.flatMap((issue) => describe(issue, sources)).join('; '),
    );
  return deepFreeze(result.data);
}

/** "FILE:LINE: path.of.the.key: problem", one for each unknown key. */
function describe(issue: z.core.$ZodIssue, sources: readonly Source[]): string[] {
  const path = issue.path as KeyPath;
  const line = (at: KeyPath, message: string): string =>
    [placeOf(sources, at), at.join('.'), message].filter(Boolean).join(': ');
  return issue.code === 'unrecognized_keys'
    ? issue.keys.map((key) => line([...path, key], 'unknown key'))
    : [
        line(
          path,
          issue.message.replace(/^Invalid \w+: /, '').replace(/^.* received undefined$/, 'is missing'),
        ),
      ];
}

function isFolder(path: unknown): boolean {
  return typeof path === 'string' && (statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false);
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) Object.values(Object.freeze(value)).forEach(deepFreeze);
  return value;
}

/** For logs and answers: the URL of a proxy may contain a password. */
export function withoutSecrets(config: Config): object {
  const environment = Object.fromEntries(Object.keys(config.images.environment).map((name) => [name, '***']));
  return { ...config, images: { ...config.images, environment } };
}

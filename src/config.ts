// The configuration: one zod schema -> one frozen Config.
//
// YAML from --config (default /etc/crisp/config.yaml, which may be absent),
// then the drop-ins of config.d beside it in order of their names, then the
// flags.  Strict: an unknown key or a wrong type is an error that names the
// file and the path of the key.
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parse } from 'yaml';
import { z } from 'zod';
import { CrispError } from './errors.js';

const absolutePath = z.string().regex(/^\//, 'must be an absolute path');
const seconds = z.number().positive();

const handler = z.strictObject({
  type: z.enum(['oci', 'pct']).describe('oci: crun, runc or another OCI runtime under conmon; pct: Proxmox VE containers'),
  path: z.string().default('').describe('the binary; empty: found on PATH under the name of the handler'),
  args: z.array(z.string()).default([]).describe('arguments put before the verb of every call'),
  allowed_annotations: z.array(z.string()).default([]).describe('pod annotations that this handler honours (a trailing * is a prefix)'),
});
export type HandlerConfig = z.infer<typeof handler>;

export const configSchema = z.strictObject({
  listen: z.string().regex(/^unix:\/\/\//, 'must be unix:///path').default('unix:///run/crisp/crisp.sock').describe('the socket of RuntimeService and ImageService'),
  root: absolutePath.default('/var/lib/crisp').describe('what outlives a boot: images and rootfs layers'),
  state: absolutePath.default('/run/crisp').describe('records, bundles and pinned namespaces; best on a tmpfs'),
  log_level: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('info'),
  default_container_type: z.string().default('crun').describe('the handler of pods that no RuntimeClass and no rule decides on'),
  handlers: z.record(z.string().regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/), handler)
    .default({ crun: handler.parse({ type: 'oci' }), runc: handler.parse({ type: 'oci' }) })
    .describe('the runtime handlers, by the name that a RuntimeClass uses'),
  runtime: z.strictObject({
    conmon: z.string().default('conmon').describe('the container monitor'),
    cgroup_driver: z.enum(['auto', 'cgroupfs', 'systemd']).default('auto').describe('auto: systemd where it runs, else cgroupfs'),
    seccomp_profile: absolutePath.default('/usr/share/containers/seccomp.json').describe('the profile of RuntimeDefault'),
    unclaimed_seconds: seconds.default(60).describe('how long a pod or container is kept for the retry of a caller that went away while it was made'),
  }).prefault({}),
  network: z.strictObject({
    conf_dir: absolutePath.default('/etc/cni/net.d').describe('CNI conflists; the first by name is used'),
    bin_dirs: z.array(absolutePath).default(['/opt/cni/bin', '/usr/lib/cni']).describe('where the CNI plugins are looked for, in order'),
    template: z.string().default('').describe('a conflist template to render with the pod CIDR of UpdateRuntimeConfig; empty: none'),
    plugin_timeout_seconds: seconds.default(90).describe('how long one plugin may take'),
  }).prefault({}),
  images: z.strictObject({
    registries_conf: z.string().default('').describe('containers-registries.conf(5); empty: the default of the host'),
    signature_policy: z.string().default('').describe('containers-policy.json(5); empty: the default of the host'),
    auth_file: z.string().default('').describe('containers-auth.json(5); empty: only credentials of the request'),
    certs_dir: z.string().default('').describe('containers-certs.d(5); empty: the default of the host'),
    pull_progress_timeout_seconds: seconds.default(60).describe('a pull with no progress for so long ends'),
    pinned: z.array(z.string()).default([]).describe('images that are never garbage-collected: references, a trailing * is a prefix'),
    preload_dir: z.string().default('').describe('OCI archives here are imported and pinned at start; empty: none'),
  }).prefault({}),
  streaming: z.strictObject({
    address: z.string().default('127.0.0.1').describe('where exec, attach and port-forward are served'),
    port: z.number().int().min(0).max(65535).default(0).describe('0: a free one'),
    tls_cert: z.string().default('').describe('certificate (PEM); with tls_key, serves TLS'),
    tls_key: z.string().default(''),
  }).prefault({}),
});
export type Config = z.infer<typeof configSchema>;

/** Reads, merges and checks the configuration. @throws InvalidConfigFile with the path of the key */
export function loadConfig(file: string | undefined, flags: Partial<Config> = {}): Config {
  const main = file ?? '/etc/crisp/config.yaml';
  const sources = [main, ...dropIns(join(dirname(main), 'config.d'))];
  let merged: Record<string, unknown> = {};
  for (const source of sources) merged = merge(merged, readYaml(source, source === file));
  const result = configSchema.safeParse(merge(merged, flags));
  if (!result.success) {
    const issues = result.error.issues.map((issue) => `${issue.path.join('.') || '(top)'}: ${issue.message}`).join('; ');
    throw new CrispError('InvalidConfigFile', `${sources.join(', ')}: ${issues}`);
  }
  return Object.freeze(result.data);
}

function dropIns(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name.endsWith('.yaml')).sort().map((name) => join(folder, name));
  } catch { return []; }
}

function readYaml(path: string, required: boolean): Record<string, unknown> {
  let text: string;
  try { text = readFileSync(path, 'utf8'); } catch (error) {
    if (!required && (error as NodeJS.ErrnoException).code === 'ENOENT') return {};
    throw new CrispError('InvalidConfigFile', `${path}: ${(error as Error).message}`);
  }
  try {
    const value: unknown = parse(text) ?? {};
    if (typeof value !== 'object' || Array.isArray(value)) throw new Error('must be a mapping of keys');
    return value as Record<string, unknown>;
  } catch (error) {
    throw new CrispError('InvalidConfigFile', `${path}: ${(error as Error).message}`);
  }
}

/** Maps merge key by key; everything else replaces. */
function merge(base: Record<string, unknown>, over: Record<string, unknown>): Record<string, unknown> {
  const result = { ...base };
  for (const [key, value] of Object.entries(over)) {
    if (value === undefined) continue;
    const old = result[key];
    result[key] = isMap(old) && isMap(value) ? merge(old, value) : value;
  }
  return result;
}
function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

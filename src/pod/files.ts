// resolv.conf, hosts and hostname of a pod, written once into its tmpfs and
// mounted into its containers unless the request has mounts at these paths.
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { CrispError } from '../errors.js';
import { readFileIfThere, writeFile } from '../host/files.js';

/** The names of the files, in the folder podMemory() and in /etc of the containers. */
export const podFileNames = ['resolv.conf', 'hosts', 'hostname'] as const;
export type PodFiles = Readonly<Record<(typeof podFileNames)[number], string>>;

/** The three files of a pod on this host. @throws InvalidArgument */
export async function podFilesOf(config: PodSandboxConfig__Output): Promise<PodFiles> {
  const [resolvConf, hosts] = await Promise.all([
    readFileIfThere('/etc/resolv.conf'),
    readFileIfThere('/etc/hosts'),
  ]);
  return podFiles(config, {
    'resolv.conf': resolvConf ?? '',
    hosts: hosts ?? '',
    hostname: `${hostname()}\n`,
  });
}

/**
 * Writes the files into the folder, with mode 0644: users of the container read them.
 * @throws DiskFull, StorageFailed
 */
export function writePodFiles(folder: string, files: PodFiles): void {
  for (const name of podFileNames) writeFile(join(folder, name), files[name], 0o644);
}

/**
 * Their contents. Without a DNS config a pod has the host's resolv.conf; with an
 * empty one it has an empty file, as in containerd 2. On the host's network a pod
 * also has the host's hosts file. The kubelet mounts a hosts file of its own in
 * other pods; this one is for other callers.
 */
export function podFiles(config: PodSandboxConfig__Output, host: PodFiles): PodFiles {
  const onHostNetwork = config.linux?.security_context?.namespace_options?.network === 'NODE';
  return {
    'resolv.conf': config.dns_config ? resolvConf(config.dns_config) : host['resolv.conf'],
    hosts: onHostNetwork ? host.hosts : '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n',
    hostname: config.hostname ? `${config.hostname}\n` : host.hostname,
  };
}

/** resolv.conf(5). @throws InvalidArgument for a value that would add another line */
export function resolvConf(dns: {
  readonly servers: readonly string[];
  readonly searches: readonly string[];
  readonly options: readonly string[];
}): string {
  for (const value of [...dns.servers, ...dns.searches, ...dns.options]) {
    if (/[\s\p{Cc}]/u.test(value) || value === '')
      throw new CrispError('InvalidArgument', `dns_config: "${value}" must be one word`);
  }
  return [
    ...(dns.searches.length ? [`search ${dns.searches.join(' ')}`] : []),
    ...dns.servers.map((server) => `nameserver ${server}`),
    ...(dns.options.length ? [`options ${dns.options.join(' ')}`] : []),
  ]
    .map((line) => `${line}\n`)
    .join('');
}

// resolv.conf and hostname of a pod, written once and mounted into its containers.
import { copyFile, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { CrispError } from '../errors.js';

/** Writes FOLDER/resolv.conf and FOLDER/hostname. Without a DNS config the pod has the host's resolv.conf. */
export async function writePodFiles(folder: string, config: PodSandboxConfig__Output): Promise<void> {
  const resolv = join(folder, 'resolv.conf');
  await Promise.all([
    config.dns_config ? writeFile(resolv, resolvConf(config.dns_config), { mode: 0o644 }) : copyFile('/etc/resolv.conf', resolv).catch(() => writeFile(resolv, '', { mode: 0o644 })),
    writeFile(join(folder, 'hostname'), `${config.hostname || hostname()}\n`, { mode: 0o644 }),
  ]);
}

/** resolv.conf(5). @throws InvalidArgument for a value that would forge another line */
export function resolvConf(dns: { servers: readonly string[]; searches: readonly string[]; options: readonly string[] }): string {
  for (const value of [...dns.servers, ...dns.searches, ...dns.options]) {
    if (/\s/.test(value) || value === '') throw new CrispError('InvalidArgument', `dns_config: "${value}" must be one word`);
  }
  return [
    ...(dns.searches.length ? [`search ${dns.searches.join(' ')}`] : []),
    ...dns.servers.map((server) => `nameserver ${server}`),
    ...(dns.options.length ? [`options ${dns.options.join(' ')}`] : []),
  ].map((line) => `${line}\n`).join('');
}

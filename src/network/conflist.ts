// CNI network configurations: parses a conflist and makes the configuration of
// each plugin.  Called by cni.ts.  Facts: the CNI specification 1.1, sections 1
// and 3, and its CONVENTIONS.md.
import { isIP } from 'node:net';
import { basename, join } from 'node:path';
import * as z from 'zod';
import { CrispError } from '../errors.js';
import { namesIn, readText } from '../host/files.js';

/** The supported versions of the specification, oldest first. */
export const cniVersions = ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;
export type CniVersion = (typeof cniVersions)[number];

/** A plugin of a network: fields of the specification, and its own. */
export interface PluginConfig {
  readonly type: string;
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly [field: string]: unknown;
}

/** A conflist, ready to be used; JSON, so that an attachment can keep it for DEL. */
export interface NetworkConfig {
  readonly name: string;
  readonly cniVersion: CniVersion;
  /** All versions that the conflist offers and crisp supports, oldest first. */
  readonly offered: readonly CniVersion[];
  readonly disableCheck: boolean;
  readonly disableGC: boolean;
  readonly plugins: readonly PluginConfig[];
}

/** The parts of an ADD's result that crisp reads; the rest is passed on unchanged. */
export interface AddResult {
  readonly interfaces?: readonly { readonly name: string; readonly sandbox?: string }[];
  readonly ips?: readonly { readonly address: string; readonly interface?: number }[];
  readonly [field: string]: unknown;
}

// Older plugins and configurations have booleans as strings, as do examples of the specification.
const flag = z
  .union([z.boolean(), z.enum(['true', 'false']).transform((text) => text === 'true')])
  .default(false);
const plugin = z.looseObject({
  type: z
    .string()
    .regex(/^[^/\\\0]+$/, 'must be the name of a program, without a folder')
    .refine((name) => !/^\.{1,2}$/.test(name), 'must be the name of a program'),
  capabilities: z.record(z.string(), z.boolean()).optional(),
});
const networkName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]*$/, 'must be letters, digits, _ . - and begin with a letter or digit');
const conflist = z.object({
  cniVersion: z.string(),
  cniVersions: z.array(z.string()).default([]),
  name: networkName,
  disableCheck: flag,
  disableGC: flag,
  plugins: z.array(plugin).min(1, 'must name a plugin'),
});

/**
 * The conflist in a pod's attachment, kept until its DEL, as read from a record or a lease. Its programs are
 * looked up in network.bin_dirs.
 */
export const attachmentSchema = z
  .object({
    ips: z.array(z.string()),
    containerId: z.string(),
    interfaceName: z.string().regex(/^[\w.-]{1,15}$/),
    network: z.object({
      name: networkName,
      cniVersion: z.enum(cniVersions),
      offered: z.array(z.enum(cniVersions)),
      disableCheck: z.boolean(),
      disableGC: z.boolean(),
      plugins: z.array(plugin),
    }),
    runtimeConfig: z.record(z.string(), z.unknown()),
    /** Fields of the plugin, which are only passed back to it. */
    result: z.unknown().optional(), // not set yet during its ADD
  })
  .transform((attachment) => attachment as Attachment);

/** A pod's attachment to the network, with everything that DEL and CHECK need later. JSON. */
export interface Attachment {
  /** The pod's addresses, the primary one first. */
  readonly ips: readonly string[];
  readonly containerId: string;
  readonly interfaceName: string;
  /** The conflist that was used. */
  readonly network: NetworkConfig;
  /** The values for the capabilities of the plugins. */
  readonly runtimeConfig: Readonly<Record<string, unknown>>;
  /** The result of the last plugin; undefined before the first. */
  readonly result: AddResult | undefined;
}

/**
 * Parses a conflist, or a single plugin's .conf as a list of one. Of several
 * versions offered, the newest supported one is used; the plugins may still
 * lower it.
 * @throws CniConfigInvalid naming the file and the field
 */
export function parseConflist(text: string, file: string): NetworkConfig {
  const invalid = (why: string) =>
    new CrispError('CniConfigInvalid', `${file}: ${why}`, { stage: 'cni config' });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw invalid(withoutQuote(error));
  }
  const isSingle = typeof json === 'object' && json !== null && !('plugins' in json) && 'type' in json;
  const parsed = conflist.safeParse(isSingle ? { ...(json as object), plugins: [json] } : json);
  if (!parsed.success)
    throw invalid(
      parsed.error.issues.map((issue) => `${issue.path.join('.') || '(top)'}: ${issue.message}`).join('; '),
    );
  const { cniVersion: stated, cniVersions: also, ...network } = parsed.data;
  const offered = cniVersions.filter((version) => version === stated || also.includes(version));
  const cniVersion = offered.at(-1);
  if (!cniVersion) throw invalid(`cniVersion: ${stated} is not one of ${cniVersions.join(', ')}`);
  return { ...network, cniVersion, offered };
}

/** The message of JSON.parse without its excerpt of the file: a configuration may hold secrets. */
function withoutQuote(error: unknown): string {
  return (error as Error).message.replace(/,? *(?:\.\.\.)?".*$/s, '');
}

export interface Found {
  /** undefined: no file of the folder is a valid configuration. */
  readonly network: NetworkConfig | undefined;
  /** Its file and content; empty without a network. */
  readonly file: string;
  readonly text: string;
  /** The problems of the files before it. */
  readonly problems: readonly string[];
}

/** Reads the first valid configuration of a folder, in the order of file names. */
export async function findNetwork(folder: string): Promise<Found> {
  const problems: string[] = [];
  for (const name of (await namesIn(folder))
    .filter((entry) => /\.(conflist|conf|json)$/.test(entry))
    .sort()) {
    const file = join(folder, name);
    try {
      const text = await readText(file, { maxBytes: 1 << 20 });
      return { network: parseConflist(text, file), file, text, problems };
    } catch (error) {
      problems.push((error as Error).message);
    }
  }
  return { network: undefined, file: '', text: '', problems };
}

/** Whether the network uses this version of the CNI specification or a newer one. */
export function atLeast(network: NetworkConfig, version: CniVersion): boolean {
  return cniVersions.indexOf(network.cniVersion) >= cniVersions.indexOf(version);
}

/**
 * The stdin of one plugin: its own configuration with the name and version of
 * the list, the previous result, and the keys of `runtimeConfig` for which it
 * declares a capability.
 */
export function pluginInput(
  network: NetworkConfig,
  plugin: PluginConfig,
  more: {
    runtimeConfig?: Readonly<Record<string, unknown>>;
    prevResult?: AddResult | undefined;
    validAttachments?: readonly unknown[];
  } = {},
): string {
  const { capabilities = {}, ...own } = plugin;
  const usable = Object.entries(more.runtimeConfig ?? {}).filter(([key]) => capabilities[key]);
  return JSON.stringify({
    ...Object.fromEntries(Object.entries(own).filter(([key]) => !key.startsWith('cni.dev/'))),
    name: network.name,
    cniVersion: network.cniVersion,
    ...(usable.length ? { runtimeConfig: Object.fromEntries(usable) } : {}),
    ...(more.prevResult ? { prevResult: more.prevResult } : {}),
    ...(more.validAttachments ? { 'cni.dev/valid-attachments': more.validAttachments } : {}),
  });
}

/**
 * The addresses of the pod, without their prefix lengths, in the order of the
 * plugin: the addresses of the requested interface and addresses without an
 * interface, even if a plugin made more interfaces; if it has none, the
 * addresses of all interfaces.
 */
export function podAddresses(result: AddResult, interfaceName: string): string[] {
  const isOf = (index: number | undefined, name?: string): boolean => {
    if (index === undefined) return true;
    const found = result.interfaces?.[index];
    return Boolean(found?.sandbox) && (name === undefined || found?.name === name);
  };
  const all = (result.ips ?? []).filter((ip) => isOf(ip.interface));
  const main = all.filter((ip) => isOf(ip.interface, interfaceName));
  const ofPod = main.length > 0 ? main : all;
  return [...new Set(ofPod.map((ip) => ip.address.replace(/\/.*$/, '')))];
}

/**
 * Replaces the placeholders of a conflist template by the pod's address
 * ranges: {{.PodCIDR}} in any string is the first range; a string that is
 * {{.PodCIDRRanges}} or {{.Routes}} becomes the `ranges` or `routes` of
 * host-local, for each range.
 * @param cidr from UpdateRuntimeConfig: one range, or two separated by a
 * comma
 * @throws InvalidArgument for the ranges, CniConfigInvalid for the template
 */
export function renderTemplate(template: string, cidr: string, file: string): string {
  const cidrs = cidr.split(',').map((part) => part.trim());
  for (const one of cidrs)
    if (!isCidr(one))
      throw new CrispError('InvalidArgument', `"${one}" is not an address range of a pod network`);
  const values: Record<string, unknown> = {
    '{{.PodCIDRRanges}}': cidrs.map((subnet) => [{ subnet }]),
    '{{.Routes}}': cidrs.map((one) => ({ dst: one.includes(':') ? '::/0' : '0.0.0.0/0' })),
  };
  let json: unknown;
  try {
    json = JSON.parse(template, (_key, value: unknown) =>
      typeof value === 'string' ? (values[value] ?? value.replaceAll('{{.PodCIDR}}', cidrs[0] ?? '')) : value,
    );
  } catch (error) {
    throw new CrispError('CniConfigInvalid', `${file}: ${withoutQuote(error)}`);
  }
  const text = `${JSON.stringify(json, undefined, 2)}\n`;
  parseConflist(text, `${basename(file)} with ${cidr}`);
  return text;
}

function isCidr(text: string): boolean {
  const [address = '', prefix = '', ...rest] = text.split('/');
  const version = isIP(address);
  return (
    version !== 0 &&
    rest.length === 0 &&
    /^\d{1,3}$/.test(prefix) &&
    Number(prefix) <= (version === 4 ? 32 : 128)
  );
}

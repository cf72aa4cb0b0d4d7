// Devices of the Container Device Interface: vendors describe them in files, and
// a request refers to them as "vendor.com/class=name" (CDI specification 0.3 to
// 1.1). Called by inspect.ts, since the type of a device must be read from the
// host.
import { readdir } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { parse, type ScalarTag } from 'yaml';
import * as z from 'zod';
import { CrispError } from '../errors.js';
import { isAbsent, readFileIfThere } from '../host/files.js';
import { log } from '../log.js';
import type { GivenDevice } from './devices.js';
import { devicesAt } from './host-devices.js';
import type { Hooks, Mount } from '../shapes/spec.js';

/** The changes of CDI devices to a container, merged in the order of the request. */
export interface CdiFacts {
  readonly env: readonly string[];
  readonly devices: readonly GivenDevice[];
  readonly mounts: readonly Mount[];
  readonly hooks: Hooks;
  readonly additionalGids: readonly number[];
  /** Fields of the specs that are not applied. */
  readonly notHonoured: readonly string[];
}

/** If two specs have the same device, the one in the later folder takes precedence. */
export const cdiFolders: readonly string[] = ['/etc/cdi', '/var/run/cdi'];
/** The result for a container without CDI devices. */
export const noCdi: CdiFacts = {
  env: [],
  devices: [],
  mounts: [],
  hooks: {},
  additionalGids: [],
  notHonoured: [],
};

const absolute = z.string().regex(/^\//, 'must be an absolute path');
const hookNames = [
  'prestart',
  'createRuntime',
  'createContainer',
  'startContainer',
  'poststart',
  'poststop',
] as const;
const editsSchema = z.looseObject({
  env: z.array(z.string().regex(/^[^=]+=/, 'must be NAME=VALUE')).nullish(),
  deviceNodes: z
    .array(
      z.looseObject({
        path: absolute,
        hostPath: absolute.nullish(),
        type: z.enum(['b', 'c', 'u', 'p']).nullish(),
        major: z.int().nullish(),
        minor: z.int().nullish(),
        fileMode: z.int().nullish(),
        permissions: z.string().nullish(),
        uid: z.int().min(0).nullish(),
        gid: z.int().min(0).nullish(),
      }),
    )
    .nullish(),
  mounts: z
    .array(
      z.looseObject({
        hostPath: z.string(),
        containerPath: absolute,
        options: z.array(z.string()).nullish(),
        type: z.string().nullish(),
      }),
    )
    .nullish(),
  hooks: z
    .array(
      z.looseObject({
        hookName: z.enum(hookNames),
        path: absolute,
        args: z.array(z.string()).nullish(),
        env: z.array(z.string()).nullish(),
        timeout: z.int().min(1).nullish(),
      }),
    )
    .nullish(),
  additionalGids: z.array(z.int().min(0)).nullish(),
  intelRdt: z.unknown().optional(),
  netDevices: z.unknown().optional(),
});
type Edits = z.infer<typeof editsSchema>;
const specSchema = z.looseObject({
  cdiVersion: z.string(),
  kind: z.string().regex(/^[A-Za-z][\w.-]*\/[A-Za-z][\w.-]*$/, 'must be VENDOR/CLASS'),
  devices: z.array(z.looseObject({ name: z.string().min(1), containerEdits: editsSchema.nullish() })),
  containerEdits: editsSchema.nullish(),
});
type CdiSpec = z.infer<typeof specSchema>;

/**
 * `fileMode: 0640` is octal for the YAML 1.1 library of CDI's own Go packages; in YAML 1.2 it would be
 * decimal.
 */
const octal: ScalarTag = {
  tag: 'tag:yaml.org,2002:int',
  default: true,
  format: 'OCT',
  test: /^[-+]?0[0-7]+$/,
  resolve: (text) => parseInt(text, 8),
};

interface Found {
  readonly spec: CdiSpec;
  readonly edits: Edits;
}

/**
 * The changes of the named devices.
 * @throws InvalidArgument for a device that is in no spec, or in two specs of one folder
 */
export async function readCdi(names: readonly string[], folders = cdiFolders): Promise<CdiFacts> {
  if (names.length === 0) return noCdi;
  const known = await devicesOf(folders);
  const found = names.map((name, index) => {
    const entry = known.get(name);
    if (!entry)
      throw new CrispError(
        'InvalidArgument',
        `CDI_devices[${index}]: no spec in ${folders.join(' or ')} has a device "${name}"`,
      );
    if (entry === 'twice')
      throw new CrispError('InvalidArgument', `CDI_devices[${index}]: two specs have a device "${name}"`);
    return entry;
  });
  // A spec's own edits apply to all its devices and are made once, before the devices' edits.
  const seen = new Set<CdiSpec>();
  const edits = found.flatMap(({ spec, edits: own }) => {
    const first = !seen.has(spec) && spec.containerEdits ? [spec.containerEdits] : [];
    seen.add(spec);
    return [...first, own];
  });
  return {
    env: edits.flatMap((edit) => edit.env ?? []),
    devices: await Promise.all(edits.flatMap((edit) => edit.deviceNodes ?? []).map(deviceOf)),
    mounts: edits
      .flatMap((edit) => edit.mounts ?? [])
      .map(({ hostPath, containerPath, options, type }) => ({
        destination: containerPath,
        source: hostPath,
        type: type ?? 'bind',
        options: options ?? ['rbind', 'nosuid', 'nodev'],
      })),
    hooks: hooksOf(edits),
    additionalGids: [...new Set(edits.flatMap((edit) => edit.additionalGids ?? []))].filter(
      (gid) => gid !== 0,
    ),
    notHonoured: edits.some((edit) => edit.intelRdt || edit.netDevices) ? ['CDI_devices'] : [],
  };
}

/** All devices of all specs. An invalid file affects only its own devices. */
async function devicesOf(folders: readonly string[]): Promise<Map<string, Found | 'twice'>> {
  const devices = new Map<string, Found | 'twice'>();
  for (const folder of folders) {
    const here = new Map<string, Found | 'twice'>();
    for (const file of await specFiles(folder)) {
      const spec = await readSpec(file);
      if (!spec) continue;
      for (const device of spec.devices) {
        const name = `${spec.kind}=${device.name}`;
        here.set(name, here.has(name) ? 'twice' : { spec, edits: device.containerEdits ?? {} });
      }
    }
    for (const [name, entry] of here) devices.set(name, entry);
  }
  return devices;
}

async function specFiles(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder))
      .filter((name) => ['.json', '.yaml', '.yml'].includes(extname(name)))
      .sort()
      .map((name) => join(folder, name));
  } catch (error) {
    if (isAbsent(error)) return [];
    throw error;
  }
}

async function readSpec(file: string): Promise<CdiSpec | undefined> {
  try {
    const text = (await readFileIfThere(file, { maxBytes: 1 << 20 })) ?? '';
    const result = specSchema.safeParse(parse(text, { customTags: (tags) => [octal, ...tags] })); // JSON is YAML
    if (!result.success)
      throw new Error(
        result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; '),
      );
    return result.data;
  } catch (error) {
    log.warn({ file, error: (error as Error).message }, 'CDI spec not usable');
    return undefined;
  }
}

/** Type and numbers that the spec omits are read from the host's device node. */
async function deviceOf(node: NonNullable<Edits['deviceNodes']>[number]): Promise<GivenDevice> {
  const given = {
    ...(node.major == null ? {} : { major: node.major }),
    ...(node.minor == null ? {} : { minor: node.minor }),
    ...(node.fileMode == null ? {} : { fileMode: node.fileMode & 0o777 }),
    ...(node.uid == null ? {} : { uid: node.uid }),
    ...(node.gid == null ? {} : { gid: node.gid }),
  };
  const permissions = node.permissions || 'rwm';
  if (node.type && (node.type === 'p' || (node.major != null && node.minor != null)))
    return { device: { type: node.type, path: node.path, ...given }, permissions };
  const [host, ...more] = await devicesAt(node.hostPath ?? node.path, node.path);
  if (!host || more.length)
    throw new CrispError(
      'InvalidArgument',
      `CDI_devices: ${node.hostPath ?? node.path} is not a device of this host`,
    );
  return { device: { ...host, ...given }, permissions };
}

function hooksOf(edits: readonly Edits[]): Hooks {
  const hooks: Hooks = {};
  for (const { hookName, path, args, env, timeout } of edits.flatMap((edit) => edit.hooks ?? [])) {
    (hooks[hookName] ??= []).push({
      path,
      ...(args ? { args } : {}),
      ...(env ? { env } : {}),
      ...(timeout ? { timeout } : {}),
    });
  }
  return hooks;
}

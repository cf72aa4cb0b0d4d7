// The facts on disk on which a spec depends: the image's accounts, the resolved
// mount targets, the types of mount sources and devices, profiles. Collected in
// one step, so that the following steps are pure.
import { closeSync } from 'node:fs';
import { lstat, readlink, realpath, stat } from 'node:fs/promises';
import { join, normalize } from 'node:path';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import { CrispError } from '../errors.js';
import { openFolder } from '../host/beneath.js';
import { hasServer, serversAreMounted, untilAnswered } from '../host/file-server.js';
import { isAbsent, readFileIfThere, readText, realPathOf } from '../host/files.js';
import { mountPoints, type MountPoint } from '../host/mounts.js';
import { readCdi, type CdiFacts } from './cdi.js';
import type { GivenDevice } from './devices.js';
import { devicesAt } from './host-devices.js';
import { checkedPath } from './paths.js';
import { parseProfile, type DockerProfile } from './seccomp.js';
import { seccompFile } from './security.js';
import type { Device } from '../shapes/spec.js';
import type { AccountFiles } from './users.js';

export interface MountFacts {
  /** The target with symlinks resolved inside the rootfs. */
  readonly target: string;
  /** The source with symlinks resolved on the host. */
  readonly source: string;
  /** The propagation of the mount that contains the source. */
  readonly propagation: MountPoint['propagation'];
}

export interface RootfsFacts {
  readonly accounts: AccountFiles;
  /** One per mount of the request, in the same order. */
  readonly mounts: readonly MountFacts[];
  /** The devices of the request, with folders expanded. */
  readonly devices: readonly GivenDevice[];
  /** All devices of the host, for a privileged container. */
  readonly hostDevices: readonly Device[];
  readonly cdi: CdiFacts;
  /** The Localhost seccomp profile. */
  readonly seccompProfile: DockerProfile | undefined;
  /** The AppArmor profiles loaded in the kernel. */
  readonly apparmorProfiles: readonly string[];
}

export interface InspectInput {
  readonly rootfs: string;
  readonly config: ContainerConfig__Output;
  /** The mount points of image volumes: index in config.mounts -> path. */
  readonly imageMounts: ReadonlyMap<number, string>;
  /** How to handle mount sources that do not exist; absent: they are an error. */
  readonly absentSources?: AbsentSources;
  /** The folders of CDI specs; by default the folders of the CDI specification. */
  readonly cdiFolders?: readonly string[];
}

export interface AbsentSources {
  /** Whether a host path that does not exist is an error; otherwise it is made. */
  readonly rejects: (path: string) => boolean;
  /** Called with the folders that were made. */
  readonly made: string[];
}

/** @throws InvalidArgument, PathEscapes, MountSourceMissing, ImageVolumeMountFailed, ToolTimeout */
export async function inspectRootfs({
  rootfs,
  config,
  imageMounts,
  absentSources,
  cdiFolders,
}: InspectInput): Promise<RootfsFacts> {
  const security = config.linux?.security_context ?? null;
  const table = config.mounts.length ? await mountPoints() : [];
  const [passwd, group] = await Promise.all(
    ['/etc/passwd', '/etc/group'].map((path) => readInside(rootfs, path)),
  );
  const targets = await Promise.all(
    config.mounts.map((mount, index) =>
      resolveInside(rootfs, mount.container_path, `mounts[${index}].container_path`),
    ),
  );
  const facts = {
    accounts: { passwd: passwd ?? '', group: group ?? '' },
    devices: (
      await Promise.all(
        config.devices.map(async (device, index): Promise<GivenDevice[]> => {
          const path = device.container_path || device.host_path;
          checkedPath(device.host_path, `devices[${index}].host_path`);
          checkedPath(path, `devices[${index}].container_path`);
          const found = await devicesAt(device.host_path, normalize(path));
          if (found.length === 0)
            throw new CrispError(
              'InvalidArgument',
              `devices[${index}].host_path: ${device.host_path} is not a device and contains none`,
            );
          return found.map((each) => ({ device: each, permissions: device.permissions || 'rwm' }));
        }),
      )
    ).flat(),
    hostDevices: security?.privileged ? await devicesAt('/dev', '/dev') : [],
    cdi: await readCdi(
      config.CDI_devices.map((device) => device.name),
      cdiFolders,
    ),
    seccompProfile: await localSeccompProfile(seccompFile(security)),
    apparmorProfiles: await loadedAppArmorProfiles(),
  };
  await untilServersAnswer(
    config.mounts.flatMap(({ host_path: path }, index) =>
      imageMounts.has(index) ? [] : [[`mounts[${index}].host_path`, path]],
    ),
    table,
  );
  // Last, since it may make folders on the host: not for a request that is refused for another reason.
  const mounts: MountFacts[] = [];
  for (const [index, mount] of config.mounts.entries()) {
    const field = `mounts[${index}]`;
    const image = imageMounts.get(index);
    const source =
      image === undefined
        ? await hostSource(mount.host_path, field, absentSources)
        : await subPath(image, mount.image_sub_path, field);
    mounts.push({ target: targets[index] ?? '', source, propagation: propagationOf(table, source) });
  }
  return { ...facts, mounts };
}

/**
 * Waits until the filesystems with a server answer to which paths of the host lead.
 * @param paths with the field of the request that has it
 * @param table the mount points of the host, if they are known
 * @throws ToolTimeout, InvalidArgument
 */
export async function untilServersAnswer(
  paths: readonly (readonly [field: string, path: string])[],
  table?: readonly MountPoint[],
): Promise<void> {
  if (!(table?.some(hasServer) ?? (await serversAreMounted()))) return;
  table ??= await mountPoints();
  // Links of /proc may lead into other mount namespaces, and autofs mounts what is looked at.
  const places = table.filter((mount) => hasServer(mount) || /^(proc|autofs)$/.test(mount.type));
  const asked = new Set(places.map(({ target }) => target));
  await Promise.all(
    paths.map(async ([field, path]) => {
      checkedPath(path, field);
      if (await leadsTo(asked, path)) await untilAnswered(path, field);
    }),
  );
}

/**
 * Whether a path of the host leads to one of these mount points, which are not entered. Also true if that cannot
 * be found out.
 */
export async function leadsTo(mounts: ReadonlySet<string>, path: string): Promise<boolean> {
  const isOne = (at: string): boolean => mounts.has(at);
  const reached = await resolveInside('/', path, path, isOne).catch(() => undefined);
  return isOne('/') || reached === undefined || isOne(reached);
}

/**
 * Resolves a path inside a rootfs: symlinks are followed as in the container,
 * absolute ones from the rootfs. Parts that do not exist yet are kept (the
 * runtime makes them).
 * @param stopsAt whether a path in the container is not to be entered: it is the result then
 * @returns the path in the container
 * @throws InvalidArgument for a relative path, PathEscapes if it leaves the
 * rootfs
 */
export async function resolveInside(
  rootfs: string,
  path: string,
  field: string,
  stopsAt?: (path: string) => boolean,
): Promise<string> {
  checkedPath(path, field);
  const escapes = (): CrispError =>
    new CrispError('PathEscapes', `${field}: "${path}" leaves the root filesystem of the container`);
  let resolved: string[] = [];
  let rest = path.split('/');
  for (let links = 0; rest.length > 0;) {
    const [name = '', ...after] = rest;
    rest = after;
    if (name === '' || name === '.') continue;
    if (name === '..') {
      if (resolved.length === 0) throw escapes();
      resolved.pop();
      continue;
    }
    const next = `/${[...resolved, name].join('/')}`;
    if (stopsAt?.(next)) return next;
    const link = await linkTarget(join(rootfs, next), field);
    if (link === undefined) {
      resolved.push(name);
      continue;
    }
    if (++links > 40) throw new CrispError('PathEscapes', `${field}: "${path}" is a loop of symlinks`); // the kernel's own limit (path_resolution(7))
    if (link.startsWith('/')) resolved = [];
    rest = [...link.split('/'), ...rest];
  }
  return `/${resolved.join('/')}`;
}

/**
 * The target of a symlink; undefined: it is not a symlink, or does not exist. @throws InvalidArgument for a
 * path that is too long, naming the field
 */
export async function linkTarget(path: string, field: string): Promise<string | undefined> {
  try {
    return (await lstat(path)).isSymbolicLink() ? await readlink(path) : undefined;
  } catch (error) {
    if (isAbsent(error)) return undefined;
    if ((error as NodeJS.ErrnoException).code === 'ENAMETOOLONG')
      throw new CrispError('InvalidArgument', `${field}: the path is too long`);
    throw error;
  }
}

/**
 * Some 20,000 accounts. The file is parsed on the main thread, and a layer with 100 MiB of accounts
 * compresses to almost nothing.
 */
const maxAccountsBytes = 1 << 20;

async function readInside(rootfs: string, path: string): Promise<string | undefined> {
  const resolved = await resolveInside(rootfs, path, path).catch(() => undefined);
  if (resolved === undefined) return undefined;
  try {
    const file = join(rootfs, resolved);
    if (!(await lstat(file)).isFile()) return undefined;
    return await readText(file, { maxBytes: maxAccountsBytes, followLink: false });
  } catch (error) {
    if (isAbsent(error)) return undefined;
    if (error instanceof CrispError) throw new CrispError(error.id, `${path} of the image: ${error.message}`);
    throw error;
  }
}

/** Bytes; Docker's complete profile has 13 KiB. */
const longestProfile = 1 << 20;

async function localSeccompProfile(path: string | undefined): Promise<DockerProfile | undefined> {
  if (path === undefined) return undefined;
  try {
    return parseProfile(await readText(path, { maxBytes: longestProfile }));
  } catch (error) {
    throw new CrispError(
      'InvalidArgument',
      `seccomp.localhost_ref: ${path} cannot be used: ${(error as Error).message}`,
    );
  }
}

/** One line each: "NAME (MODE)". */
async function loadedAppArmorProfiles(): Promise<string[]> {
  const text = (await readFileIfThere('/sys/kernel/security/apparmor/profiles')) ?? '';
  return text
    .split('\n')
    .map((line) => line.replace(/ \([a-z]+\)$/, ''))
    .filter(Boolean);
}

/**
 * An existing source is used as it is, including links. A missing source is made, as in containerd and CRI-O,
 * but never through a dangling link.
 */
async function hostSource(path: string, field: string, absent: AbsentSources | undefined): Promise<string> {
  checkedPath(path, `${field}.host_path`);
  try {
    return await realpath(path);
  } catch (error) {
    if (!isAbsent(error)) throw error;
  }
  const missing = (why = ''): CrispError =>
    new CrispError('MountSourceMissing', `${field}.host_path: ${path} does not exist${why}`);
  if (!absent) throw missing();
  const real = await realPathOf(normalize(path).replace(/\/$/, ''));
  if ([normalize(path).replace(/\/$/, ''), real].some(absent.rejects))
    throw missing(', and runtime.absent_mount_sources_to_reject matches it');
  closeSync(openFolder(real, 0o755, absent.made));
  return real;
}

async function subPath(image: string, path: string, field: string): Promise<string> {
  const fail = (why: string): CrispError =>
    new CrispError('ImageVolumeMountFailed', `${field}.image_sub_path: "${path}" ${why}`);
  if (path.startsWith('/') || normalize(path).startsWith('..')) throw fail('must stay inside the image');
  const inside = await resolveInside(image, `/${path}`, `${field}.image_sub_path`);
  const full = join(image, inside);
  await stat(full).catch((error: unknown) => {
    throw isAbsent(error) ? fail('does not exist in the image') : error;
  });
  return full;
}

/** The mount that contains a path: the one with the longest matching target; of equals, the latest. */
function propagationOf(table: readonly MountPoint[], path: string): MountPoint['propagation'] {
  let best: MountPoint | undefined;
  for (const mount of table) {
    const below = mount.target === '/' || path === mount.target || path.startsWith(`${mount.target}/`);
    if (below && (!best || mount.target.length >= best.target.length)) best = mount;
  }
  return best?.propagation ?? 'private';
}

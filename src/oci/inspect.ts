// The facts on disk that a spec depends on: the image's accounts, where mount
// targets really lie, what mount sources and devices are, profiles.  Gathered in
// one step, so that all after it is pure.
import { lstat, readFile, readlink, realpath, stat } from 'node:fs/promises';
import { join, normalize } from 'node:path';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import { CrispError } from '../errors.js';
import { isAbsent, readFileIfThere, readRegularFile } from '../host/files.js';
import { mountPoints, type MountPoint } from '../host/mounts.js';
import { readCdi, type CdiFacts } from './cdi.js';
import type { GivenDevice } from './devices.js';
import { devicesAt } from './host-devices.js';
import { parseProfile, type DockerProfile } from './seccomp.js';
import { seccompFile } from './security.js';
import type { Device } from '../shapes/spec.js';
import type { AccountFiles } from './users.js';

export interface MountFacts {
  /** The target with symlinks resolved inside the rootfs. */
  readonly target: string;
  /** The source with symlinks resolved on the host. */
  readonly source: string;
  /** The propagation of the mount that the source lies on. */
  readonly propagation: MountPoint['propagation'];
}

export interface RootfsFacts {
  readonly accounts: AccountFiles;
  /** One per mount of the request, in its order. */
  readonly mounts: readonly MountFacts[];
  /** The devices of the request, folders taken apart. */
  readonly devices: readonly GivenDevice[];
  /** All of the host's, for a privileged container. */
  readonly hostDevices: readonly Device[];
  readonly cdi: CdiFacts;
  /** The seccomp profile that Localhost names. */
  readonly seccompProfile: DockerProfile | undefined;
  /** The AppArmor profiles that the kernel has. */
  readonly apparmorProfiles: readonly string[];
}

export interface InspectInput {
  readonly rootfs: string;
  readonly config: ContainerConfig__Output;
  /** Where image volumes are mounted: index in config.mounts -> path. */
  readonly imageMounts: ReadonlyMap<number, string>;
  /** Where CDI specs are looked for; by default the folders of the CDI specification. */
  readonly cdiFolders?: readonly string[];
}

/** @throws InvalidArgument, PathEscapes, MountSourceMissing, ImageVolumeMountFailed */
export async function inspectRootfs({
  rootfs,
  config,
  imageMounts,
  cdiFolders,
}: InspectInput): Promise<RootfsFacts> {
  const security = config.linux?.security_context ?? null;
  const table = config.mounts.length ? await mountPoints() : [];
  const [passwd, group] = await Promise.all(
    ['/etc/passwd', '/etc/group'].map((path) => readInside(rootfs, path)),
  );
  return {
    accounts: { passwd: passwd ?? '', group: group ?? '' },
    mounts: await Promise.all(
      config.mounts.map(async (mount, index): Promise<MountFacts> => {
        const field = `mounts[${index}]`;
        const target = await resolveInside(rootfs, mount.container_path, `${field}.container_path`);
        const image = imageMounts.get(index);
        const source =
          image === undefined
            ? await hostSource(mount.host_path, field)
            : await subPath(image, mount.image_sub_path, field);
        return { target, source, propagation: propagationOf(table, source) };
      }),
    ),
    devices: (
      await Promise.all(
        config.devices.map(async (device, index): Promise<GivenDevice[]> => {
          const path = device.container_path || device.host_path;
          if (!path.startsWith('/') || !device.host_path.startsWith('/'))
            throw new CrispError(
              'InvalidArgument',
              `devices[${index}]: "${device.host_path}" and "${path}" must be absolute paths`,
            );
          const found = await devicesAt(device.host_path, normalize(path));
          if (found.length === 0)
            throw new CrispError(
              'InvalidArgument',
              `devices[${index}].host_path: ${device.host_path} is no device and holds none`,
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
}

/**
 * Where a path leads inside a rootfs: symlinks are followed as the container
 * would follow them, an absolute one from the rootfs.  What does not exist yet
 * is kept as it is (the runtime makes it).
 * @returns the path as the container sees it
 * @throws InvalidArgument for a relative path, PathEscapes when it climbs out
 */
export async function resolveInside(rootfs: string, path: string, field: string): Promise<string> {
  if (!path.startsWith('/'))
    throw new CrispError('InvalidArgument', `${field}: "${path}" must be an absolute path`);
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
    const link = await linkTarget(join(rootfs, ...resolved, name));
    if (link === undefined) {
      resolved.push(name);
      continue;
    }
    if (++links > 40) throw new CrispError('PathEscapes', `${field}: "${path}" goes round in symlinks`); // the kernel's own limit (path_resolution(7))
    if (link.startsWith('/')) resolved = [];
    rest = [...link.split('/'), ...rest];
  }
  return `/${resolved.join('/')}`;
}

async function linkTarget(path: string): Promise<string | undefined> {
  try {
    return (await lstat(path)).isSymbolicLink() ? await readlink(path) : undefined;
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

async function readInside(rootfs: string, path: string): Promise<string | undefined> {
  const resolved = await resolveInside(rootfs, path, path).catch(() => undefined);
  if (resolved === undefined) return undefined;
  try {
    const file = join(rootfs, resolved);
    return (await lstat(file)).isFile() ? await readFile(file, 'utf8') : undefined; // a FIFO would hang us
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

/** Bytes; Docker's whole profile has 13 KiB. */
const longestProfile = 1 << 20;

async function localSeccompProfile(path: string | undefined): Promise<DockerProfile | undefined> {
  if (path === undefined) return undefined;
  try {
    return parseProfile(await readRegularFile(path, longestProfile));
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

async function hostSource(path: string, field: string): Promise<string> {
  if (!path.startsWith('/'))
    throw new CrispError('InvalidArgument', `${field}.host_path: "${path}" must be an absolute path`);
  try {
    return await realpath(path);
  } catch (error) {
    if (isAbsent(error))
      throw new CrispError('MountSourceMissing', `${field}.host_path: ${path} does not exist`);
    throw error;
  }
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

/** The mount that a path lies on is the one with the longest matching target; of equals, the later. */
function propagationOf(table: readonly MountPoint[], path: string): MountPoint['propagation'] {
  let best: MountPoint | undefined;
  for (const mount of table) {
    const below = mount.target === '/' || path === mount.target || path.startsWith(`${mount.target}/`);
    if (below && (!best || mount.target.length >= best.target.length)) best = mount;
  }
  return best?.propagation ?? 'private';
}

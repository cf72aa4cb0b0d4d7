// Checks the working folder of a process. The runtimes enter it before they drop
// their privileges, so they would follow links that the process itself may not
// follow: the links of /proc/PID, which lead out of the container (root, cwd,
// fd/N).
import { constants, openSync, closeSync } from 'node:fs';
import { readFile, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../errors.js';
import { isAbsent, O_PATH } from '../host/files.js';
import type { Mount, Spec } from '../shapes/spec.js';
import { linkTarget } from './inspect.js';

/**
 * statfs(2)'s type of procfs (linux/magic.h: PROC_SUPER_MAGIC), the only filesystem with links that lead
 * anywhere.
 */
const procfsMagic = 0x9fa0;
/** The kernel's own limit (path_resolution(7)). */
const maxLinks = 40;

/**
 * The spec with its working folder resolved inside the rootfs and the mounts, as
 * in a chroot: no link is left in it. A part that does not exist is kept, and
 * the runtime makes it.
 * @param rootfs absolute; spec.root.path may be relative to a bundle
 * @throws InvalidArgument if it leads into any procfs
 */
export async function withWorkingFolder(spec: Spec, rootfs: string): Promise<Spec> {
  const cwd = await resolveWorkingFolder(spec.process.cwd, (path) => placeOf(path, rootfs, spec.mounts));
  return { ...spec, process: { ...spec.process, cwd } };
}

/**
 * Refuses a working folder that now leads into procfs, in a running container.
 * @param pid of the container's first process
 * @throws InvalidArgument
 */
export async function checkWorkingFolder(cwd: string, pid: number): Promise<void> {
  await resolveWorkingFolder(cwd, (path) => join(`/proc/${pid}/root`, path));
}

/**
 * Refuses a process with a working folder outside its own mounts, or in
 * procfs: the target of the path may have changed between the check and the
 * runtime's chdir(2). For a process that was made and does not run yet.
 * @throws InvalidArgument
 */
export async function checkProcessFolder(cwd: string, pid: number): Promise<void> {
  const path = `/proc/${pid}/cwd`;
  const folder = openSync(path, O_PATH | constants.O_DIRECTORY);
  try {
    const [, mount] = /^mnt_id:\s*(\d+)$/m.exec(await readFile(`/proc/self/fdinfo/${folder}`, 'utf8')) ?? [];
    const own = (await readFile(`/proc/${pid}/mountinfo`, 'utf8'))
      .split('\n')
      .map((line) => line.split(' ')[0]);
    if (!own.includes(mount) || (await statfs(path)).type === procfsMagic) throw refused(cwd);
  } finally {
    closeSync(folder);
  }
}

/** @param place the host path of a container path without links; undefined: in a mount that is still empty */
async function resolveWorkingFolder(
  cwd: string,
  place: (path: string) => string | undefined,
): Promise<string> {
  let resolved: string[] = [];
  let rest = cwd.split('/');
  for (let links = 0; rest.length > 0;) {
    const [name = '', ...after] = rest;
    rest = after;
    if (name === '' || name === '.') continue;
    if (name === '..') {
      resolved.pop(); // the parent of the root is the root
      continue;
    }
    const at = place(`/${[...resolved, name].join('/')}`);
    const link = at === undefined ? undefined : await linkTarget(at, 'working_dir');
    if (link === undefined) {
      if (at !== undefined && (await isProcfs(at))) throw refused(cwd);
      resolved.push(name);
      continue;
    }
    if (++links > maxLinks)
      throw new CrispError('InvalidArgument', `working_dir: "${cwd}" is a loop of symlinks`);
    if (link.startsWith('/')) resolved = [];
    rest = [...link.split('/'), ...rest];
  }
  return `/${resolved.join('/')}`;
}

/** The mount that contains a path: the one with the longest target, and of equals the latest. */
function placeOf(path: string, rootfs: string, mounts: readonly Mount[]): string | undefined {
  let best: Mount | undefined;
  for (const mount of mounts) {
    const { destination } = mount;
    if (path !== destination && !path.startsWith(`${destination.replace(/\/$/, '')}/`)) continue;
    if (!best || destination.length >= best.destination.length) best = mount;
  }
  if (!best) return join(rootfs, path);
  const rest = path.slice(best.destination.length);
  if (best.type === 'proc') return join('/proc', rest); // any procfs: it is refused
  return best.type === 'bind' && best.source !== undefined ? join(best.source, rest) : undefined;
}

async function isProcfs(path: string): Promise<boolean> {
  try {
    return (await statfs(path)).type === procfsMagic;
  } catch (error) {
    if (isAbsent(error)) return false;
    throw error;
  }
}

function refused(cwd: string): CrispError {
  return new CrispError(
    'InvalidArgument',
    `working_dir: "${cwd}" leads into /proc, or out of the container`,
    { hint: 'name a folder of the image or of a volume, in the request or as the WorkingDir of the image' },
  );
}

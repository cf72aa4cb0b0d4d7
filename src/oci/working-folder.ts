// Where the working folder of a process leads.  The runtimes enter it before they
// drop their rights, so that they would follow what the process itself may not:
// the links of /proc/PID, which lead out of the container (root, cwd, fd/N).
import { constants, openSync, closeSync } from 'node:fs';
import { readFile, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../errors.js';
import { isAbsent, O_PATH } from '../host/files.js';
import type { Mount, Spec } from '../shapes/spec.js';
import { linkTarget } from './inspect.js';

/** statfs(2)'s type of procfs (linux/magic.h: PROC_SUPER_MAGIC), the one filesystem whose links lead anywhere. */
const procfsMagic = 0x9fa0;
/** The kernel's own limit (path_resolution(7)). */
const maxLinks = 40;

/**
 * The spec with its working folder resolved inside the rootfs and the mounts, as
 * a chroot would: no link is left in it. What does not exist is kept, and the
 * runtime makes it.
 * @param rootfs absolute; spec.root.path may be relative to a bundle
 * @throws InvalidArgument for one that leads into procfs, whoever mounted that
 */
export async function withWorkingFolder(spec: Spec, rootfs: string): Promise<Spec> {
  const cwd = await resolveWorkingFolder(spec.process.cwd, (path) => placeOf(path, rootfs, spec.mounts));
  return { ...spec, process: { ...spec.process, cwd } };
}

/**
 * Refuses a working folder that leads into procfs now, in a container that runs.
 * @param pid of the container's first process
 * @throws InvalidArgument
 */
export async function checkWorkingFolder(cwd: string, pid: number): Promise<void> {
  await resolveWorkingFolder(cwd, (path) => join(`/proc/${pid}/root`, path));
}

/**
 * Refuses a process whose working folder is not in its own mounts, or is in
 * procfs: what a name led to may have changed between the look at it and the
 * runtime's. For a process that was made and does not run yet.
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

/** @param place where a path of the container without links is found; undefined: in a mount that holds nothing yet */
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
      resolved.pop(); // of the root, it is the root
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
      throw new CrispError('InvalidArgument', `working_dir: "${cwd}" goes round in symlinks`);
    if (link.startsWith('/')) resolved = [];
    rest = [...link.split('/'), ...rest];
  }
  return `/${resolved.join('/')}`;
}

/** Of two mounts that hold a path the one with the longer target, and of equals the later. */
function placeOf(path: string, rootfs: string, mounts: readonly Mount[]): string | undefined {
  let best: Mount | undefined;
  for (const mount of mounts) {
    const { destination } = mount;
    if (path !== destination && !path.startsWith(`${destination.replace(/\/$/, '')}/`)) continue;
    if (!best || destination.length >= best.destination.length) best = mount;
  }
  if (!best) return join(rootfs, path);
  const rest = path.slice(best.destination.length);
  if (best.type === 'proc') return join('/proc', rest); // any of them: it is refused for what it is
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

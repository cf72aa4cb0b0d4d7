// Mounts made by crisp: overlays, shared memory, pinned namespaces.
import { readFile } from 'node:fs/promises';
import { CrispError, type ErrorId } from '../errors.js';
import { isAbsent } from './files.js';
import { isMountRoot, mountFilesystem, mountFlag, unmountAsync, unmountLazily } from './syscalls.js';

export interface MountPoint {
  readonly target: string;
  readonly type: string;
  readonly propagation: 'private' | 'shared' | 'slave' | 'unbindable';
}

/** The mounts of crisp's mount namespace (proc_pid_mountinfo(5)), in the order of mounting. */
export async function mountPoints(): Promise<MountPoint[]> {
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [left = '', right = ''] = line.split(' - ');
      const fields = left.split(' ');
      const optional = fields.slice(6).join(' ');
      const propagation = /\bshared:/.test(optional)
        ? 'shared'
        : /\bmaster:/.test(optional)
          ? 'slave'
          : /\bunbindable\b/.test(optional)
            ? 'unbindable'
            : 'private';
      return { target: unescapeOctal(fields[4] ?? ''), type: right.split(' ')[0] ?? '', propagation };
    });
}

/**
 * Whether one of crisp's own filesystems is mounted at exactly this path, in the mount namespace of crisp. Does
 * not read the table of all mounts, which grows with all pods of the node.
 */
export async function isMountPoint(path: string): Promise<boolean> {
  try {
    return isMountRoot(path);
  } catch (error) {
    if (isAbsent(error)) return false;
    throw error;
  }
}

/**
 * Mounts one of crisp's own filesystems; `options` is a comma-separated list:
 * ro, nosuid, nodev, noexec, and options of the filesystem. With `cwd`, paths
 * in them may be relative, such as overlay's lower folders.
 * @throws StorageFailed, or `errorId`, with the name of the errno
 */
export async function mount(
  type: string,
  source: string,
  target: string,
  options: string,
  at: { cwd?: string; stage?: string; errorId?: ErrorId } = {},
): Promise<void> {
  let flags = 0;
  const data: string[] = [];
  for (const option of options.split(','))
    if (isFlag(option)) flags |= mountFlag[option];
    else if (option) data.push(option);
  attempt(`cannot mount ${type} at ${target}`, at, () => {
    // All threads share the working folder, but no other code runs until it is restored.
    const before = at.cwd === undefined ? undefined : process.cwd();
    try {
      if (at.cwd !== undefined) process.chdir(at.cwd);
      mountFilesystem(source, target, type, flags, data.join(','));
    } finally {
      if (before !== undefined) process.chdir(before);
    }
  });
}

/** Bind-mounts a file or folder of crisp; never a path of a pod, whose server may be dead. */
export async function bindMount(source: string, target: string): Promise<void> {
  attempt(`cannot bind ${source} to ${target}`, {}, () => {
    mountFilesystem(source, target, null, mountFlag.bind);
  });
}

/** Unmounts in the given order, lazily if busy; no error for a path that is not a mount point. */
export async function unmount(...targets: [string, ...string[]]): Promise<void> {
  for (const target of targets)
    while (!(await unmountAsync(target)) && (await isInTable(target)))
      attempt(`cannot unmount ${target}`, {}, () => {
        unmountLazily(target);
      });
}

/** isMountPoint() for a mount of any filesystem, also of a server that is dead. */
async function isInTable(target: string): Promise<boolean> {
  return (await mountPoints()).some((mount) => mount.target === target);
}

function isFlag(option: string): option is keyof typeof mountFlag {
  return option !== 'bind' && option in mountFlag;
}

function attempt(what: string, at: { stage?: string; errorId?: ErrorId }, work: () => void): void {
  try {
    work();
  } catch (error) {
    throw new CrispError(at.errorId ?? 'StorageFailed', `${what}: ${(error as Error).message}`, {
      ...(at.stage === undefined ? {} : { stage: at.stage }),
      tool: 'mount',
      cause: error,
    });
  }
}

/** The targets of all mounts at or below folders, in the order in which they can be unmounted. */
export async function mountsBelow(folders: readonly string[]): Promise<string[]> {
  return (await mountPoints())
    .map((mount) => mount.target)
    .filter((target) => folders.some((folder) => target === folder || target.startsWith(`${folder}/`)))
    .reverse();
}

/** Unmounts all mounts at or below a folder, deepest first. */
export async function unmountBelow(folder: string): Promise<void> {
  const [first, ...others] = await mountsBelow([folder]);
  if (first !== undefined) await unmount(first, ...others);
}

function unescapeOctal(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(parseInt(code, 8)));
}

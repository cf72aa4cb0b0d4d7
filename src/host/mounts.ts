// Mounts: through mount(8) and umount(8), since Node has no mount(2).
import { readFile } from 'node:fs/promises';
import { run } from './run.js';
import type { ErrorId } from '../errors.js';

const timeoutMs = 20_000;

export interface MountPoint {
  readonly target: string;
  readonly type: string;
  readonly propagation: 'private' | 'shared' | 'slave' | 'unbindable';
}

/** The mounts of our mount namespace (proc_pid_mountinfo(5)), in the order of mounting. */
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

export async function isMountPoint(path: string): Promise<boolean> {
  return (await mountPoints()).some((mount) => mount.target === path);
}

/**
 * The new system calls, which mount(8) uses since util-linux 2.39, take at most
 * 255 characters of an option: overlay's lowerdir is longer with nine layers.
 */
const wholeOptions = { LIBMOUNT_FORCE_MOUNT2: 'always' };

/** Mounts; `options` is the comma list of mount(8). `cwd` allows overlay's relative lower folders. */
export async function mount(
  type: string,
  source: string,
  target: string,
  options: string,
  at: { cwd?: string; stage?: string; errorId?: ErrorId } = {},
): Promise<void> {
  await run(['mount', '-t', type, '-o', options, source, target], {
    timeoutMs,
    ...at,
    env: wholeOptions,
    errorId: at.errorId ?? 'StorageFailed',
  });
}

export async function bindMount(
  source: string,
  target: string,
  options: readonly string[] = [],
): Promise<void> {
  await run(['mount', '--bind', ...(options.length ? ['-o', options.join(',')] : []), source, target], {
    timeoutMs,
    errorId: 'StorageFailed',
  });
}

/** Unmounts, lazily when it is busy; a path that is no mount point is fine. */
export async function unmount(...targets: [string, ...string[]]): Promise<void> {
  const result = await run(['umount', ...targets], { timeoutMs, okExitCodes: 'any' });
  if (result.exitCode === 0) return;
  for (const target of targets) {
    if (await isMountPoint(target))
      await run(['umount', '--lazy', target], { timeoutMs, errorId: 'StorageFailed' });
  }
}

/** Unmounts all that is mounted at or below a folder, deepest first. */
export async function unmountBelow(folder: string): Promise<void> {
  const [first, ...others] = (await mountPoints())
    .map((mount) => mount.target)
    .filter((target) => target === folder || target.startsWith(`${folder}/`))
    .reverse();
  if (first !== undefined) await unmount(first, ...others);
}

function unescapeOctal(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(parseInt(code, 8)));
}

// The open files of processes and their limits, from /proc/PID. For the pod metrics and the state dump.
import { readdirSync, readlinkSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { readFileIfThere } from './files.js';

/** The number of open files, and of sockets among them, of all these processes; ended ones are ignored. */
export async function countOpenFiles(pids: readonly number[]): Promise<{ files: number; sockets: number }> {
  const counts = await Promise.all(
    pids.map(async (pid) => {
      const descriptors = await readdir(`/proc/${pid}/fd`).catch(() => [] as string[]);
      return {
        files: descriptors.length,
        sockets: descriptors.filter((fd) => isSocket(`/proc/${pid}/fd/${fd}`)).length,
      };
    }),
  );
  return counts.reduce((sum, one) => ({ files: sum.files + one.files, sockets: sum.sockets + one.sockets }), {
    files: 0,
    sockets: 0,
  });
}

function isSocket(descriptor: string): boolean {
  try {
    return readlinkSync(descriptor).startsWith('socket:');
  } catch {
    return false;
  }
}

/** The soft limit of open files of a process; undefined if it has ended. */
export async function openFilesLimit(pid: number): Promise<number | undefined> {
  const text = await readFileIfThere(`/proc/${pid}/limits`).catch(() => undefined);
  const soft = /^Max open files\s+(\d+)/m.exec(text ?? '')?.[1];
  return soft === undefined ? undefined : Number(soft);
}

/**
 * crisp's open files by kind ("socket", "pipe", "anon_inode:[pidfd]", "file"). Synchronous, as proc.ts
 * ownChildren().
 */
export function ownOpenFiles(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const descriptor of readdirSync('/proc/self/fd')) {
    const kind = kindOf(`/proc/self/fd/${descriptor}`);
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
}

function kindOf(descriptor: string): string {
  try {
    const target = readlinkSync(descriptor);
    if (target.startsWith('/')) return 'file';
    return target.startsWith('anon_inode:') ? target : target.slice(0, target.indexOf(':'));
  } catch {
    return 'closed'; // the descriptor that listed them
  }
}

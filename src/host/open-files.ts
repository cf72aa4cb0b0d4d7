// The open files of processes and their limits, from /proc/PID. For the pod metrics and the state dump.
import { opendirSync, readdirSync, readlinkSync, type Dir } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { readFileIfThere } from './files.js';

/**
 * Where counting ends: each process of a container may open a million files, and looking at one takes some 10 µs of
 * the only thread.
 */
const mostCounted = 65_536;
/** After so many the other calls have their turn. */
const countedAtOnce = 512;

/**
 * The number of open files, and of sockets among them, of all these processes, but not more than 65,536; ended ones
 * are ignored.
 */
export async function countOpenFiles(pids: readonly number[]): Promise<{ files: number; sockets: number }> {
  const counts = { files: 0, sockets: 0 };
  for (const pid of pids)
    for (const descriptor of descriptorsOf(pid)) {
      counts.files++;
      if (isSocket(descriptor)) counts.sockets++;
      if (counts.files === mostCounted) return counts;
      if (counts.files % countedAtOnce === 0) await nextTurn();
    }
  return counts;
}

/** One after the other: the list of a process may not fit into memory. */
function* descriptorsOf(pid: number): Generator<string> {
  let folder: Dir | undefined;
  try {
    folder = opendirSync(`/proc/${pid}/fd`);
    for (let entry; (entry = folder.readSync());) yield `/proc/${pid}/fd/${entry.name}`;
  } catch {
    // it has ended
  } finally {
    folder?.closeSync();
  }
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

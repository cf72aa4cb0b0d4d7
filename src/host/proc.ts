// Processes as /proc shows them.  A pid alone is no identity: pids are reused,
// so we keep the start time (field 22 of /proc/PID/stat, proc(5)) beside it.
import { readdir, readlink } from 'node:fs/promises';
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { isAbsent, readFileIfThere, readText, realPathOf } from './files.js';

export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks after boot at which it started. */
  readonly startTime: string;
}

export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  const stat = readStat(pid);
  return stat && stat.state !== 'Z' ? { pid, startTime: stat.startTime } : undefined;
}

/** Whether this very process (not a later one with its pid) runs; a zombie does not. */
export async function isAlive(process: ProcessIdentity): Promise<boolean> {
  const stat = readStat(process.pid);
  return stat !== undefined && stat.state !== 'Z' && stat.startTime === process.startTime;
}

/** Whether there is any process of this pid; for names that carry the pid of who is at work on a thing. */
export function pidExists(pid: number | string): boolean {
  return existsSync(`/proc/${pid}`);
}

/** Sends a signal to this very process; false when it is gone. */
export async function signalProcess(
  target: ProcessIdentity,
  signal: NodeJS.Signals | number,
): Promise<boolean> {
  if (!(await isAlive(target))) return false;
  try {
    process.kill(target.pid, signal);
    return true;
  } catch {
    return false;
  }
}

/**
 * The programs that we or an earlier run of ours have started in this very
 * folder, by their working folder and the mark of run.ts: how they are found
 * again when nobody remembers their pids. Not the shell of somebody who looks around there.
 */
export async function programsIn(folder: string): Promise<ProcessIdentity[]> {
  const path = await realPathOf(folder);
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      if ((await readlink(`/proc/${pid}/cwd`).catch(() => '')) !== path) return undefined;
      const environment = await readText(`/proc/${pid}/environ`).catch(() => '');
      return environment.split('\0').includes('STARTED_BY=crisp') ? identify(pid) : undefined;
    }),
  );
  return found.filter((process) => process !== undefined);
}

/**
 * Waits until none of our programs works in the folder but those that `stay`
 * names (/proc/PID/comm), for at most `patienceMs`.
 * @returns those that are there then
 */
export async function outwait(folder: string, patienceMs: number, stay?: string): Promise<ProcessIdentity[]> {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    const there = await programsIn(folder);
    const names = await Promise.all(
      there.map(async ({ pid }) => (await readFileIfThere(`/proc/${pid}/comm`).catch(() => ''))?.trim()),
    );
    if (names.every((name) => name === stay) || performance.now() > deadline) return there;
    await sleep(10);
  }
}

/** Whether a process has a handler for a signal (SigCgt of proc(5)); true for one that is gone. */
export async function catches(pid: number, signal: number): Promise<boolean> {
  const status = await readFileIfThere(`/proc/${pid}/status`).catch(() => undefined);
  const mask = /^SigCgt:\s*([0-9a-f]+)/m.exec(status ?? '')?.[1];
  return mask === undefined || ((BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n) === 1n;
}

/** The children of a process, in no order. Each thread has its own (proc_pid_task(5)): a Go program forks from any. */
export async function childrenOf(pid: number): Promise<number[]> {
  const threads = await readdir(`/proc/${pid}/task`).catch(() => []);
  const lists = await Promise.all(
    threads.map((thread) => readFileIfThere(`/proc/${pid}/task/${thread}/children`).catch(() => undefined)),
  );
  return lists.flatMap((text) => (text ?? '').split(' ').filter(Boolean).map(Number));
}

/** undefined: the process is gone. */
export async function parentOf(pid: number): Promise<number | undefined> {
  return readStat(pid)?.parent;
}

/** Synchronous: it waits for nothing, and takes a tenth of what the way to a thread and back does, which counts where each container is asked for. */
function readStat(pid: number): { state: string; parent: number; startTime: string } | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch (error) {
    if (isAbsent(error) || (error as NodeJS.ErrnoException).code === 'ESRCH') return undefined; // ESRCH: it ended while we read
    throw error; // no descriptor was free, say: nobody can tell whether it lives
  }
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { state: fields[0] ?? 'X', parent: Number(fields[1]), startTime: fields[19] ?? '' };
}

/** The id of this boot: what was alive under another one is dead. */
export async function bootId(): Promise<string> {
  return (await readText('/proc/sys/kernel/random/boot_id')).trim();
}

/** The capabilities we may hand on: the names of the bounding set (CapBnd), "CAP_CHOWN" and so on. */
export function boundingCapabilities(): string[] {
  const mask = BigInt(
    `0x${/^CapBnd:\s*([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`,
  );
  return capabilityNames.filter((_, bit) => (mask >> BigInt(bit)) & 1n);
}

/** Bit order of linux/capability.h. */
export const capabilityNames: readonly string[] = [
  'CHOWN',
  'DAC_OVERRIDE',
  'DAC_READ_SEARCH',
  'FOWNER',
  'FSETID',
  'KILL',
  'SETGID',
  'SETUID',
  'SETPCAP',
  'LINUX_IMMUTABLE',
  'NET_BIND_SERVICE',
  'NET_BROADCAST',
  'NET_ADMIN',
  'NET_RAW',
  'IPC_LOCK',
  'IPC_OWNER',
  'SYS_MODULE',
  'SYS_RAWIO',
  'SYS_CHROOT',
  'SYS_PTRACE',
  'SYS_PACCT',
  'SYS_ADMIN',
  'SYS_BOOT',
  'SYS_NICE',
  'SYS_RESOURCE',
  'SYS_TIME',
  'SYS_TTY_CONFIG',
  'MKNOD',
  'LEASE',
  'AUDIT_WRITE',
  'AUDIT_CONTROL',
  'SETFCAP',
  'MAC_OVERRIDE',
  'MAC_ADMIN',
  'SYSLOG',
  'WAKE_ALARM',
  'BLOCK_SUSPEND',
  'AUDIT_READ',
  'PERFMON',
  'BPF',
  'CHECKPOINT_RESTORE',
].map((name) => `CAP_${name}`);

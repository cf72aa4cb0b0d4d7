// Processes, from /proc. A pid alone does not identify a process, since pids
// are reused: so the start time (field 22 of /proc/PID/stat, proc(5)) is kept
// with it.
import { readdir } from 'node:fs/promises';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  writeSync,
} from 'node:fs';
import { constants } from 'node:os';
import { isAbsent, readFileIfThere, readText, realPathOf } from './files.js';
import { close, openProcess, signalDescriptor, type SystemError } from './syscalls.js';
import { waitUntil } from './wait.js';

export interface ProcessIdentity {
  readonly pid: number;
  /** Its start time in clock ticks after boot. */
  readonly startTime: string;
}

/** The identity of a running process, by its start time; undefined for a zombie, or if it does not exist. */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  const stat = readStat(pid);
  return stat && stat.state !== 'Z' ? { pid, startTime: stat.startTime } : undefined;
}

/** Whether this process (not a later one with its pid) is running; a zombie is not. */
export async function isAlive(process: ProcessIdentity): Promise<boolean> {
  return runs(process);
}

/** isAlive(), synchronous: for callers that hold a pidfd meanwhile. @throws if /proc cannot be read */
export function runs(process: ProcessIdentity): boolean {
  const stat = readStat(process.pid);
  return stat !== undefined && stat.state !== 'Z' && stat.startTime === process.startTime;
}

/**
 * Whether there is any process with this pid; for names that contain the pid of the process that uses the
 * object.
 */
export function pidExists(pid: number | string): boolean {
  return existsSync(`/proc/${pid}`);
}

/** Sends a signal to this process; false if it is gone. */
export async function signalProcess(
  target: ProcessIdentity,
  signal: NodeJS.Signals | number,
): Promise<boolean> {
  return withProcess(target.pid, (send) => runs(target) && send(signal)) ?? false;
}

/**
 * Sends a signal to the processes of a list, such as that of a cgroup. A pid may
 * be reused between reading the list and sending the signal: so a pidfd is opened
 * for each pid first, and only those that are then still in the list get the
 * signal.
 * @returns the number of pids in the list
 */
export async function signalListed(
  list: () => Promise<readonly number[]>,
  signal: NodeJS.Signals | number,
): Promise<number> {
  const held = new Map<number, number>();
  try {
    for (const pid of await list()) {
      const pidfd = hold(pid);
      if (pidfd !== undefined) held.set(pid, pidfd);
    }
    if (held.size === 0) return 0;
    const meant = await list();
    for (const pid of meant) sendTo(held.get(pid), signal);
    return meant.length;
  } finally {
    for (const pidfd of held.values()) close(pidfd);
  }
}

/**
 * Sends SIGKILL to a process, to its process group and to all its descendants,
 * to each only if it is still the same process.
 */
export async function killTree(target: ProcessIdentity): Promise<void> {
  if (readStat(target.pid)?.startTime !== target.startTime) return; // the children are those of another process
  const children = await offspringOf(target.pid);
  // No other code runs in between: the id of a group is not reused while its leader exists.
  const stat = readStat(target.pid);
  if (stat?.startTime === target.startTime && stat.group === target.pid && target.pid > 1) {
    try {
      process.kill(-target.pid, 'SIGKILL');
    } catch {
      /* ESRCH: it has just ended */
    }
  }
  await signalProcess(target, 'SIGKILL');
  for (const child of children) await killTree(child);
}

/**
 * The children of a process with their start times; only those that are still its children when they are
 * checked.
 */
export async function offspringOf(pid: number): Promise<ProcessIdentity[]> {
  return (await childrenOf(pid)).flatMap((child) => {
    const stat = readStat(child);
    return stat?.parent === pid ? [{ pid: child, startTime: stat.startTime }] : [];
  });
}

/** Runs `work` while the pid cannot be reused; undefined: no process has this pid. */
function withProcess<T>(
  pid: number,
  work: (send: (signal: NodeJS.Signals | number) => boolean) => T,
): T | undefined {
  const pidfd = hold(pid);
  if (pidfd === undefined) return undefined;
  try {
    return work((signal) => sendTo(pidfd, signal));
  } finally {
    close(pidfd);
  }
}

/** A pidfd; undefined: no process has this pid. @throws SystemError if no descriptor is free */
function hold(pid: number): number | undefined {
  try {
    return openProcess(pid);
  } catch (error) {
    const { code } = error as SystemError;
    if (code === 'ESRCH' || code === 'EINVAL') return undefined; // EINVAL: a thread, or not a pid
    throw error;
  }
}

function sendTo(pidfd: number | undefined, signal: NodeJS.Signals | number): boolean {
  if (pidfd === undefined) return false;
  try {
    signalDescriptor(pidfd, typeof signal === 'number' ? signal : constants.signals[signal]);
    return true;
  } catch {
    return false; // ESRCH: it has ended
  }
}

/**
 * The programs that crisp or an earlier run of it has started in this folder, identified by
 * their working folder and the mark of run.ts: finds them without known pids. A user's
 * shell in the folder is not included.
 */
export async function programsIn(folder: string): Promise<ProcessIdentity[]> {
  const path = await realPathOf(folder);
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      if (linkOf(pid, 'cwd') !== path) return undefined;
      const environment = await readText(`/proc/${pid}/environ`).catch(() => '');
      return environment.split('\0').includes('STARTED_BY=crisp') ? identify(pid) : undefined;
    }),
  );
  return found.filter((process) => process !== undefined);
}

/** A link of a process in /proc. Synchronous like readStat(). Empty: the process is gone. */
function linkOf(pid: number, name: 'cwd' | 'exe'): string {
  try {
    return readlinkSync(`/proc/${pid}/${name}`);
  } catch {
    return '';
  }
}

/**
 * Waits until none of crisp's programs is running in the folder except those
 * in `stay` (/proc/PID/comm), for at most `patienceMs`.
 * @returns the remaining programs
 */
export async function waitUntilIdle(
  folder: string,
  patienceMs: number,
  stay?: string,
): Promise<ProcessIdentity[]> {
  let there: ProcessIdentity[] = [];
  const isIdle = async (): Promise<boolean> => {
    there = await programsIn(folder);
    const names = await Promise.all(
      there.map(async ({ pid }) => (await readFileIfThere(`/proc/${pid}/comm`).catch(() => ''))?.trim()),
    );
    return names.every((name) => name === stay);
  };
  await waitUntil(isIdle, { everyMs: 10, withinMs: patienceMs });
  return there;
}

/** Waits for the end of a process, for at most `patienceMs`. */
export async function waitUntilEnded(process: ProcessIdentity, patienceMs: number): Promise<void> {
  await waitUntil(() => !runs(process), { everyMs: 2, withinMs: patienceMs });
}

/** The path of the program that a process runs, in its own root; empty: it is gone. Does not open the file. */
export function programOf(pid: number): string {
  return linkOf(pid, 'exe');
}

/** Whether a process has a handler for a signal (SigCgt of proc(5)); true if it is gone. */
export async function catches(pid: number, signal: number): Promise<boolean> {
  const status = await readFileIfThere(`/proc/${pid}/status`).catch(() => undefined);
  const mask = /^SigCgt:\s*([0-9a-f]+)/m.exec(status ?? '')?.[1];
  return mask === undefined || ((BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n) === 1n;
}

/**
 * The children of a process, in no order. Each thread has its own (proc_pid_task(5)): a Go program forks from
 * any thread.
 */
export async function childrenOf(pid: number): Promise<number[]> {
  const threads = await readdir(`/proc/${pid}/task`).catch(() => []);
  const lists = await Promise.all(
    threads.map((thread) => readFileIfThere(`/proc/${pid}/task/${thread}/children`).catch(() => undefined)),
  );
  return lists.flatMap((text) => (text ?? '').split(' ').filter(Boolean).map(Number));
}

/**
 * crisp's children for the state dump: by name, without arguments, which may contain secrets. Synchronous:
 * the threads that read files may all hang.
 */
export function ownChildren(): { pid: number; name: string; state: string; seconds: number }[] {
  const uptime = parseFloat(readFileSync('/proc/uptime', 'utf8'));
  const lists = readdirSync('/proc/self/task').map((thread) =>
    readFileSync(`/proc/self/task/${thread}/children`, 'utf8'),
  );
  return lists.flatMap((list) =>
    list
      .split(' ')
      .filter(Boolean)
      .flatMap((pid) => {
        const stat = readStat(Number(pid));
        if (!stat) return [];
        const { name, state, startTime } = stat;
        return {
          pid: Number(pid),
          name: nameOf(Number(pid), name),
          state,
          seconds: Math.round(uptime - Number(startTime) / ticksPerSecond),
        };
      }),
  );
}

/** A program that is run by a descriptor (sealed-program.ts) has the number as its name, and its file has the name. */
function nameOf(pid: number, name: string): string {
  if (!/^\d+$/.test(name)) return name;
  return /^\/memfd:(.*) \(deleted\)$/.exec(programOf(pid))?.[1] ?? name;
}

/** USER_HZ of /proc/PID/stat: 100 on all architectures that Node runs on. */
const ticksPerSecond = 100;

/** undefined: the process is gone. */
export async function parentOf(pid: number): Promise<number | undefined> {
  return readStat(pid)?.parent;
}

/**
 * Synchronous: it does not block, and takes a tenth of the time of a switch to a thread and back, which
 * matters when all containers are checked.
 */
function readStat(
  pid: number,
): { name: string; state: string; parent: number; group: number; startTime: string } | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch (error) {
    if (isAbsent(error) || (error as NodeJS.ErrnoException).code === 'ESRCH') return undefined; // ESRCH: it ended during the read
    throw error; // for example no free descriptor: its state is unknown
  }
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return {
    name: text.slice(text.indexOf('(') + 1, text.lastIndexOf(')')),
    state: fields[0] ?? 'X',
    parent: Number(fields[1]),
    group: Number(fields[2]),
    startTime: fields[19] ?? '',
  };
}

/**
 * Runs `work` while crisp's own oom_score_adj (proc(5)) has this value, which
 * all programs that are started meanwhile inherit; the caller starts no others.
 * If crisp may not set the value (lowering it requires CAP_SYS_RESOURCE), the
 * work is done with crisp's own.
 */
export async function withOomScoreAdj<T>(value: number, work: () => Promise<T>): Promise<T> {
  const own = openSync('/proc/self/oom_score_adj', 'r+'); // kept open: restoring must not depend on a free descriptor
  try {
    const buffer = Buffer.alloc(16);
    const before = buffer.toString('utf8', 0, readSync(own, buffer, 0, buffer.length, 0)).trim();
    try {
      writeSync(own, String(value), 0);
    } catch {
      return await work(); // EACCES
    }
    try {
      return await work();
    } finally {
      writeSync(own, before, 0); // never refused: the kernel always allows the previous value
    }
  } finally {
    closeSync(own);
  }
}

/** The id of this boot: processes of another boot have ended. */
export async function bootId(): Promise<string> {
  return (await readText('/proc/sys/kernel/random/boot_id')).trim();
}

/** The capabilities that crisp may grant: the names of the bounding set (CapBnd), "CAP_CHOWN" and so on. */
export function boundingCapabilities(status = readFileSync('/proc/self/status', 'utf8')): string[] {
  const mask = BigInt(`0x${/^CapBnd:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
  return capabilityNames.filter((_, bit) => (mask >> BigInt(bit)) & 1n);
}

/** In the bit order of linux/capability.h. */
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

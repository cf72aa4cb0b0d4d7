// Processes as /proc shows them.  A pid alone is no identity: pids are reused,
// so we keep the start time (field 22 of /proc/PID/stat, proc(5)) beside it.
import { readdir, readlink } from 'node:fs/promises';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { isAbsent, readFileIfThere, readText, realPathOf } from './files.js';
import { close, openProcess, signalDescriptor, type SystemError } from './syscalls.js';

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
  return runs(process);
}

/** isAlive(), at once: for who holds the pid meanwhile. @throws when /proc cannot be read */
export function runs(process: ProcessIdentity): boolean {
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
  return withProcess(target.pid, (send) => runs(target) && send(signal)) ?? false;
}

/**
 * Sends a signal to the processes that a list names, a cgroup's say. What is read
 * of a pid may be of its last owner by the time that it is used: so each pid is
 * held first, and only those that the list then still names get it.
 * @returns how many are in the list
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
 * SIGKILL to a process, to the group that it leads and to all its descendants,
 * each only while it is still the one that was found.
 */
export async function killTree(target: ProcessIdentity): Promise<void> {
  const children = await offspringOf(target.pid);
  // One step for us: the number of a group is not given away while its leader is there.
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

/** The children of a process by their identities: those that are its children also when they are looked at. */
export async function offspringOf(pid: number): Promise<ProcessIdentity[]> {
  return (await childrenOf(pid)).flatMap((child) => {
    const stat = readStat(child);
    return stat?.parent === pid ? [{ pid: child, startTime: stat.startTime }] : [];
  });
}

/** Does something while a pid, if it is one, cannot come to mean another process; undefined: nobody has it. */
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

/** A pidfd; undefined: nobody has this pid. @throws SystemError when no descriptor is free */
function hold(pid: number): number | undefined {
  try {
    return openProcess(pid);
  } catch (error) {
    const { code } = error as SystemError;
    if (code === 'ESRCH' || code === 'EINVAL') return undefined; // EINVAL: a thread, or no pid at all
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
export async function waitUntilIdle(
  folder: string,
  patienceMs: number,
  stay?: string,
): Promise<ProcessIdentity[]> {
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

/**
 * Our own children as an operator is shown them: by name, without arguments, which may hold secrets.
 * Synchronous, for the state dump: the threads that read files may all hang.
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
          name,
          state,
          seconds: Math.round(uptime - Number(startTime) / ticksPerSecond),
        };
      }),
  );
}
/** USER_HZ of /proc/PID/stat: 100 on all architectures that Node runs on. */
const ticksPerSecond = 100;

/** undefined: the process is gone. */
export async function parentOf(pid: number): Promise<number | undefined> {
  return readStat(pid)?.parent;
}

/** Synchronous: it waits for nothing, and takes a tenth of what the way to a thread and back does, which counts where each container is asked for. */
function readStat(
  pid: number,
): { name: string; state: string; parent: number; group: number; startTime: string } | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch (error) {
    if (isAbsent(error) || (error as NodeJS.ErrnoException).code === 'ESRCH') return undefined; // ESRCH: it ended while we read
    throw error; // no descriptor was free, say: nobody can tell whether it lives
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
 * Does something synchronous while our own oom_score_adj (proc(5)) has this
 * value, which a program that is started meanwhile inherits, and all that it
 * starts.  Where we may not take the value (one below what CAP_SYS_RESOURCE last
 * set takes that capability) the work is done with ours.
 */
export function withOomScoreAdj<T>(value: number | undefined, work: () => T): T {
  if (value === undefined) return work();
  const own = openSync('/proc/self/oom_score_adj', 'r+'); // held: the way back must not depend on a free descriptor
  try {
    const buffer = Buffer.alloc(16);
    const before = buffer.toString('utf8', 0, readSync(own, buffer, 0, buffer.length, 0)).trim();
    try {
      writeSync(own, String(value), 0);
    } catch {
      return work(); // EACCES
    }
    try {
      return work();
    } finally {
      writeSync(own, before, 0); // never refused: the kernel lets everybody back to what they had
    }
  } finally {
    closeSync(own);
  }
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

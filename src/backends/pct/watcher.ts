// The watcher beside each running CT (see watcher.pl): starts it, and sends
// commands to it over the socket BUNDLE/watch.
import { once } from 'node:events';
import { open, readdir } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { basename, join } from 'node:path';
import type { Duplex, Writable } from 'node:stream';
import { perlProgram } from '../../installed.js';
import { CrispError } from '../../errors.js';
import { isAbsent, readFileIfThere } from '../../host/files.js';
import { identify, signalProcess } from '../../host/proc.js';
import { firstLine, runDetached } from '../../host/run.js';
import { waitUntil } from '../../host/wait.js';
import { logLink } from '../log-file.js';
import type { ContainerRef } from '../backend.js';
import type { Io } from '../../shapes/io.js';

const program = perlProgram('watcher.pl');
/** Its /proc/PID/comm. (The comm of pct, if started by its own name, is "pct".) */
export const watcherName = 'perl';

export interface WatcherPlan {
  readonly vmid: number;
  readonly bundle: string;
  readonly lxcFolder: string;
  /** The host's uid of the CT's process. */
  readonly uid: number;
  /** Has a log, to which the link `logLink` in the bundle points. */
  readonly log: boolean;
  readonly exitFile: string;
  readonly stdin: 'none' | 'open' | 'once';
  readonly terminal: boolean;
}

/** The names of the FIFOs and of the terminal in the bundle. */
export const fifo = { stdin: 'stdin', stdout: 'stdout', stderr: 'stderr' } as const;
/** The link to the terminal of the CT, in the bundle. */
export const consoleLink = 'console';
/** Permits one start of the CT, which removes it (ct-start.pl). */
export const permit = 'permit';

/** The watcher never blocks, so this is enough even on a busy node. */
const answerMs = 10_000;

/** Resolves when it accepts connections. @throws ToolTimeout, RuntimeFailed */
export async function startWatcher(plan: WatcherPlan): Promise<void> {
  const {
    kill,
    pipes: [pipe],
  } = await runDetached(watcherArgv(plan), { cwd: plan.bundle, pipes: ['read'] });
  const answer = await firstLine(pipe as Duplex, answerMs);
  if (answer === undefined) {
    kill();
    throw new CrispError(
      'ToolTimeout',
      `the watcher of CT ${plan.vmid} was not ready within ${answerMs} ms`,
      { stage: 'start watcher', tool: 'watcher' },
    );
  }
  if (answer !== 'ready')
    throw new CrispError(
      'RuntimeFailed',
      `the watcher of CT ${plan.vmid} does not start: ${answer || 'it ended without a message'}`,
      {
        stage: 'start watcher',
        tool: 'watcher',
        hint: 'lxc-monitord must run: `systemctl status lxc-monitord`',
      },
    );
}

/** The command line of the watcher, a Perl program. */
export function watcherArgv({
  vmid,
  lxcFolder,
  uid,
  log,
  exitFile,
  stdin,
  terminal,
}: WatcherPlan): [string, ...string[]] {
  return [
    watcherName,
    program,
    String(vmid),
    monitorSocket(lxcFolder),
    String(uid),
    log ? logLink : '',
    exitFile,
    stdin,
    terminal ? '1' : '0',
  ];
}

/**
 * Makes the watcher of a container restore its bundle, which was lost with the state folder, and listen there
 * again; false: it failed.
 */
export async function wakeWatcher(
  vmid: number,
  container: Pick<ContainerRef, 'id' | 'folder'>,
): Promise<boolean> {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const watcher = await identify(Number(pid));
    if (!watcher) continue;
    const [, script = '', id, , , , exitFile = ''] = (
      (await readFileIfThere(`/proc/${pid}/cmdline`).catch(() => undefined)) ?? ''
    ).split('\0');
    if (basename(script) !== basename(program) || id !== String(vmid) || basename(exitFile) !== container.id)
      continue;
    const listens = async (): Promise<boolean> => {
      const socket = await connectTo(container.folder);
      socket?.destroy();
      // Repeated, since a signal just before the watcher's select(2) is handled late.
      if (!socket) await signalProcess(watcher, 'SIGHUP');
      return socket !== undefined;
    };
    if (await waitUntil(listens, { everyMs: 20, withinMs: wakeMs })) return true;
  }
  return false;
}
const wakeMs = 2_000;

/**
 * The abstract socket of lxc-monitord: an FNV-1a hash, since a long path would not fit (liblxc,
 * lxc_monitor_sock_name).
 */
export function monitorSocket(lxcFolder: string): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(`lxc/${lxcFolder}/monitor-sock`))
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return `lxc/${hash.toString(16).padStart(16, '0')}/${lxcFolder}`.slice(0, longestAbstractName);
}
/** sun_path without the leading NUL byte and the final one of snprintf(). */
const longestAbstractName = 106;

/** Sends a command to the watcher and waits for its answer; false: no answer in time. */
export async function send(
  container: Pick<ContainerRef, 'folder'>,
  word: 'reopen' | 'quit' | `resize ${number} ${number}`,
): Promise<boolean> {
  const socket = await connectTo(container.folder);
  if (!socket) return false;
  socket.write(`${word}\n`);
  const answer = await firstLine(socket, answerMs);
  return answer === 'ok';
}

/**
 * Opens an idle connection to the watcher of a container.
 * @param ended called once when the watcher ends, not when the connection is closed
 * by the caller
 * @returns closes it; undefined: there is no watcher
 */
export async function holdWatch(
  container: Pick<ContainerRef, 'folder'>,
  ended: () => void,
): Promise<(() => void) | undefined> {
  const socket = await connectTo(container.folder);
  if (!socket) return undefined;
  socket.unref();
  socket.once('close', ended);
  socket.once('end', () => socket.destroy());
  socket.resume();
  return () => {
    socket.off('close', ended);
    socket.destroy();
  };
}

/**
 * Attaches to output from now on, and to input; ends with the CT or the client, or with its input if
 * requested. Frames: a byte for the stream (1 stdout, 2 stderr), four bytes of length, the data.
 * @throws ClientTooSlow, WrongContainerState
 */
export async function attach(container: ContainerRef, io: Io, signal: AbortSignal): Promise<void> {
  const socket = await connectTo(container.folder);
  if (!socket)
    throw new CrispError(
      'WrongContainerState',
      `container ${container.id} has no watcher any more: it has ended`,
      { stage: 'attach' },
    );
  const end = (): void => {
    socket.destroy();
  };
  signal.addEventListener('abort', end, { once: true });
  if (signal.aborted) end(); // before it was connected
  try {
    socket.write('attach\n');
    io.stdin?.pipe(socket);
    if (io.endsWithStdin && io.stdin) socket.once('finish', end); // the watcher still reads the sent input
    let rest = Buffer.alloc(0);
    let greeted = false;
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      rest = Buffer.concat([rest, chunk]);
      if (!greeted) {
        if (rest.length < greeting.length) continue;
        rest = rest.subarray(greeting.length);
        greeted = true;
      }
      for (
        let length;
        rest.length >= 5 && rest.length >= 5 + (length = rest.readUInt32BE(1));
        rest = rest.subarray(5 + length)
      ) {
        const to = rest[0] === 2 ? io.stderr : io.stdout;
        if (to && !to.destroyed && !to.write(rest.subarray(5, 5 + length))) await drained(to, signal);
      }
    }
  } catch (error) {
    const hasEnded = (error as NodeJS.ErrnoException).code === 'ECONNRESET'; // the watcher, with the CT
    if (!hasEnded && !signal.aborted && !(io.stdin?.readableEnded && io.endsWithStdin)) throw error;
  } finally {
    signal.removeEventListener('abort', end);
    io.stdin?.unpipe(socket);
    end();
  }
}

/** @throws ClientTooSlow if the client reads nothing for as long as the watcher waits for it, Cancelled */
async function drained(to: Writable, signal: AbortSignal): Promise<void> {
  const patience = AbortSignal.timeout(clientPatienceMs);
  try {
    await once(to, 'drain', { signal: AbortSignal.any([signal, patience]) });
  } catch (error) {
    if (!patience.aborted) throw error;
    throw new CrispError(
      'ClientTooSlow',
      `the client read none of the output of the container for ${clientPatienceMs / 1000} s`,
      { stage: 'attach' },
    );
  }
}
/** PATIENCE of watcher.pl. */
const clientPatienceMs = 10_000;

const greeting = 'ok\n';

/**
 * Through the folder's descriptor: the path of a unix socket has room for 107 bytes.
 * A watcher that ends resets the connections that it has not accepted, at any time.
 */
async function connectTo(folder: string): Promise<Socket | undefined> {
  let handle;
  let socket;
  try {
    handle = await open(folder);
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
  try {
    socket = connect({ path: join(`/proc/self/fd/${handle.fd}`, 'watch'), allowHalfOpen: true });
    socket.on('error', () => undefined); // at a time when nobody else listens, it would end the daemon
    await once(socket, 'connect');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ECONNRESET') return undefined;
    throw error;
  } finally {
    await handle.close();
  }
  return socket.destroyed ? undefined : socket;
}

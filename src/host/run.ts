// The one place that starts programs.
//
// argv arrays, never a shell; a near-empty environment; a time-out always; an
// abort sends TERM and, 5 s later, KILL.  Every call is one log line with argv,
// exit, milliseconds and the tail of stderr, at debug, at info when it fails.
import { execa, type Options } from 'execa';
import { spawn, type ChildProcess } from 'node:child_process';
import type { Socket } from 'node:net';
import type { Duplex, Readable, Writable } from 'node:stream';
import { CrispError, lastLines, type ErrorId } from '../errors.js';
import { log } from '../log.js';
import { metrics } from '../metrics.js';

export interface RunOptions {
  /** Milliseconds: a tool that hangs must not hang us. 0, no limit, is for a client's own session (runStreaming). */
  timeoutMs: number;
  /** Abort: TERM, then KILL after 5 s. */
  signal?: AbortSignal | undefined;
  /** Bytes for stdin (secrets go this way or by file); else stdin is /dev/null. */
  input?: string | Buffer | undefined;
  cwd?: string | undefined;
  /** Added to the near-empty environment. */
  env?: Record<string, string> | undefined;
  /** Exit codes that are an answer and not a failure. Default: only 0. */
  okExitCodes?: readonly number[] | 'any';
  /** Bytes kept of each stream; what is more is dropped. Default 1 MiB. */
  maxOutputBytes?: number;
  /** The step of the story, for the error: "cni add". */
  stage?: string | undefined;
  /** The catalogue id of a non-zero exit; the default is RuntimeFailed. */
  errorId?: ErrorId;
  /** Gives it a process group of its own; when it is stopped before its end, whatever it started is killed too. */
  wholeGroup?: boolean;
}

export interface RunResult {
  /** undefined when a signal ended it. */
  exitCode: number | undefined;
  signal: string | undefined;
  stdout: string;
  stderr: string;
  durationMs: number;
}

/** A program that could not be run, timed out, or ended as it should not. */
export class CommandError extends CrispError implements RunResult {
  override readonly name = 'CommandError';
  constructor(
    id: ErrorId,
    message: string,
    readonly argv: readonly string[],
    stage: string | undefined,
    readonly exitCode: number | undefined,
    readonly signal: string | undefined,
    readonly stdout: string,
    override readonly stderr: string,
    readonly durationMs: number,
  ) {
    super(id, message, { stage, tool: toolName(argv), stderr });
  }
}

/** The environment of every tool: nothing of ours leaks into it, but for the mark that it was us who started it. */
const baseEnvironment = {
  STARTED_BY: 'crisp',
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LANG: 'C.UTF-8',
};
const killAfterMs = 5_000;

/**
 * Runs a program to its end.
 * @throws CommandError: ToolMissing, ToolTimeout, Cancelled, or `errorId` for an exit code that is not ok.
 */
export async function run(argv: readonly [string, ...string[]], options: RunOptions): Promise<RunResult> {
  const [file, ...args] = argv;
  const started = performance.now();
  const child = execa(file, args, {
    ...processOptions(options),
    stdin: options.input === undefined ? 'ignore' : 'pipe',
    ...(options.input === undefined ? {} : { input: options.input }),
    maxBuffer: options.maxOutputBytes ?? 1 << 20,
    detached: options.wholeGroup ?? false,
  });
  if (options.wholeGroup)
    child.once('exit', () => {
      if (child.killed) killGroup(child.pid);
    });
  const ended = await child;
  const result: RunResult = {
    exitCode: ended.exitCode,
    signal: ended.signal,
    stdout: String(ended.stdout ?? ''),
    stderr: String(ended.stderr ?? ''),
    durationMs: performance.now() - started,
  };
  return judge(argv, options, result, ended);
}

function killGroup(leader: number | undefined): void {
  try {
    if (leader !== undefined) process.kill(-leader, 'SIGKILL');
  } catch {
    /* ESRCH: nothing of it is left */
  }
}

export interface Streams {
  stdin?: Readable | undefined;
  stdout?: Writable | undefined;
  /** Ends `stdout` when the program closes its own, which may be before its exit. */
  endStdout?: boolean;
  stderr?: Writable | undefined;
}

/** A program whose output flows while it runs. */
export interface Running {
  readonly pid: number | undefined;
  /** Settles when the program has ended and its output is delivered. */
  readonly ended: Promise<RunResult>;
}

/**
 * Starts a program with live streams.  Back-pressure is the streams' own.
 * Unlike run(), it ends with the program and a short drain, not when the last
 * grandchild closes the pipe.
 */
export function runStreaming(
  argv: readonly [string, ...string[]],
  streams: Streams,
  options: RunOptions,
): Running {
  const [file, ...args] = argv;
  const started = performance.now();
  // Node's own spawn: a probe comes this way every second, and execa's part of it would be a third.
  const child = spawn(file, args, {
    stdio: [
      streams.stdin ? 'pipe' : 'ignore',
      streams.stdout ? 'pipe' : 'ignore',
      streams.stderr ? 'pipe' : 'ignore',
    ],
    env: { ...baseEnvironment, ...options.env },
    detached: options.wholeGroup ?? false,
    ...(options.cwd ? { cwd: options.cwd } : {}),
  });
  const stopped = stopOn(child, options);
  if (streams.stdin && child.stdin) {
    child.stdin.on('error', () => undefined); // EPIPE: the program does not read its input
    streams.stdin.pipe(child.stdin);
  }
  if (streams.stdout) child.stdout?.pipe(streams.stdout, { end: streams.endStdout ?? false });
  if (streams.stderr) child.stderr?.pipe(streams.stderr, { end: false });
  const outputs = [
    [child.stdout, streams.stdout],
    [child.stderr, streams.stderr],
  ] as const;
  child.once('exit', () => {
    for (const [from, to] of outputs) if (from && to) endWhenIdle(from, to);
  });
  const ended = ending(child, stopped).then((done) =>
    judge(
      argv,
      options,
      {
        exitCode: done.exitCode,
        signal: done.signal,
        stdout: '',
        stderr: '',
        durationMs: performance.now() - started,
      },
      done,
    ),
  );
  return { pid: child.pid, ended };
}

/**
 * Runs a program that makes a connection and hands it to us, over the channel
 * that Node has to its children (fd 3).
 * @returns the socket, on which each direction ends by itself
 * @throws CommandError with what the program said on stderr
 */
export async function runForSocket(
  argv: readonly [string, ...string[]],
  options: RunOptions,
): Promise<Socket> {
  const [file, ...args] = argv;
  const started = performance.now();
  const child = spawn(file, args, {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...baseEnvironment, ...options.env },
  });
  const stopped = stopOn(child, options);
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    stderr = (stderr + chunk).slice(-8192);
  });
  let socket: Socket | undefined;
  child.once('message', (_message, handle) => {
    socket = handle as Socket;
    socket.allowHalfOpen = true;
    socket.on('error', () => undefined); // it is read from now on, and may break before anybody has it: see socket.errored
  });
  const done = await ending(child, stopped);
  try {
    judge(
      argv,
      options,
      {
        exitCode: done.exitCode,
        signal: done.signal,
        stdout: '',
        stderr,
        durationMs: performance.now() - started,
      },
      done,
    );
    if (!socket)
      throw new CrispError('Internal', `${toolName(argv)} ended well, but without a socket`, {
        stage: options.stage ?? '',
      });
    return socket;
  } catch (error) {
    socket?.destroy();
    throw error;
  }
}

/** Resolves when it has ended and its output is read; never rejects. */
function ending(
  child: ChildProcess,
  stopped: () => Pick<Ended, 'timedOut' | 'isCanceled'>,
): Promise<Ended & { signal?: string | undefined }> {
  return new Promise((resolve) => {
    child.once('error', (error: NodeJS.ErrnoException) =>
      resolve({ ...stopped(), isMaxBuffer: false, code: error.code }),
    );
    child.once('close', (exitCode, signal) =>
      resolve({
        ...stopped(),
        isMaxBuffer: false,
        exitCode: exitCode ?? undefined,
        signal: signal ?? undefined,
      }),
    );
  });
}

/** Ends the program at its time-out or when the caller gives up; the function that comes back says whether that was so. */
function stopOn(
  child: ChildProcess,
  { timeoutMs, signal, wholeGroup }: RunOptions,
): () => Pick<Ended, 'timedOut' | 'isCanceled'> {
  let timedOut = false;
  let isCanceled = false;
  const send = (name: NodeJS.Signals): void => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    try {
      process.kill(wholeGroup ? -child.pid : child.pid, name);
    } catch {
      /* it has just ended */
    }
  };
  const stop = (): void => {
    send('SIGTERM');
    setTimeout(() => send('SIGKILL'), killAfterMs).unref();
  };
  const timer =
    timeoutMs > 0
      ? setTimeout(() => {
          timedOut = true;
          stop();
        }, timeoutMs)
      : undefined;
  const cancel = (): void => {
    isCanceled = true;
    stop();
  };
  if (signal?.aborted) cancel();
  else signal?.addEventListener('abort', cancel, { once: true });
  return () => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', cancel);
    return { timedOut, isCanceled };
  };
}

/**
 * Closes `from` once nothing has come for a while and `to` has taken all: what
 * keeps it open then is a grandchild. Also when `to` takes nothing at all any
 * more: the program has ended, and who does not read its last words must not
 * keep it from being over.
 */
function endWhenIdle(from: Readable, to: Writable): void {
  if (from.readableEnded || from.destroyed) return;
  let idle = false;
  let [waiting, waitedMs] = [to.writableLength, 0];
  from.on('data', () => {
    idle = false;
  });
  const timer = setInterval(() => {
    waitedMs = to.writableNeedDrain && to.writableLength === waiting ? waitedMs + idleMs : 0;
    waiting = to.writableLength;
    if ((idle && !to.writableNeedDrain) || waitedMs >= untakenMs) from.destroy();
    idle = true;
  }, idleMs);
  from.once('close', () => clearInterval(timer));
}
const idleMs = 200;
const untakenMs = 10_000;

export interface DetachedOptions {
  cwd?: string;
  env?: Record<string, string>;
  /** How many pipes it gets, on fd 3 and up. */
  pipes?: number;
}

export interface Detached {
  readonly pid: number;
  /** Our ends of the pipes; firstLine() reads an answer from one. */
  readonly pipes: readonly Duplex[];
  readonly exited: Promise<number | undefined>;
}

/** Starts a program that outlives us: a session of its own, and none of our pipes on its stdio. */
export function runDetached(argv: readonly [string, ...string[]], options: DetachedOptions = {}): Detached {
  const [file, ...args] = argv;
  const stdio: ['ignore', 'ignore', 'ignore', ...'pipe'[]] = [
    'ignore',
    'ignore',
    'ignore',
    ...Array<'pipe'>(options.pipes ?? 0).fill('pipe'),
  ];
  const child = execa(file, args, {
    detached: true,
    cleanup: false,
    reject: false,
    buffer: false,
    extendEnv: false,
    stdio,
    env: { ...baseEnvironment, ...options.env },
    ...(options.cwd ? { cwd: options.cwd } : {}),
  });
  if (child.pid === undefined)
    throw new CommandError(
      'ToolMissing',
      `${file} cannot be started`,
      argv,
      undefined,
      undefined,
      undefined,
      '',
      '',
      0,
    );
  child.unref();
  log.debug({ argv: shown(argv), pid: child.pid }, 'tool started');
  return {
    pid: child.pid,
    pipes: child.stdio.slice(3) as unknown as Duplex[],
    exited: new Promise((resolve) => child.once('exit', (code) => resolve(code ?? undefined))),
  };
}

/**
 * The first line that comes on a pipe, which is closed then: a writer may keep
 * its end open for as long as it lives. Empty when it closed without a line;
 * undefined: nothing came in time.
 */
export function firstLine(stream: Readable, timeoutMs: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    let text = '';
    const end = (line: string | undefined): void => {
      clearTimeout(timer);
      resolve(line);
      stream.destroy();
    };
    const answer = (): void => {
      end(text.split('\n')[0] ?? '');
    };
    const timer = setTimeout(end, timeoutMs, undefined);
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      if (text.includes('\n')) answer();
    });
    stream.on('close', answer).on('error', answer);
  });
}

function processOptions(options: RunOptions) {
  return {
    reject: false,
    extendEnv: false,
    stripFinalNewline: false,
    cleanup: false, // else each call would add and remove listeners for the end of our own process
    env: { ...baseEnvironment, ...options.env },
    timeout: options.timeoutMs,
    killSignal: 'SIGTERM',
    forceKillAfterDelay: killAfterMs,
    ...(options.signal ? { cancelSignal: options.signal } : {}),
    ...(options.cwd ? { cwd: options.cwd } : {}),
  } satisfies Options;
}

interface Ended {
  timedOut: boolean;
  isCanceled: boolean;
  isMaxBuffer: boolean;
  exitCode?: number | undefined;
  code?: string | undefined;
}

function judge(argv: readonly string[], options: RunOptions, result: RunResult, ended: Ended): RunResult {
  const ok = options.okExitCodes ?? [0];
  const fail = (id: ErrorId, message: string) =>
    new CommandError(
      id,
      message,
      argv,
      options.stage,
      result.exitCode,
      result.signal,
      result.stdout,
      result.stderr,
      result.durationMs,
    );
  const accepted =
    !ended.timedOut &&
    !ended.isCanceled &&
    result.exitCode !== undefined &&
    (ok === 'any' || ok.includes(result.exitCode));
  const line = {
    argv: shown(argv),
    exit: result.exitCode ?? result.signal ?? ended.code,
    ms: Math.round(result.durationMs * 10) / 10,
    ...(result.stderr ? { stderr: lastLines(result.stderr, 300) } : {}),
  };
  metrics.tools.observe(
    { tool: toolName(argv), result: accepted ? 'ok' : ended.timedOut ? 'timeout' : 'failed' },
    result.durationMs / 1000,
  );
  if (accepted) {
    log.debug(line, 'tool');
    return result;
  }
  log.info(line, 'tool failed');
  if (ended.code === 'ENOENT') throw fail('ToolMissing', `${argv[0]} is not installed`);
  if (ended.isCanceled) throw fail('Cancelled', `${toolName(argv)} was stopped: the call was cancelled`);
  if (ended.timedOut)
    throw fail('ToolTimeout', `${toolName(argv)} did not end within ${options.timeoutMs} ms`);
  const how =
    result.exitCode === undefined
      ? `was ended by ${result.signal ?? ended.code}`
      : `exited with ${result.exitCode}`;
  throw fail(options.errorId ?? 'RuntimeFailed', `${toolName(argv)} ${how}`);
}

function toolName(argv: readonly string[]): string {
  return (argv[0] ?? '').replace(/^.*\//, '');
}

/** One line that can be pasted into a shell. */
export function shown(argv: readonly string[]): string {
  return argv
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(' ');
}

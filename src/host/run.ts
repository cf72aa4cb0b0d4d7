// The only place that starts programs.
//
// argv arrays, never a shell; a near-empty environment; always a timeout; an
// abort sends TERM and, 5 s later, KILL.  Every call is one log line with argv,
// exit, milliseconds and the tail of stderr: at debug, at info if it fails.
import { closeSync, fstatSync, openSync, readSync, unlinkSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import type { Duplex, Readable, Writable } from 'node:stream';
import { CrispError, lastLines, toCrispError, type ErrorId } from '../errors.js';
import { log } from '../log.js';
import { metrics } from '../metrics.js';
import { Child, signalName, type SpawnOptions } from './spawn.js';
import { SystemError } from './syscalls.js';

export interface RunOptions {
  /**
   * Milliseconds: a hanging tool must not block crisp. 0, no limit, is for a client's own session
   * (runStreaming).
   */
  timeoutMs: number;
  /** Abort: TERM, then KILL after 5 s. */
  signal?: AbortSignal | undefined;
  /** Bytes for stdin (secrets are passed this way or in a file); otherwise stdin is /dev/null. */
  input?: string | Buffer | undefined;
  cwd?: string | undefined;
  /** Added to the near-empty environment. */
  env?: Record<string, string> | undefined;
  /** Exit codes that are not an error. Default: only 0. */
  okExitCodes?: readonly number[] | 'any';
  /** Bytes kept of each stream; the rest is dropped. Default 1 MiB. */
  maxOutputBytes?: number;
  /** The name of the step, for the error: "cni add". */
  stage?: string | undefined;
  /** The catalogue id of a non-zero exit; the default is RuntimeFailed. */
  errorId?: ErrorId;
  /**
   * A folder for files with its output, instead of pipes to crisp, whose loss would kill it: for a tool that
   * must finish even if crisp ends. It gets a session of its own.
   */
  outputFolder?: string | undefined;
  /**
   * The owner of its standard streams, for a program that becomes another user: only the owner can open
   * /dev/stdin.
   */
  streamsOwner?: number;
  /**
   * runStreaming: unused streams are pipes (a closed input, a dropped output) and not the host's
   * /dev/null: for a tool that passes them to a process of a container, which could change the mode of
   * that file; crun even changes its owner to that process's user.
   */
  ownStreams?: boolean;
  /** Gives it a process group of its own; if it is stopped early, all its children are killed too. */
  wholeGroup?: boolean;
  /** Its oom_score_adj, inherited by its children, if crisp may set it; default: crisp's own. */
  oomScoreAdj?: number | undefined;
  /** The file to run, by a descriptor (sealedProgram()); argv[0] is then only its name. */
  program?: number | undefined;
}

export interface RunResult {
  /** undefined if a signal ended it. */
  exitCode: number | undefined;
  signal: string | undefined;
  stdout: string;
  stderr: string;
  durationMs: number;
}

/** A program that could not be run, timed out, or failed. */
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

/** The environment of every tool: nothing of crisp's environment, except the mark that crisp started it. */
export const baseEnvironment = {
  STARTED_BY: 'crisp',
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LANG: 'C.UTF-8',
};
/** From SIGTERM to SIGKILL. */
export const killAfterMs = 5_000;

/**
 * Runs a program to its end.
 * @throws CommandError: ToolMissing, ToolTimeout, Cancelled, or `errorId` for an unexpected exit code.
 */
export async function run(argv: readonly [string, ...string[]], options: RunOptions): Promise<RunResult> {
  if (options.outputFolder !== undefined) return runOnFiles(argv, options, options.outputFolder);
  const started = performance.now();
  const output = { stdout: '', stderr: '' };
  let ended: Ended;
  try {
    const child = await start(argv, options, {
      stdin: options.input !== undefined,
      stdout: true,
      stderr: true,
    });
    const stopped = stopOn(child, options);
    if (options.input !== undefined) child.stdin?.end(options.input);
    const most = options.maxOutputBytes ?? 1 << 20;
    const [stdout, stderr] = [kept(child.stdout, most), kept(child.stderr, most)];
    const exit = await exitOf(child, []);
    output.stdout = stdout();
    output.stderr = stderr();
    ended = { ...stopped(), ...exit };
  } catch (error) {
    ended = notStarted(error);
  }
  return judge(argv, options, ended, output, performance.now() - started);
}

async function runOnFiles(
  argv: readonly [string, ...string[]],
  options: RunOptions,
  folder: string,
): Promise<RunResult> {
  const started = performance.now();
  const [stdout, stderr] = [openUnnamed(folder), openUnnamed(folder)];
  try {
    let ended: Ended;
    try {
      const child = await start(argv, { ...options, wholeGroup: true }, { outputs: [stdout, stderr] });
      const stopped = stopOn(child, options);
      const exit = await exitOf(child, []);
      ended = { ...stopped(), ...exit };
    } catch (error) {
      ended = notStarted(error);
    }
    const most = options.maxOutputBytes ?? 1 << 20;
    const output = { stdout: readFrom(stdout, most), stderr: readFrom(stderr, most) };
    return judge(argv, options, ended, output, performance.now() - started);
  } finally {
    for (const descriptor of [stdout, stderr]) closeSync(descriptor);
  }
}

/** A file that need not be removed. */
function openUnnamed(folder: string): number {
  const path = join(folder, `.output-${process.pid}-${outputs++}`);
  const descriptor = openSync(path, 'wx+', 0o600);
  unlinkSync(path);
  return descriptor;
}
let outputs = 0;

/** The first bytes of its content. */
function readFrom(descriptor: number, most: number): string {
  const buffer = Buffer.alloc(Math.min(fstatSync(descriptor).size, most));
  return buffer.toString('utf8', 0, readSync(descriptor, buffer, 0, buffer.length, 0));
}

/** Keeps the first bytes of a stream and drops the rest; the returned function returns them. */
function kept(stream: Readable | undefined, most: number): () => string {
  const chunks: Buffer[] = [];
  let room = most;
  stream?.on('data', (chunk: Buffer) => {
    if (room <= 0) return;
    chunks.push(chunk.subarray(0, room));
    room -= chunk.length;
  });
  return () => Buffer.concat(chunks).toString();
}

export interface Streams {
  stdin?: Readable | undefined;
  stdout?: Writable | undefined;
  /** Ends `stdout` when the program closes its stdout, which may be before its exit. */
  endStdout?: boolean;
  stderr?: Writable | undefined;
}

/** A running program with live output. */
export interface Running {
  readonly pid: number | undefined;
  /** Whether `pid` still refers to it: it has not been waited for, so the kernel cannot reuse the number. */
  readonly present: () => boolean;
  /** SIGKILL to it alone, if it has not ended. */
  readonly kill: () => void;
  /** Settles when the program has ended and its output is delivered. */
  readonly ended: Promise<RunResult>;
}

/** Starts a program with live streams. Back-pressure comes from the streams. */
export async function runStreaming(
  argv: readonly [string, ...string[]],
  streams: Streams,
  options: RunOptions,
): Promise<Running> {
  const started = performance.now();
  const judged = (ended: Ended): RunResult =>
    judge(argv, options, ended, { stdout: '', stderr: '' }, performance.now() - started);
  let child: Child;
  try {
    const own = options.ownStreams ?? false;
    child = await start(argv, options, {
      stdin: own || streams.stdin !== undefined,
      stdout: own || streams.stdout !== undefined,
      stderr: own || streams.stderr !== undefined,
    });
  } catch (error) {
    const ended = notStarted(error);
    return {
      pid: undefined,
      present: () => false,
      kill: () => undefined,
      ended: Promise.resolve().then(() => judged(ended)),
    };
  }
  const stopped = stopOn(child, options);
  const { stdin, stdout, stderr, endStdout } = streams;
  if (child.stdin && stdin) stdin.pipe(child.stdin);
  else child.stdin?.destroy();
  if (stdout) child.stdout?.pipe(stdout, { end: false });
  else child.stdout?.resume();
  if (stdout && endStdout) child.stdout?.once('close', () => stdout.end());
  if (stderr) child.stderr?.pipe(stderr, { end: false });
  else child.stderr?.resume();
  const ended = exitOf(child, [stdout, stderr]).then((exit) => judged({ ...stopped(), ...exit }));
  return {
    pid: child.pid,
    present: () => child.present,
    kill: () => child.kill('SIGKILL', false),
    ended,
  };
}

function start(
  argv: readonly [string, ...string[]],
  { cwd, env, streamsOwner, wholeGroup = false, oomScoreAdj, program }: RunOptions,
  streams: Pick<SpawnOptions, 'stdin' | 'stdout' | 'stderr' | 'outputs'>,
): Promise<Child> {
  return Child.start(argv, {
    ...streams,
    cwd,
    env: { ...baseEnvironment, ...env },
    streamsOwner,
    session: wholeGroup,
    oomScoreAdj,
    program,
  });
}

/** The error of a program that could not be started. @throws errors that are not the kernel's */
function notStarted(error: unknown): Ended & { readonly code: string } {
  if (error instanceof SystemError) return { timedOut: false, isCanceled: false, code: error.code };
  throw error;
}

/** Resolves when it has ended and its outputs have been written to `takers`. */
async function exitOf(
  child: Child,
  takers: readonly (Writable | undefined)[],
): Promise<{ exitCode: number | undefined; signal: string | undefined }> {
  const read = [child.stdout, child.stderr].map((output, index) => readOut(child, output, takers[index]));
  const exit = await child.exited;
  await Promise.all(read);
  return 'code' in exit
    ? { exitCode: exit.code, signal: undefined }
    : { exitCode: undefined, signal: signalName(exit.signal) };
}

/**
 * Resolves when an output is read to its end, usually at or soon after the
 * program's exit. If a process that the program left behind keeps the pipe
 * open, its output is read as long as it comes without pauses, and for a second
 * at most. All output of the program itself is delivered, however slow the
 * reader is, unless it stops reading: a reader that does not read the last
 * output must not keep the program from being finished.
 */
function readOut(child: Child, from: Socket | undefined, to: Writable | undefined): Promise<void> {
  if (!from) return Promise.resolve();
  return new Promise((resolve) => {
    let timer: NodeJS.Timeout | undefined;
    // A failed reader reads nothing more, and pipe() has disconnected it. process.stdout does not keep its
    // error.
    let failed = false;
    const fail = (): void => {
      failed = true;
    };
    to?.once('error', fail);
    from.once('close', () => {
      to?.off('error', fail);
      clearInterval(timer);
      resolve();
    });
    child.onEnd(() => {
      if (from.destroyed) return;
      let owed = child.waiting(from);
      let quietMs = 0;
      let waiting = to?.writableLength ?? 0;
      const deadline = performance.now() + remainsMs;
      from.on('data', (chunk: Buffer) => {
        owed -= chunk.length;
        quietMs = 0;
      });
      timer = setInterval(() => {
        if (to && to.writableLength !== waiting) quietMs = 0; // it is still reading, however slowly
        waiting = to?.writableLength ?? 0;
        const silent = owed <= 0 && (quietMs > 0 || performance.now() > deadline);
        if (silent || quietMs >= untakenMs || to?.destroyed || failed) from.destroy();
        quietMs += idleMs;
      }, idleMs);
    });
  });
}
const idleMs = 200;
const remainsMs = 1_000;
const untakenMs = 10_000;

/**
 * Kills the program at its timeout or when the caller aborts; the returned function reports whether this
 * happened.
 */
function stopOn(
  child: Child,
  { timeoutMs, signal, wholeGroup = false }: RunOptions,
): () => Pick<Ended, 'timedOut' | 'isCanceled'> {
  let timedOut = false;
  let isCanceled = false;
  const stop = (): void => {
    child.kill('SIGTERM', wholeGroup);
    if (wholeGroup) child.onEnd(() => child.kill('SIGKILL', true)); // its remaining children
    const last = setTimeout(() => child.kill('SIGKILL', wholeGroup), killAfterMs);
    child.onEnd(() => clearTimeout(last));
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
  const clear = (): void => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', cancel);
  };
  child.onEnd(clear); // it ended by itself: the timeout does not apply to the rest of its output
  return () => ({ timedOut, isCanceled });
}

export interface DetachedOptions {
  cwd?: string;
  env?: Record<string, string>;
  /** Its pipes on fd 3 and up, by the use of crisp's end. */
  pipes?: readonly ('read' | 'write')[];
  /** One more open file, on the descriptor after the last pipe. */
  inherited?: number | undefined;
  /**
   * Its standard streams are pipes without a peer, and not the host's /dev/null: for a runtime that passes
   * them to a container.
   */
  ownStreams?: boolean;
}

export interface Detached {
  readonly pid: number;
  /** crisp's ends of the pipes; firstLine() reads an answer from one. */
  readonly pipes: readonly Duplex[];
  readonly exited: Promise<number | undefined>;
  /** SIGKILL, if it has not ended. */
  readonly kill: () => void;
}

/** Starts a program that outlives crisp: in a session of its own, without pipes to crisp on its stdio. */
export async function runDetached(
  argv: readonly [string, ...string[]],
  options: DetachedOptions = {},
): Promise<Detached> {
  let child: Child;
  try {
    child = await Child.start(argv, {
      cwd: options.cwd,
      env: { ...baseEnvironment, ...options.env },
      stdin: options.ownStreams ?? false,
      stdout: options.ownStreams ?? false,
      stderr: options.ownStreams ?? false,
      pipes: options.pipes ?? [],
      inherited: options.inherited,
      session: true,
    });
  } catch (error) {
    const { id, message } = startFailure(argv, notStarted(error).code);
    throw new CommandError(id ?? 'RuntimeFailed', message, argv, undefined, undefined, undefined, '', '', 0);
  }
  child.unref();
  for (const stream of [child.stdin, child.stdout, child.stderr]) stream?.destroy();
  log.debug({ argv: shown(argv), pid: child.pid }, 'tool started');
  return {
    pid: child.pid,
    pipes: child.pipes,
    exited: child.exited.then((exit) => ('code' in exit ? exit.code : undefined)),
    kill: () => child.kill('SIGKILL', false),
  };
}

/**
 * The first line from a pipe, which is then closed: a writer may keep its end
 * open as long as it runs. Empty if it closed without a line; undefined: no
 * line in time.
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

/** How a program ended. */
interface Ended {
  timedOut: boolean;
  isCanceled: boolean;
  exitCode?: number | undefined;
  signal?: string | undefined;
  /** The error code of a program that could not be started. */
  code?: string | undefined;
}

/** @throws CommandError unless it ended as `options` accept */
export function judge(
  argv: readonly string[],
  options: RunOptions,
  ended: Ended,
  output: Pick<RunResult, 'stdout' | 'stderr'>,
  durationMs: number,
): RunResult {
  const result: RunResult = { exitCode: ended.exitCode, signal: ended.signal, ...output, durationMs };
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
  if (ended.isCanceled) throw fail('Cancelled', `${toolName(argv)} was stopped: the call was cancelled`);
  if (ended.timedOut)
    throw fail('ToolTimeout', `${toolName(argv)} did not end within ${options.timeoutMs} ms`);
  if (result.exitCode === undefined && result.signal === undefined && ended.code !== undefined) {
    const { id, message } = startFailure(argv, ended.code);
    throw fail(id ?? options.errorId ?? 'RuntimeFailed', message);
  }
  const how =
    result.exitCode === undefined ? `was ended by ${result.signal}` : `exited with ${result.exitCode}`;
  throw fail(options.errorId ?? 'RuntimeFailed', `${toolName(argv)} ${how}`);
}

/** Why a program could not be started. @returns no id: the cause is not one that crisp knows */
function startFailure(argv: readonly string[], code: string): { id: ErrorId | undefined; message: string } {
  if (code === 'ENOENT') return { id: 'ToolMissing', message: `${argv[0]} is not installed` };
  const { id } = toCrispError({ code });
  return {
    id: id === 'LimitReached' || id === 'OutOfMemory' ? id : undefined,
    message: `${argv[0]} cannot be started: ${code}`,
  };
}

function toolName(argv: readonly string[]): string {
  return (argv[0] ?? '').replace(/^.*\//, '');
}

/** A line that can be pasted into a shell. */
export function shown(argv: readonly string[]): string {
  return argv
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(' ');
}

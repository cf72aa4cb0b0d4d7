// The one place that starts programs.
//
// argv arrays, never a shell; a near-empty environment; a time-out always; an
// abort sends TERM and, 5 s later, KILL.  Every call is one log line with argv,
// exit, milliseconds and the tail of stderr, at debug, at info when it fails.
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
  /**
   * A folder for the files that its output goes to, in place of pipes of ours, which would end it when they
   * break: for a tool that must come to its end also when we do not. It gets a session of its own.
   */
  outputFolder?: string | undefined;
  /** The uid that owns its standard streams, for one that becomes another user: only the owner opens /dev/stdin. */
  streamsOwner?: number;
  /**
   * runStreaming: streams that nobody has are pipes of its own (an input that is over, an output that is
   * dropped) and not the host's /dev/null: for a tool that hands them on to a process of a container,
   * which could change the mode of that file, and whom crun even makes its owner.
   */
  ownStreams?: boolean;
  /** Gives it a process group of its own; when it is stopped before its end, whatever it started is killed too. */
  wholeGroup?: boolean;
  /** Its oom_score_adj, and that of all that it starts, where we may give it; default: ours. */
  oomScoreAdj?: number | undefined;
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
  if (options.outputFolder !== undefined) return runOnFiles(argv, options, options.outputFolder);
  const started = performance.now();
  const output = { stdout: '', stderr: '' };
  let ended: Ended;
  try {
    const child = start(argv, options, { stdin: options.input !== undefined, stdout: true, stderr: true });
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
      const child = start(argv, { ...options, wholeGroup: true }, { outputs: [stdout, stderr] });
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

/** A file that nobody has to remove. */
function openUnnamed(folder: string): number {
  const path = join(folder, `.output-${process.pid}-${outputs++}`);
  const descriptor = openSync(path, 'wx+', 0o600);
  unlinkSync(path);
  return descriptor;
}
let outputs = 0;

/** The first bytes of what was written to it. */
function readFrom(descriptor: number, most: number): string {
  const buffer = Buffer.alloc(Math.min(fstatSync(descriptor).size, most));
  return buffer.toString('utf8', 0, readSync(descriptor, buffer, 0, buffer.length, 0));
}

/** Keeps the first bytes of a stream and drops the others; the function that comes back tells them. */
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
  /** Ends `stdout` when the program closes its own, which may be before its exit. */
  endStdout?: boolean;
  stderr?: Writable | undefined;
}

/** A program whose output flows while it runs. */
export interface Running {
  readonly pid: number | undefined;
  /** Whether `pid` still means it: it has not been waited for, so the kernel gives the number to nobody else. */
  readonly present: () => boolean;
  /** SIGKILL to it alone, if it has not ended. */
  readonly kill: () => void;
  /** Settles when the program has ended and its output is delivered. */
  readonly ended: Promise<RunResult>;
}

/** Starts a program with live streams.  Back-pressure is the streams' own. */
export function runStreaming(
  argv: readonly [string, ...string[]],
  streams: Streams,
  options: RunOptions,
): Running {
  const started = performance.now();
  const judged = (ended: Ended): RunResult =>
    judge(argv, options, ended, { stdout: '', stderr: '' }, performance.now() - started);
  let child: Child;
  try {
    const own = options.ownStreams ?? false;
    child = start(argv, options, {
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
  { cwd, env, streamsOwner, wholeGroup = false, oomScoreAdj }: RunOptions,
  streams: Pick<SpawnOptions, 'stdin' | 'stdout' | 'stderr' | 'outputs'>,
): Child {
  return new Child(argv, {
    ...streams,
    cwd,
    env: { ...baseEnvironment, ...env },
    streamsOwner,
    session: wholeGroup,
    oomScoreAdj,
  });
}

/** Of a program that did not come to run. @throws what is no error of the kernel's */
function notStarted(error: unknown): Ended {
  if (error instanceof SystemError) return { timedOut: false, isCanceled: false, code: error.code };
  throw error;
}

/** Resolves when it has ended and its outputs, which flow to `takers`, are read. */
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
 * Resolves when an output is read to its end, which comes with the program's or
 * soon after: what keeps a pipe open then is something that the program left
 * behind, whose words are taken for as long as they come at once, and for a
 * second at most.  All that the program itself wrote is delivered, however slow
 * the taker is, unless it takes nothing at all any more: who does not read the
 * last words of a program must not keep it from being over.
 */
function readOut(child: Child, from: Socket | undefined, to: Writable | undefined): Promise<void> {
  if (!from) return Promise.resolve();
  return new Promise((resolve) => {
    let timer: NodeJS.Timeout | undefined;
    // A taker that has failed takes nothing more, and pipe() has let go of it. Our own stdout does not keep its error.
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
        if (to && to.writableLength !== waiting) quietMs = 0; // it takes, however slowly
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

/** Ends the program at its time-out or when the caller gives up; the function that comes back says whether that was so. */
function stopOn(
  child: Child,
  { timeoutMs, signal, wholeGroup = false }: RunOptions,
): () => Pick<Ended, 'timedOut' | 'isCanceled'> {
  let timedOut = false;
  let isCanceled = false;
  const stop = (): void => {
    child.kill('SIGTERM', wholeGroup);
    if (wholeGroup) child.onEnd(() => child.kill('SIGKILL', true)); // what it started and did not take along
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
  child.onEnd(clear); // it ended by itself: its time is over, whatever still comes on its pipes
  return () => {
    clear();
    return { timedOut, isCanceled };
  };
}

export interface DetachedOptions {
  cwd?: string;
  env?: Record<string, string>;
  /** The pipes that it gets on fd 3 and up, by what we do with our end. */
  pipes?: readonly ('read' | 'write')[];
  /** Its standard streams are its own, with nobody at their other ends, and not the host's /dev/null: for a runtime that gives them to a container. */
  ownStreams?: boolean;
}

export interface Detached {
  readonly pid: number;
  /** Our ends of the pipes; firstLine() reads an answer from one. */
  readonly pipes: readonly Duplex[];
  readonly exited: Promise<number | undefined>;
  /** SIGKILL, if it has not ended. */
  readonly kill: () => void;
}

/** Starts a program that outlives us: a session of its own, and none of our pipes on its stdio. */
export function runDetached(argv: readonly [string, ...string[]], options: DetachedOptions = {}): Detached {
  let child: Child;
  try {
    child = new Child(argv, {
      cwd: options.cwd,
      env: { ...baseEnvironment, ...options.env },
      stdin: options.ownStreams ?? false,
      stdout: options.ownStreams ?? false,
      stderr: options.ownStreams ?? false,
      pipes: options.pipes ?? [],
      session: true,
    });
  } catch (error) {
    const { code } = notStarted(error);
    throw new CommandError(
      code === 'ENOENT' ? 'ToolMissing' : (limitReached(code ?? '') ?? 'RuntimeFailed'),
      `${argv[0]} cannot be started: ${code}`,
      argv,
      undefined,
      undefined,
      undefined,
      '',
      '',
      0,
    );
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

interface Ended {
  timedOut: boolean;
  isCanceled: boolean;
  exitCode?: number | undefined;
  signal?: string | undefined;
  /** The error's name of a program that could not be started. */
  code?: string | undefined;
}

function judge(
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
  const limit = ended.code && limitReached(ended.code);
  if (limit) throw fail(limit, `${toolName(argv)} cannot be started: ${ended.code}`);
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

/** What it means that a program could not be started for want of something; undefined: it is not that. */
function limitReached(code: string): ErrorId | undefined {
  const { id } = toCrispError({ code });
  return id === 'LimitReached' || id === 'OutOfMemory' ? id : undefined;
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

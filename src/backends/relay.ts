// Runs relay.pl, for the operations on terminals and on conmon's attach socket
// that Node does not support. Called by the execs and the attach of the
// backends.
import { rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { runStreaming, type RunOptions, type Running } from '../host/run.js';
import { CrispError } from '../errors.js';
import { perlProgram } from '../installed.js';
import type { Io } from '../shapes/io.js';
import { followSizes } from './terminal-sizes.js';

/** The Perl program that passes data between streams and a terminal. */
export const relay = perlProgram('relay.pl');

/** The exit code of an attach if its client did not read the output. */
export const laggedCode = 3;

/** Stands for the path of the console socket in the arguments of an OCI runtime. */
export const consoleArgument = 'CONSOLE';

/** From Linux's system call tables (asm/unistd.h); newer architectures share one table. */
const systemCalls: Partial<Record<NodeJS.Architecture, { recvmsg: number; prctl: number }>> = {
  x64: { recvmsg: 47, prctl: 157 },
  arm64: { recvmsg: 212, prctl: 167 },
  riscv64: { recvmsg: 212, prctl: 167 },
  loong64: { recvmsg: 212, prctl: 167 },
  ppc64: { recvmsg: 342, prctl: 171 },
  s390x: { recvmsg: 372, prctl: 172 },
};

/** Fields of RunOptions, for the relay and its children. */
type RelayOptions = Pick<RunOptions, 'env' | 'cwd' | 'oomScoreAdj'>;

/** Runs a program on a terminal of its own. `folder` is for a file of the relay. */
export function runInTerminal(
  argv: readonly string[],
  io: Io,
  folder: string,
  options: RelayOptions,
): Promise<Running> {
  return start((sizeFile) => ['terminal', sizeFile, ...argv], io, folder, undefined, options);
}

/**
 * Runs a process on a terminal through an OCI runtime. `argv` contains
 * consoleArgument, and the options that detach the process and write its pid
 * into FOLDER/pid. `stderr` gets "started" in a line once the process is
 * running; without it, the exit code is not from the process. "timeout"
 * means that the runtime was killed after `timeoutMs`.
 * @param folder a folder for this process only
 * @throws Unsupported on an architecture with unknown system call numbers
 */
export async function runOnConsole(
  argv: readonly string[],
  io: Io,
  folder: string,
  timeoutMs: number,
  stderr: Writable,
  options: Pick<RelayOptions, 'oomScoreAdj'> = {},
): Promise<Running> {
  const numbers = systemCalls[process.arch];
  if (!numbers)
    throw new CrispError('Unsupported', `exec with a terminal is not known to work on ${process.arch}`, {
      stage: 'exec',
    });
  return start(
    (sizeFile) => [
      'console',
      sizeFile,
      ...[numbers.recvmsg, numbers.prctl, timeoutMs / 1000].map(String),
      ...argv,
    ],
    io,
    folder,
    stderr,
    { cwd: folder, ...options },
  );
}

async function start(
  argv: (sizeFile: string) => string[],
  io: Io,
  folder: string,
  stderr: Writable | undefined,
  options: RelayOptions,
): Promise<Running> {
  const sizeFile = join(folder, `size-${counter++}`);
  const running = await runStreaming(
    ['perl', relay, ...argv(sizeFile)],
    { stdin: io.stdin, stdout: io.stdout, stderr },
    { timeoutMs: 0, okExitCodes: 'any', stage: 'exec', ...options },
  );
  let over = false;
  const finish = (): void => {
    over = true;
    rmSync(sizeFile, { force: true });
  };
  running.ended.then(finish, finish);
  followSizes(io, async ({ width, height }) => {
    if (over) return;
    await writeFile(sizeFile, `${height} ${width}\n`).catch(() => undefined); // the folder is removed with the process
    if (over) rmSync(sizeFile, { force: true });
    else signal(running, 'SIGWINCH');
  });
  return running;
}
let counter = 0;

/** Makes the relay end its process without delivering more output. */
export function endRelay(running: Running): void {
  signal(running, 'SIGTERM');
}

function signal({ pid, present }: Running, name: NodeJS.Signals): void {
  try {
    if (pid !== undefined && present()) process.kill(pid, name);
  } catch {
    /* ESRCH: it has ended */
  }
}

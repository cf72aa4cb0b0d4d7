// Runs a command in a running container.
//
// Without a terminal the runtime's own exec is used: crisp has its stdio, and it
// returns the exit code of the process. With a terminal, relay.pl receives the
// terminal from the runtime and is the parent of the process.  Neither conmon nor
// the runtime can do that: conmon 2.1 uses blocking writes to its clients and to the
// terminals of its execs, and crun's own loop to the terminal. A client that does not
// read, or a long paste, would block everything, including the reaping of the
// process, which is required for its container to end.
import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { CrispError } from '../../errors.js';
import { makeFolder, readFileIfThere, remove, writeFile } from '../../host/files.js';
import { runStreaming } from '../../host/run.js';
import type { Process } from '../../shapes/spec.js';
import type { ContainerRef, ExecPlan } from '../backend.js';
import { killBelow, limited } from '../exec-limit.js';
import { consoleArgument, endRelay, runOnConsole } from '../relay.js';
import { exitCodeOf, verbTimeoutMs, type Runtime } from './runtime.js';

/**
 * @param own the container's own process, whose user and privileges are used
 * @throws ExecTimeout, Cancelled (the client disconnected): the process and its group are killed
 * before; WrongContainerState, ContainerNotFound if the container ends before the command is started
 */
export async function exec(
  runtime: Runtime,
  container: ContainerRef,
  own: Process,
  plan: ExecPlan,
  signal: AbortSignal,
): Promise<{ exitCode: number }> {
  return plan.io.terminal
    ? execInTerminal(runtime, container, own, plan, signal)
    : execPlain(runtime, container, own, plan, signal);
}

/**
 * Writes one small file and runs the runtime: a probe does this every second. The runtimes' own flags cannot
 * set supplemental groups.
 */
async function execPlain(
  runtime: Runtime,
  container: ContainerRef,
  own: Process,
  plan: ExecPlan,
  signal: AbortSignal,
): Promise<{ exitCode: number }> {
  const processFile = join(container.folder, `exec-${counter++}.json`);
  const words = `${processFile}.log`;
  try {
    writeFile(processFile, JSON.stringify(processOf(own, plan)));
    const argv = await runtime.argvLogging(words, 'exec', '--process', processFile, container.id);
    const exitCode = await runPlain(runtime, argv, container, own, plan, signal);
    if (exitCode === 0) return { exitCode };
    const said = (await readFileIfThere(words, { maxBytes: 64 << 10, larger: 'end' })) ?? '';
    const failure = runtime.explain('exec', said);
    // The exit code is the runtime's, and a probe would take it for an answer of its command.
    if (failure.id === 'WrongContainerState' || failure.id === 'ContainerNotFound') throw failure;
    return { exitCode: exitCodeOf(said) ?? exitCode };
  } finally {
    for (const path of [processFile, words]) rmSync(path, { force: true });
  }
}

async function runPlain(
  runtime: Runtime,
  argv: [string, ...string[]],
  container: ContainerRef,
  own: Process,
  plan: ExecPlan,
  signal: AbortSignal,
): Promise<number> {
  const running = await runStreaming(argv, plan.io, {
    timeoutMs: 0,
    okExitCodes: 'any',
    stage: 'exec',
    cwd: container.folder,
    // crun ignores the oom_score_adj of process.json and uses the runtime's own.
    oomScoreAdj: own.oomScoreAdj,
    ownStreams: true,
    program: await runtime.program(),
  });
  const limit = limited(plan.timeoutMs, signal, () => killBelow(running));
  try {
    const { exitCode, signal: endedBy } = await running.ended.finally(() => limit.check());
    if (exitCode === undefined)
      throw new CrispError('RuntimeFailed', `exec was ended by ${endedBy ?? 'a signal'}`, { stage: 'exec' });
    return exitCode;
  } finally {
    limit.clear();
  }
}

let counter = 0;

async function execInTerminal(
  runtime: Runtime,
  container: ContainerRef,
  own: Process,
  plan: ExecPlan,
  signal: AbortSignal,
): Promise<{ exitCode: number }> {
  const parent = join(container.folder, 'execs');
  makeFolder(parent);
  const folder = await mkdtemp(join(parent, 'x'));
  try {
    const processFile = join(folder, 'process.json');
    writeFile(processFile, JSON.stringify(processOf(own, plan)));
    const words = join(folder, 'runtime.log');
    const said = new Said();
    const running = await runOnConsole(
      await runtime.argvLogging(
        words,
        'exec',
        '--detach',
        ...['--console-socket', consoleArgument],
        ...['--pid-file', join(folder, 'pid')],
        ...['--process', processFile],
        container.id,
      ),
      plan.io,
      folder,
      verbTimeoutMs,
      said,
      { oomScoreAdj: own.oomScoreAdj },
    );
    const limit = limited(plan.timeoutMs, signal, () => {
      endRelay(running);
      return killBelow(running);
    });
    try {
      const { exitCode, signal: endedBy } = await running.ended;
      limit.check();
      if (said.text === 'timeout\n')
        throw new CrispError('ToolTimeout', `the runtime did not answer within ${verbTimeoutMs} ms`, {
          stage: 'exec',
        });
      if (!said.text.startsWith('started\n'))
        throw runtime.explain('exec', (await readFileIfThere(words)) || said.text);
      if (exitCode === undefined)
        throw new CrispError('RuntimeFailed', `exec was ended by ${endedBy ?? 'a signal'}`, {
          stage: 'exec',
        });
      return { exitCode };
    } finally {
      limit.clear();
    }
  } finally {
    await remove(folder);
  }
}

/** The messages of the relay and the runtime. */
class Said extends Writable {
  text = '';

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.text = (this.text + chunk.toString()).slice(0, maxSaid);
    done();
  }
}
const maxSaid = 8192;

/** The spec of the container's own process with other arguments. */
function processOf(own: Process, { args, env = [], io: { terminal } }: ExecPlan): Process {
  const all = [...own.env, ...env];
  return {
    ...own,
    args: [...args],
    env: terminal && !all.some((entry) => entry.startsWith('TERM=')) ? [...all, 'TERM=xterm'] : all,
    terminal,
  };
}

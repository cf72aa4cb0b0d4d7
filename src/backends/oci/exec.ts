// One more process in a running container, to its end.
//
// Without a terminal the runtime's own exec does it: its stdio is ours, its exit
// code the process's.  With one, conmon does: Node has no pty, and conmon brings
// the pty, the attach socket and the resize FIFO that attach uses as well.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { CrispError } from '../../errors.js';
import { expectCgroupMove } from '../../host/cgroup-move.js';
import { isAbsent, makeFolder, readFileIfThere, readText, remove } from '../../host/files.js';
import { identify, killTree, withOomScoreAdj } from '../../host/proc.js';

import { findProgram } from '../../host/programs.js';
import { runStreaming } from '../../host/run.js';
import type { Process } from '../../shapes/spec.js';
import type { ContainerRef, ExecPlan } from '../backend.js';
import { killBelow, limited } from '../exec-limit.js';
import { followSizes } from '../terminal-sizes.js';
import { attach } from './attach.js';
import { monitorExec, resize, type MonitorPlan } from './conmon.js';
import { exitCodeOf, type Runtime } from './runtime.js';

type Base = Pick<MonitorPlan, 'conmon' | 'runtime' | 'runtimeArgs' | 'systemdCgroup' | 'id' | 'bundle'>;

/**
 * @param own the container's own process, the pattern of this one
 * @throws ExecTimeout, Cancelled (the client has gone): the process and its group are killed before
 */
export async function exec(
  runtime: Runtime,
  base: Base,
  container: ContainerRef,
  own: Process,
  plan: ExecPlan,
  signal: AbortSignal,
): Promise<{ exitCode: number }> {
  expectCgroupMove();
  return plan.io.terminal
    ? execInTerminal(runtime, base, container, own, plan, signal)
    : execPlain(runtime, container, own, plan, signal);
}

/** One small file and the runtime itself: a probe does this every second. The runtimes' own flags cannot say the supplemental groups. */
async function execPlain(
  runtime: Runtime,
  container: ContainerRef,
  own: Process,
  plan: ExecPlan,
  signal: AbortSignal,
): Promise<{ exitCode: number }> {
  const processFile = join(container.folder, `exec-${counter++}.json`);
  const words = `${processFile}.log`;
  // Synchronously: the state folder is a tmpfs, where this costs less than the way to a thread and back.
  writeFileSync(processFile, JSON.stringify(processOf(own, plan)), { mode: 0o600 });
  const running = runStreaming(
    // crun gives it the runtime's own oom_score_adj, and not that of process.json.
    withOomScoreAdj(
      own.oomScoreAdj,
      await runtime.argvLogging(words, 'exec', '--process', processFile, container.id),
    ),
    plan.io,
    { timeoutMs: 0, okExitCodes: 'any', stage: 'exec', cwd: container.folder },
  );
  const limit = limited(plan.timeoutMs, signal, () => killBelow(running));
  try {
    const { exitCode, signal: endedBy } = await running.ended.finally(() => limit.check());
    if (exitCode === undefined)
      throw new CrispError('RuntimeFailed', `exec was ended by ${endedBy ?? 'a signal'}`, { stage: 'exec' });
    return {
      exitCode:
        exitCode === 0
          ? 0
          : (exitCodeOf((await readFileIfThere(words, { maxBytes: 64 << 10, larger: 'end' })) ?? '') ??
            exitCode),
    };
  } finally {
    limit.clear();
    for (const path of [processFile, words]) rmSync(path, { force: true });
  }
}

let counter = 0;

async function execInTerminal(
  runtime: Runtime,
  base: Base,
  container: ContainerRef,
  own: Process,
  plan: ExecPlan,
  signal: AbortSignal,
): Promise<{ exitCode: number }> {
  const parent = join(container.folder, 'execs');
  makeFolder(parent);
  const bundle = await mkdtemp(join(parent, 'x'));
  const processFile = join(bundle, 'process.json');
  const inner = new AbortController();
  let session: Promise<void> = Promise.resolve();
  try {
    await writeFile(processFile, JSON.stringify(processOf(own, plan)), { mode: 0o600 });
    const words = join(bundle, 'runtime.log');
    // Around the runtime, not around conmon, which gives what it starts an oom_score_adj of its own.
    const [program, ...args] = withOomScoreAdj(own.oomScoreAdj, [base.runtime, ...base.runtimeArgs]);
    const pid = await monitorExec(
      {
        ...base,
        runtime: await findProgram(program),
        runtimeArgs: [...args, `--log=${words}`],
        systemdCgroup: false, // the arguments say it already, where it belongs
        bundle,
        exitDir: bundle,
        log: false,
        terminal: true,
        stdin: plan.io.stdin !== undefined,
        stdinOnce: true,
        exec: { processFile, name: basename(bundle) },
      },
      () => {
        const { onResize: _, ...io } = plan.io;
        const attached = attach({ id: container.id, folder: bundle }, io, inner.signal);
        session = attached.ended;
        return attached.connected;
      },
      (stderr) => runtime.explain('exec', readFileSync(words, { encoding: 'utf8', flag: 'a+' }) || stderr),
    ); // conmon's own say less
    followSizes(plan.io, (size) => resize(bundle, size)); // not before: conmon loses a size that comes before the terminal
    const process = await identify(pid);
    const limit = limited(plan.timeoutMs, signal, async () => {
      if (process) await killTree(process);
    });
    try {
      await session;
      limit.check();
      return { exitCode: await exitCode(bundle) };
    } finally {
      limit.clear();
    }
  } finally {
    inner.abort();
    await session.catch(() => undefined);
    await remove(bundle);
  }
}

/** The container's own process with other arguments. */
function processOf(own: Process, { args, env = [], io: { terminal } }: ExecPlan): Process {
  const all = [...own.env, ...env];
  return {
    ...own,
    args: [...args],
    env: terminal && !all.some((entry) => entry.startsWith('TERM=')) ? [...all, 'TERM=xterm'] : all,
    terminal,
  };
}

/** conmon writes BUNDLE/exit after it has closed the attach socket. */
async function exitCode(bundle: string): Promise<number> {
  for (let waitedMs = 0; waitedMs < 5_000; waitedMs += 5) {
    try {
      return Number(await readText(join(bundle, 'exit'), { maxBytes: 1024 }));
    } catch (error) {
      if (!isAbsent(error)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new CrispError('RuntimeFailed', 'the exit code of the process was not recorded', {
    stage: 'exec',
    tool: 'conmon',
  });
}

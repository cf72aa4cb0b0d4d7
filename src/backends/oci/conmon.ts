// conmon(8): the small process beside each container.  It is the parent of the
// container's first process, writes its log in CRI format, keeps its terminal
// and leaves its exit code in a file: all that must go on while we are away.
//
//   we ──► conmon ──► crun create      (the answer: one JSON line on fd 3)
//             │            └─► first process, waiting for `crun start`
//             └─ log file, FIFO ctl, socket attach, EXIT_DIR/ID
import { open, constants } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { CrispError } from '../../errors.js';
import { exists } from '../../host/files.js';
import { programsIn } from '../../host/proc.js';
import { firstLine, runDetached } from '../../host/run.js';
import type { TerminalSize } from '../../shapes/io.js';
import { killTree } from '../exec-limit.js';
import { verbTimeoutMs } from './runtime.js';

export interface MonitorPlan {
  readonly conmon: string;
  readonly runtime: string;
  readonly runtimeArgs: readonly string[];
  readonly systemdCgroup: boolean;
  readonly id: string;
  readonly bundle: string;
  readonly exitDir: string;
  /** undefined: output is only for attached clients. */
  readonly logPath: string | undefined;
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
}

/**
 * Starts a container under conmon.
 * @returns the pid of its first process
 * @throws what `explain` makes of the runtime's words; ToolTimeout when it has none, after it was killed
 */
export async function monitor(plan: MonitorPlan, explain: (stderr: string) => CrispError): Promise<number> {
  const {
    pipes: [sync],
    exited,
  } = runDetached(monitorArgv(plan), { cwd: plan.bundle, env: { _OCI_SYNCPIPE: '3' }, pipes: 1 });
  const answer = await inTime(plan, firstLine(sync as Duplex, verbTimeoutMs));
  await exited; // the first of conmon's two forks: reaped here, so that no zombie stays
  return pidOf(answer, explain);
}

/** Also for `crisp explain`, which shows it and runs nothing. */
export function monitorArgv(plan: MonitorPlan): [string, ...string[]] {
  return [
    plan.conmon,
    '--cid',
    plan.id,
    '--cuuid',
    plan.id,
    '--name',
    plan.id,
    '--runtime',
    plan.runtime,
    ...plan.runtimeArgs.flatMap((arg) => ['--runtime-arg', arg]),
    ...(plan.systemdCgroup ? ['--systemd-cgroup'] : []),
    '--bundle',
    plan.bundle,
    '--persist-dir',
    plan.bundle,
    '--container-pidfile',
    join(plan.bundle, 'pid'),
    '--exit-dir',
    plan.exitDir,
    '--log-path',
    plan.logPath === undefined ? 'off:' : `k8s-file:${plan.logPath}`,
    '--log-level',
    'error',
    '--full-attach',
    '--no-sync-log', // an fsync of the log at each exit would make every stop wait for the disk
    ...(plan.terminal ? ['--terminal'] : []),
    ...(plan.stdin ? ['--stdin'] : []),
    ...(plan.stdin && !plan.stdinOnce ? ['--leave-stdin-open'] : []),
  ];
}

/** Ends a conmon whose runtime hangs: of its two forks nobody knows the second, so it is found by where it works. */
async function inTime({ bundle }: MonitorPlan, answer: Promise<string | undefined>): Promise<string> {
  const line = await answer;
  if (line !== undefined) return line;
  for (const { pid } of await programsIn(bundle)) await killTree(pid);
  throw new CrispError('ToolTimeout', `the runtime did not answer within ${verbTimeoutMs} ms`, {
    stage: 'container create',
    tool: 'conmon',
  });
}

function pidOf(answer: string, explain: (stderr: string) => CrispError): number {
  if (!answer) throw explain('conmon ended without an answer');
  const { pid = -1, message } = JSON.parse(answer) as { pid?: number; message?: string };
  if (pid <= 0) throw explain(message ?? `conmon answered ${pid}`);
  return pid;
}

/** The control FIFO understands "1 HEIGHT WIDTH" (resize) and "2 0 0" (reopen the log). */
async function control(bundle: string, line: string): Promise<void> {
  const fifo = await open(join(bundle, 'ctl'), constants.O_WRONLY | constants.O_NONBLOCK); // ENXIO: conmon is gone
  try {
    await fifo.write(`${line}\n`);
  } finally {
    await fifo.close();
  }
}

/** Returns when the new log file is there: the caller may look for it at once. */
export async function reopenLog(bundle: string, logPath: string): Promise<void> {
  await control(bundle, '2 0 0');
  for (let waitedMs = 0; waitedMs < 5_000; waitedMs += 5) {
    if (!logPath || (await exists(logPath))) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new CrispError('ToolTimeout', 'conmon did not reopen the log', {
    stage: 'reopen log',
    tool: 'conmon',
  });
}

/** Never throws: there is nothing to resize when the process has ended. */
export async function resize(bundle: string, size: TerminalSize): Promise<void> {
  await control(bundle, `1 ${size.height} ${size.width}`).catch(() => undefined);
}

// conmon(8): the small process beside each container.  It is the parent of the container's
// first process, writes its log in CRI format, keeps its terminal and writes its exit code
// to a file: everything that must continue while crisp is not running.
//
//   crisp ──► conmon ──► crun create   (the answer: one JSON line on fd 3)
//             │            └─► first process, waiting for `crun start`
//             └─ log file (by a link, see log-file.ts), FIFO ctl, socket attach, EXIT_DIR/ID
import { closeSync } from 'node:fs';
import { open, constants } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Duplex } from 'node:stream';
import { CrispError } from '../../errors.js';
import { entryOf, openFolder, unlinkIfThere } from '../../host/beneath.js';
import { exists } from '../../host/files.js';
import { killTree, programsIn } from '../../host/proc.js';
import { firstLine, runDetached } from '../../host/run.js';
import { waitUntil, within } from '../../host/wait.js';
import { untilServersAnswer } from '../../oci/inspect.js';
import type { TerminalSize } from '../../shapes/io.js';
import { linkLog, logLink } from '../log-file.js';
import { verbTimeoutMs } from './runtime.js';

export interface MonitorPlan {
  readonly conmon: string;
  readonly runtime: string;
  /** A descriptor of the runtime's copy in memory, which is run instead; conmon keeps it open. */
  readonly program?: number | undefined;
  /** Before the verb. conmon's option --systemd-cgroup would put that one before the arguments of a shell. */
  readonly runtimeArgs: readonly string[];
  readonly id: string;
  readonly bundle: string;
  readonly exitDir: string;
  /**
   * Has a log, to which the link `logLink` in the bundle points; otherwise output is only for attached
   * clients.
   */
  readonly log: boolean;
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  /** The runtime gets pipes from conmon instead of the host's /dev/null. */
  readonly ownStreams: boolean;
}

/**
 * Starts a container under conmon.
 * @returns the pid of its first process
 * @throws the error of `explain` for the runtime's message; ToolTimeout if it did not answer and was
 * killed
 */
export async function monitor(plan: MonitorPlan, explain: (stderr: string) => CrispError): Promise<number> {
  const {
    pipes: [sync],
    exited,
  } = await runDetached(
    monitorArgv(plan.program === undefined ? plan : { ...plan, runtime: inheritedProgram }),
    { cwd: plan.bundle, env: { _OCI_SYNCPIPE: '3' }, pipes: ['read'], inherited: plan.program },
  );
  const answer = await inTime(plan, firstLine(sync as Duplex, verbTimeoutMs));
  await exited; // the first of conmon's two forks: reaped here, so that no zombie stays
  return pidOf(answer, explain);
}

/** After the pipe, which is on 3. */
const inheritedProgram = '/proc/self/fd/4';

/** Also for `crisp explain`, which shows it and runs nothing. */
export function monitorArgv(plan: MonitorPlan): [string, ...string[]] {
  const [runtime, ...runtimeArgs] = [
    ...(plan.ownStreams ? withOwnStreams(plan) : []),
    plan.runtime,
    ...plan.runtimeArgs,
  ] as [string, ...string[]];
  return [
    plan.conmon,
    '--cid',
    plan.id,
    '--cuuid',
    plan.id,
    '--name',
    plan.id,
    '--runtime',
    runtime,
    ...runtimeArgs.flatMap((arg) => ['--runtime-arg', arg]),
    '--bundle',
    plan.bundle,
    '--persist-dir',
    plan.bundle,
    '--container-pidfile',
    join(plan.bundle, 'pid'),
    '--exit-dir',
    plan.exitDir,
    '--log-path',
    plan.log ? `k8s-file:${logLink}` : 'off:', // relative to its working folder, the bundle: conmon splits a path at a colon
    '--log-level',
    'error',
    '--full-attach',
    '--no-sync-log', // an fsync of the log at each exit would make every stop wait for the disk
    ...(plan.terminal ? ['--terminal'] : []),
    ...(plan.stdin ? ['--stdin'] : []),
    ...(plan.stdin && !plan.stdinOnce ? ['--leave-stdin-open'] : []),
  ];
}

/**
 * A shell that runs its arguments. conmon opens the host's /dev/null as the stdin of a container without an
 * input, and as the stdout of a runtime whose container has a terminal. An empty here-document (a pipe, or an
 * unlinked file) and conmon's pipe for the runtime's messages replace them.
 */
function withOwnStreams({ stdin, terminal }: MonitorPlan): string[] {
  const output = terminal ? ' >&2' : '';
  const input = terminal || !stdin ? ' <<END\nEND' : '';
  return ['/bin/sh', '-c', `exec "$0" "$@"${output}${input}`];
}

/**
 * Ends a conmon with a hanging runtime: the pid of its second fork is not known, so it is found by its
 * working folder.
 */
async function inTime({ bundle }: MonitorPlan, answer: Promise<string | undefined>): Promise<string> {
  const line = await answer;
  if (line !== undefined) return line;
  for (const program of await programsIn(bundle)) await killTree(program);
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

/**
 * The control FIFO accepts "1 HEIGHT WIDTH" (resize) and "2 0 0" (reopen the log).
 * @throws WrongContainerState if conmon has ended, which it does with its
 * container
 */
async function control(bundle: string, line: string): Promise<void> {
  const fifo = await open(join(bundle, 'ctl'), constants.O_WRONLY | constants.O_NONBLOCK).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENXIO' && error.code !== 'ENOENT') throw error;
      throw new CrispError('WrongContainerState', 'the container has ended, and its monitor with it', {
        cause: error,
      });
    },
  );
  try {
    await fifo.write(`${line}\n`);
  } finally {
    await fifo.close();
  }
}

/**
 * Makes conmon write to a new file at the path of its log; missing folders are made. conmon opens
 * LOG.tmp, through a link, and renames that to LOG (reopen_k8s_file of its ctr_logging.c): here a link
 * to a file that crisp has opened, which is renamed to `logLink`.
 * @throws PathEscapes, InvalidArgument, ToolTimeout
 */
export async function reopenLog(bundle: string, logPath: string): Promise<void> {
  if (!logPath) return;
  await untilServersAnswer([['log', logPath]]);
  // One after the other: a conmon with two requests but only one link would create a file of its own.
  const begun = (reopening.get(bundle) ?? Promise.resolve()).then(() => beginReopening(bundle, logPath));
  const settled = begun
    .then(({ renamed }) => renamed)
    .catch(() => undefined)
    .finally(() => {
      if (reopening.get(bundle) === settled) reopening.delete(bundle);
    });
  reopening.set(bundle, settled);
  await inTimeToReopen(begun.then(({ renamed }) => renamed));
}
/** By bundle; never rejects. */
const reopening = new Map<string, Promise<void>>();

/** @returns "renamed" resolves when conmon has opened the new file */
async function beginReopening(bundle: string, logPath: string): Promise<{ renamed: Promise<void> }> {
  if (!(await exists(join(bundle, logLink)))) return { renamed: reopenLogOfOld(bundle, logPath) };
  const next = join(bundle, `${logLink}.tmp`);
  const close = linkLog(bundle, logPath, `${logLink}.tmp`, true);
  try {
    await control(bundle, '2 0 0');
  } catch (error) {
    unlinkIfThere(next);
    close();
    throw error;
  }
  // Kept until it is renamed: conmon may still open it, even after the timeout, and would exit if it did not
  // exist.
  return { renamed: untilGone(next).finally(close) };
}

async function untilGone(path: string): Promise<void> {
  const isGone = async (): Promise<boolean> => !(await exists(path));
  if (!(await waitUntil(isGone, { everyMs: 2, withinMs: reopenTimeoutMs })))
    await waitUntil(isGone, { everyMs: 500 });
}

async function inTimeToReopen(renamed: Promise<void>): Promise<void> {
  if (!(await within(renamed, reopenTimeoutMs))) throw notReopened();
}
const reopenTimeoutMs = 5_000;

/**
 * A conmon of an earlier version of crisp has the path itself: an existing LOG.tmp is removed, and not
 * followed.
 */
async function reopenLogOfOld(bundle: string, logPath: string): Promise<void> {
  const folder = openFolder(dirname(logPath), 0o755);
  try {
    unlinkIfThere(entryOf(folder, `${basename(logPath)}.tmp`));
  } finally {
    closeSync(folder);
  }
  await control(bundle, '2 0 0');
  if (!(await waitUntil(() => exists(logPath), { everyMs: 5, withinMs: reopenTimeoutMs })))
    throw notReopened();
}

function notReopened(): CrispError {
  return new CrispError('ToolTimeout', 'conmon did not reopen the log', {
    stage: 'reopen log',
    tool: 'conmon',
  });
}

/** Never throws: after the end of the process there is nothing to resize. */
export async function resize(bundle: string, size: TerminalSize): Promise<void> {
  await control(bundle, `1 ${size.height} ${size.width}`).catch(() => undefined);
}

// `crisp run`, `crisp start` and `crisp exec`: running processes, attached to
// the terminal if requested.
import { constants } from 'node:os';
import type { Backend } from '../backends/backend.js';
import type { Io, TerminalSize } from '../shapes/io.js';
import { CrispError } from '../errors.js';
import { now } from '../records/stored.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import { createContainer, createGuest, type CreateFlags } from './container-create.js';
import { removeAll } from './container-remove.js';
import { replay } from './container-log.js';
import { DetachKeys } from './detach-keys.js';
import { environmentOf, type EnvironmentFlags } from './environment.js';
import { exitOf, stateOf } from './container-state.js';
import { stop } from './container-stop.js';
import { UsageError } from './parse.js';
import { type Services, type PlaceFlags, withParts } from './services.js';
import { Signals } from './signals.js';

/** As in shells. */
const [notExecutableCode, notFoundCode] = [126, 127];

/** Shown if the exit code of a container is not known. */
const unknownExitCode = 255;

/**
 * Grace period after the reader of stdout has closed its end: a program on the host would end by SIGPIPE,
 * which the first process of a container does not get.
 */
const unheardCode = 128 + constants.signals.SIGPIPE;
const unheardGraceSeconds = 1;

export async function runCommand(
  flags: CreateFlags & { readonly detach: boolean; readonly rm: boolean },
  args: readonly string[],
): Promise<number> {
  if (flags.detach && flags.rm)
    throw new UsageError('--rm waits for the end, --detach does not: give one of them');
  if (flags.guest && (flags.rm || flags.detach))
    throw new UsageError('--guest: Proxmox runs and removes a guest; give it without --rm and --detach');
  if (!flags.detach) checkTerminal(flags);
  return withParts(flags, async (services) => {
    const signals = new Signals();
    let detached = false;
    try {
      if (flags.guest) {
        process.stdout.write(`${await createGuest(services, flags, args, signals, true)}\n`);
        return 0;
      }
      const created = await createContainer(services, flags, args, signals);
      const backend = services.backendOf(created);
      const exit = exitOf(backend, refOf(created)); // before the start, so that no exit is missed
      const record = await start(services, created).catch(async (error: unknown) => {
        await removeAll(services, created); // a container that never ran is not kept
        throw error;
      });
      if (flags.detach) {
        process.stdout.write(`${record.id}\n`);
        return 0;
      }
      try {
        const exitCode = await inForeground(backend, record, flags.interactive, exit.ended, signals);
        detached = exitCode === undefined;
        return exitCode ?? 0;
      } finally {
        if (flags.rm && !detached) await removeAll(services, record);
      }
    } catch (error) {
      return startFailure('run', error);
    } finally {
      signals.release();
    }
  });
}

export async function startCommand(flags: PlaceFlags, [id = '']: readonly string[]): Promise<number> {
  return withParts(flags, async (services) => {
    const record = await services.records.find(id);
    const { status } = await stateOf(services, record);
    if (status !== 'created')
      throw new CrispError(
        'WrongContainerState',
        `container ${record.name} cannot be started: it is ${status}`,
        { hint: 'a container runs once; make another with `crisp create`' },
      );
    await start(services, record);
    process.stdout.write(`${record.id}\n`);
    return 0;
  });
}

async function start(services: Services, record: StandaloneRecord): Promise<StandaloneRecord> {
  const startedAt = now();
  await services.backendOf(record).start(refOf(record));
  return services.records.put({ ...record, startedAt });
}

/** The exit code of shells if a command is not found or cannot be executed. @throws any other error */
function startFailure(command: string, error: unknown): number {
  const exitCode = startExitCode(error);
  if (exitCode === undefined) throw error;
  process.stderr.write(`crisp ${command}: ${(error as CrispError).report}\n`);
  return exitCode;
}

function startExitCode(error: unknown): number | undefined {
  if (!(error instanceof CrispError) || error.id !== 'StartFailed') return undefined;
  if (/not found|no such file/i.test(error.message)) return notFoundCode;
  return /permission denied|exec format|not executable|is a directory/i.test(error.message)
    ? notExecutableCode
    : undefined;
}

/** Shows the output, passes on input and signals. @returns the exit code; undefined: the user has detached */
async function inForeground(
  backend: Backend,
  record: StandaloneRecord,
  interactive: boolean,
  ended: ReturnType<typeof exitOf>['ended'],
  signals: Signals,
): Promise<number | undefined> {
  const container = refOf(record);
  signals.forward((signal) => backend.kill(container, signal));
  const session = new AbortController();
  const terminal = record.terminal ? ownTerminal() : undefined;
  let detached = false;
  let detach: (exit: undefined) => void = () => undefined;
  const left = new Promise<undefined>((resolve) => {
    detach = resolve;
  });
  const stdin = !interactive
    ? undefined
    : !terminal
      ? process.stdin
      : process.stdin.pipe(
          new DetachKeys(() => {
            detached = true;
            detach(undefined);
          }),
        );
  // Output comes from the log; the attached session is for input and the terminal's size.
  const attached =
    interactive || record.terminal
      ? backend
          .attach(
            container,
            {
              terminal: record.terminal,
              ...(stdin ? { stdin } : {}),
              ...(terminal ? { onResize: terminal.onResize } : {}),
            },
            session.signal,
          )
          .catch(() => undefined) // it ends with the container
      : undefined;
  try {
    const read = await replay(record.logPath, process, Promise.race([ended, left]));
    if (detached) {
      process.stderr.write(`\r\ndetached from ${record.name}, which runs on\r\n`);
      return undefined;
    }
    if (read) return (await ended)?.exitCode ?? unknownExitCode;
    await stop(backend, record, ended, unheardGraceSeconds); // otherwise its log would grow with no reader
    return unheardCode;
  } finally {
    session.abort();
    await attached;
    terminal?.restore();
    if (interactive) process.stdin.destroy();
  }
}

export interface ExecFlags extends PlaceFlags, EnvironmentFlags {
  readonly interactive: boolean;
  readonly tty: boolean;
}

export async function execCommand(
  flags: ExecFlags,
  [id = '', ...command]: readonly string[],
): Promise<number> {
  checkTerminal(flags);
  return withParts(flags, async (services) => {
    const record = await services.records.find(id);
    const { status } = await stateOf(services, record);
    if (status !== 'running')
      throw new CrispError(
        'WrongContainerState',
        `container ${record.name} is not running (it is ${status})`,
        {
          hint:
            status === 'created'
              ? `start it with \`crisp start ${record.name}\``
              : 'a container runs once; run another with `crisp run`',
        },
      );
    const env = await environmentOf(flags);
    const terminal = flags.tty ? ownTerminal() : undefined;
    const io: Io = {
      terminal: flags.tty,
      stdout: process.stdout,
      ...(flags.tty ? {} : { stderr: process.stderr }),
      ...(flags.interactive ? { stdin: process.stdin } : {}),
      ...(terminal ? { onResize: terminal.onResize } : {}),
    };
    const session = new AbortController();
    const signals = new Signals();
    signals.hold();
    signals.forward(() => session.abort());
    process.stdout.once('error', () => session.abort()); // the reader has closed its end
    try {
      return (
        await services
          .backendOf(record)
          .exec(refOf(record), { args: command, env, io, timeoutMs: undefined }, session.signal)
      ).exitCode;
    } catch (error) {
      return startFailure('exec', error);
    } finally {
      terminal?.restore();
      signals.release();
      if (flags.interactive) process.stdin.destroy();
    }
  });
}

/** --tty needs a terminal: a pipe has no size, and its end does not end a session. @throws UsageError */
function checkTerminal({ interactive, tty }: { readonly interactive: boolean; readonly tty: boolean }): void {
  if (interactive && tty && !process.stdin.isTTY)
    throw new UsageError('stdin is not a terminal: drop --tty (-t)');
}

/** The user's terminal in raw mode: keys and sizes are passed on. */
function ownTerminal(): { onResize: (listener: (size: TerminalSize) => void) => void; restore(): void } {
  const { stdin, stdout } = process;
  let resized: (() => void) | undefined;
  if (stdin.isTTY) stdin.setRawMode(true);
  return {
    onResize(listener) {
      if (!stdout.isTTY) return;
      resized = () => listener({ width: stdout.columns, height: stdout.rows });
      resized();
      stdout.on('resize', resized);
    },
    restore() {
      if (stdin.isTTY) stdin.setRawMode(false);
      if (resized) stdout.off('resize', resized);
    },
  };
}

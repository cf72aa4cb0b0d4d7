// `crisp run`, `crisp start`, `crisp attach` and `crisp exec`: running processes, attached to
// the terminal if requested.
import type { Io } from '../shapes/io.js';
import { CrispError } from '../errors.js';
import { now } from '../records/stored.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import { createContainer, createGuest, type CreateFlags } from './container-create.js';
import { removeAll } from './container-remove.js';
import { environmentOf, type EnvironmentFlags } from './environment.js';
import { exitOf, notRunning, stateOf } from './container-state.js';
import { checkTerminal, inForeground, ownTerminal } from './foreground.js';
import { UsageError } from './parse.js';
import { type Services, type PlaceFlags, withParts } from './services.js';
import { Signals } from './signals.js';

/** As in shells. */
const [notExecutableCode, notFoundCode] = [126, 127];

export async function runCommand(
  flags: CreateFlags & { readonly detach: boolean; readonly rm: boolean },
  args: readonly string[],
): Promise<number> {
  if (flags.guest && (flags.rm || flags.detach))
    throw new UsageError('--guest: Proxmox runs and removes a guest; give it without --rm and --detach');
  if (!flags.detach && flags.interactive && flags.tty) checkTerminal();
  return withParts({ ...flags, makes: true }, async (services) => {
    const signals = new Signals();
    try {
      if (flags.guest) {
        process.stdout.write(`${await createGuest(services, flags, args, signals, true)}\n`);
        return 0;
      }
      const created = await createContainer(services, flags, args, signals);
      const { ended } = exitOf(services.backendOf(created), refOf(created)); // before the start, so that no exit is missed
      const later = flags.rm && flags.detach ? { removeAtEnd: true } : {};
      const record = await start(services, { ...created, ...later }).catch(async (error: unknown) => {
        await removeAll(services, created); // a container that never ran is not kept
        throw error;
      });
      if (flags.detach) {
        process.stdout.write(`${record.id}\n`);
        return 0;
      }
      const { interactive, rm: removes } = flags;
      return await inForeground(services, record, {
        interactive,
        ended,
        signals,
        stopsUnread: true,
        removes,
      });
    } catch (error) {
      return startFailure('run', error);
    } finally {
      signals.release();
    }
  });
}

export interface StartFlags extends PlaceFlags {
  readonly attach: boolean;
  readonly interactive: boolean;
}

export async function startCommand(flags: StartFlags, [id = '']: readonly string[]): Promise<number> {
  return withParts(flags, async (services) => {
    const created = await services.records.find(id);
    const { status } = await stateOf(services, created);
    if (status !== 'created')
      throw new CrispError(
        'WrongContainerState',
        `container ${created.name} cannot be started: it is ${status}`,
        {
          hint:
            status === 'running'
              ? `see its output with \`crisp attach ${created.name}\``
              : 'a container runs once; make another with `crisp create`',
        },
      );
    if (!flags.attach && !flags.interactive) {
      const { id: whole } = await start(services, created);
      process.stdout.write(`${whole}\n`);
      return 0;
    }
    const { interactive } = flags;
    if (interactive && !created.stdin)
      throw new UsageError(`container ${created.name} was made without --interactive: drop -i`);
    if (interactive && created.terminal) checkTerminal();
    const signals = new Signals();
    signals.hold();
    try {
      const { ended } = exitOf(services.backendOf(created), refOf(created)); // before the start, so that no exit is missed
      const record = await start(services, created);
      return await inForeground(services, record, {
        interactive,
        ended,
        signals,
        stopsUnread: false,
        removes: false,
      });
    } catch (error) {
      return startFailure('start', error);
    } finally {
      signals.release();
    }
  });
}

export async function attachCommand(flags: PlaceFlags, [id = '']: readonly string[]): Promise<number> {
  return withParts(flags, async (services) => {
    const { removeAtEnd: removes = false, ...record } = await services.records.find(id);
    const { status } = await stateOf(services, record);
    if (status !== 'running')
      throw notRunning(record, status, {
        hint:
          status === 'created'
            ? `start it with \`crisp start --attach ${record.name}\``
            : `see its output with \`crisp logs ${record.name}\``,
      });
    const interactive = record.stdin ?? false;
    if (interactive && record.terminal) checkTerminal();
    const signals = new Signals();
    signals.hold();
    try {
      const { ended } = exitOf(services.backendOf(record), refOf(record));
      if (removes) await services.records.put(record); // no other command removes it before its exit code is known
      const view = { tail: 0 };
      return await inForeground(services, record, {
        interactive,
        ended,
        signals,
        view,
        stopsUnread: false,
        removes,
      });
    } finally {
      signals.release();
    }
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

export interface ExecFlags extends PlaceFlags, EnvironmentFlags {
  readonly interactive: boolean;
  readonly tty: boolean;
}

export async function execCommand(
  flags: ExecFlags,
  [id = '', ...command]: readonly string[],
): Promise<number> {
  if (flags.interactive && flags.tty) checkTerminal();
  return withParts(flags, async (services) => {
    const record = await services.records.find(id);
    const { status } = await stateOf(services, record);
    if (status !== 'running')
      throw notRunning(record, status, {
        hint:
          status === 'created'
            ? `start it with \`crisp start ${record.name}\``
            : 'a container runs once; run another with `crisp run`',
      });
    const env = await environmentOf(flags);
    const terminal = flags.tty ? ownTerminal(flags.interactive) : undefined;
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

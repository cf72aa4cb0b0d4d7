// `crisp dump`: the current activity of the daemon. Uses a signal and a file instead
// of the socket, so that it also works if the daemon does not answer calls.
import { readFileSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import { loadConfig } from '../config/config.js';
import { CrispError } from '../errors.js';
import { catches, signalProcess } from '../host/proc.js';
import { waitUntil } from '../host/wait.js';
import { daemonOf, dumpFile } from '../records/claim.js';

export interface DumpFlags {
  readonly config: string | undefined;
  readonly state: string | undefined;
}

/** The longest wait for the daemon: its event loop may be busy. */
const patienceMs = 10_000;

/** @throws DaemonUnreachable, PermissionDenied */
export async function dumpCommand(flags: DumpFlags): Promise<number> {
  const { state } = loadConfig(flags.config, { state: flags.state });
  const file = dumpFile(state);
  const daemon = await daemonOf(state);
  const unreachable = (why: string): CrispError => new CrispError('DaemonUnreachable', why);
  if (!daemon) throw unreachable(`no daemon runs with the state folder ${state}`);
  // Without a handler for the signal, the daemon would end.
  if (!(await catches(daemon.pid, constants.signals.SIGUSR2)))
    throw unreachable(
      `the daemon, process ${daemon.pid}, is of a version without a state dump, or just starts`,
    );
  const before = inodeOf(file);
  if (!(await signalProcess(daemon, 'SIGUSR2'))) throw unreachable('the daemon has just ended');
  const isWritten = (): boolean => inodeOf(file) !== before;
  if (!(await waitUntil(isWritten, { everyMs: 20, withinMs: patienceMs })))
    throw unreachable(
      `process ${daemon.pid} has not written ${file} within ${patienceMs / 1000} s: it is stopped, its event loop is blocked, or the file cannot be written, and then the dump is in its log`,
    );
  process.stdout.write(`${JSON.stringify(JSON.parse(readFileSync(file, 'utf8')), undefined, 2)}\n`);
  return 0;
}

function inodeOf(file: string): string | undefined {
  const found = statSync(file, { bigint: true, throwIfNoEntry: false });
  return found && `${found.ino} ${found.mtimeNs}`;
}

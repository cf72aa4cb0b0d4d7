// `crisp stop`, `crisp kill` and `crisp delete`.
import { constants } from 'node:os';
import type { Backend } from '../backends/backend.js';
import { CrispError, toCrispError } from '../errors.js';
import { within } from '../host/wait.js';
import { signalNumber } from '../oci/signals.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import { removeAll } from './container-remove.js';
import { exitOf, notRunning, stateOf } from './container-state.js';
import { UsageError } from './parse.js';
import { type PlaceFlags, type Services, withParts } from './services.js';

const defaultGraceSeconds = 10;
const maxGraceSeconds = (2 ** 31 - 1) / 1000;
/** The longest wait for the end of a process after SIGKILL. */
const killPatienceMs = 10_000;

export async function stopCommand(
  flags: PlaceFlags & { readonly time: string | undefined },
  ids: readonly string[],
): Promise<number> {
  const graceSeconds = secondsOf(flags.time ?? String(defaultGraceSeconds));
  return forEach('stop', flags, ids, async (services, record) => {
    const { status } = await stateOf(services, record);
    if (status === 'running' || status === 'created') {
      const backend = services.backendOf(record);
      await stop(
        backend,
        record,
        exitOf(backend, refOf(record)).ended,
        status === 'running' ? graceSeconds : 0,
      );
    }
  });
}

/**
 * Applies an action to each container and prints its id. Continues with the others after a failure.
 * @returns 1 if any failed
 */
async function forEach(
  command: string,
  flags: PlaceFlags,
  ids: readonly string[],
  act: (services: Services, record: StandaloneRecord) => Promise<void>,
): Promise<number> {
  return withParts(flags, async (services) => {
    let exitCode = 0;
    for (const id of ids) {
      try {
        const record = await services.records.find(id);
        await act(services, record);
        process.stdout.write(`${record.id}\n`);
      } catch (error) {
        process.stderr.write(`crisp ${command}: ${toCrispError(error).report}\n`);
        exitCode = 1;
      }
    }
    return exitCode;
  });
}

/**
 * Ends a container by its stop signal, and by SIGKILL after the grace period. With a grace period of zero:
 * by SIGKILL at once. @throws ToolTimeout
 */
export async function stop(
  backend: Backend,
  record: StandaloneRecord,
  ended: Promise<unknown>,
  graceSeconds: number,
): Promise<void> {
  if (graceSeconds > 0) {
    await backend.kill(refOf(record), signalNumber(record.stopSignal));
    if (await within(ended, graceSeconds * 1000)) return;
  }
  await backend.kill(refOf(record), constants.signals.SIGKILL);
  if (!(await within(ended, killPatienceMs)))
    throw new CrispError(
      'ToolTimeout',
      `container ${record.name} did not end ${killPatienceMs / 1000} s after SIGKILL`,
      {
        stage: 'stop container',
        hint: 'its process is stuck in the kernel: see /proc/PID/stack and the kernel log',
      },
    );
}

export async function killCommand(
  flags: PlaceFlags & { readonly signal: string | undefined; readonly all: boolean },
  [id = '']: readonly string[],
): Promise<number> {
  const signal = numberOf(flags.signal ?? 'KILL');
  return withParts(flags, async (services) => {
    const record = await services.records.find(id);
    const { status } = await stateOf(services, record);
    if (status !== 'running' && status !== 'created')
      throw notRunning(record, status, { hint: 'signals can only be sent to running containers' });
    await services.backendOf(record).kill(refOf(record), signal, flags.all);
    return 0;
  });
}

export async function deleteCommand(
  flags: PlaceFlags & { readonly force: boolean },
  ids: readonly string[],
): Promise<number> {
  return forEach('delete', flags, ids, async (services, record) => {
    const { status } = await stateOf(services, record);
    if (status === 'running' && !flags.force)
      throw new CrispError('WrongContainerState', `container ${record.name} is running`, {
        hint: `stop it first (\`crisp stop ${record.name}\`), or delete it with --force`,
      });
    await removeAll(services, record);
  });
}

/** At most what a timer takes: more than 24 days would end at once. @throws UsageError */
function secondsOf(text: string): number {
  if (!/^\d+(\.\d+)?$/.test(text)) throw new UsageError(`--time must be a number of seconds, not "${text}"`);
  return Math.min(Number(text), maxGraceSeconds);
}

/** "TERM", "SIGTERM", "15". */
function numberOf(text: string): number {
  const name = text.toUpperCase().replace(/^SIG/, '');
  const number = /^\d+$/.test(text) ? Number(text) : constants.signals[`SIG${name}` as NodeJS.Signals];
  if (number === undefined || number < 1 || number > 64)
    throw new UsageError(`--signal "${text}" is not a signal`);
  return number;
}

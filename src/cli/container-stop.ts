// `crisp stop`, `crisp kill` and `crisp delete`.
import { constants } from 'node:os';
import type { Backend } from '../backends/backend.js';
import { CrispError } from '../errors.js';
import { signalNumber } from '../oci/signals.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import { removeAll } from './container-create.js';
import { exitOf, stateOf } from './container-state.js';
import { UsageError } from './parse.js';
import { type PlaceFlags, withParts } from './services.js';

const defaultGraceSeconds = 10;
/** After SIGKILL. */
const killPatienceMs = 10_000;

export async function stopCommand(
  flags: PlaceFlags & { readonly time: string | undefined },
  [id = '']: readonly string[],
): Promise<number> {
  const graceSeconds = flags.time === undefined ? defaultGraceSeconds : Number(flags.time);
  if (!(graceSeconds >= 0)) throw new UsageError(`--time must be a number of seconds, not "${flags.time}"`);
  return withParts(flags, async (services) => {
    const record = await services.records.find(id);
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
    process.stdout.write(`${record.id}\n`);
    return 0;
  });
}

/**
 * Ends a container: by its stop signal, and by SIGKILL after the grace period, or by SIGKILL at once without
 * a grace period. @throws ToolTimeout
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
      throw new CrispError(
        'WrongContainerState',
        `container ${record.name} is not running (it is ${status})`,
        { hint: 'signals can only be sent to running containers' },
      );
    await services.backendOf(record).kill(refOf(record), signal, flags.all);
    return 0;
  });
}

export async function deleteCommand(
  flags: PlaceFlags & { readonly force: boolean },
  ids: readonly string[],
): Promise<number> {
  return withParts(flags, async (services) => {
    for (const id of ids) {
      const record = await services.records.find(id);
      const { status } = await stateOf(services, record);
      if (status === 'running' && !flags.force)
        throw new CrispError('WrongContainerState', `container ${record.name} is running`, {
          hint: 'stop it first, or delete it with --force',
        });
      await removeAll(services, record);
      process.stdout.write(`${record.id}\n`);
    }
    return 0;
  });
}

/** "TERM", "SIGTERM", "15". */
function numberOf(text: string): number {
  const name = text.toUpperCase().replace(/^SIG/, '');
  const number = /^\d+$/.test(text) ? Number(text) : constants.signals[`SIG${name}` as NodeJS.Signals];
  if (number === undefined || number < 1 || number > 64)
    throw new UsageError(`--signal "${text}" is not a signal`);
  return number;
}

/** Whether the promise settles in time. */
async function within(work: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      work.then(() => true),
      new Promise<boolean>((resolve) => {
        timer = setTimeout(() => resolve(false), ms);
      }),
    ]);
  } finally {
    clearTimeout(timer);
  }
}

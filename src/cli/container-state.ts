// The current state of a standalone container, read from its backend, since
// other commands may change it. Also `crisp list` and `crisp state`.
import { toCrispError } from '../errors.js';
import { waitUntil } from '../host/wait.js';
import type { Backend, ContainerRef, Exit } from '../backends/backend.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import { setAside } from '../set-aside.js';
import { ago, facts, printJson, table, time } from './output.js';
import { type Services, type PlaceFlags, withParts } from './services.js';

export interface ContainerState {
  /**
   * incomplete: its creation was interrupted; it can only be deleted. unknown: its backend cannot be reached.
   */
  readonly status: 'incomplete' | 'created' | 'running' | 'stopped' | 'unknown';
  readonly pid?: number;
  readonly exitCode?: number;
  /** Nanoseconds since the epoch. */
  readonly finishedAt?: string;
  readonly oomKilled?: boolean;
  /** The address of a running container with a network of its own. */
  readonly addresses?: readonly string[];
}

export async function stateOf(services: Services, record: StandaloneRecord): Promise<ContainerState> {
  if (!record.complete) return { status: 'incomplete' };
  const backend = services.backendOf(record);
  const alive = await backend.survey(refOf(record));
  if (alive.status === 'missing') return { status: 'stopped' };
  if (alive.status === 'running' && record.plan.ownNetwork)
    return { ...alive, addresses: (await backend.addresses?.(refOf(record))) ?? [] };
  if (alive.status === 'running' && record.addresses) return { ...alive, addresses: record.addresses };
  if (alive.status !== 'stopped') return alive;
  return alive.exit ? { status: 'stopped', ...ended(alive.exit) } : { status: 'stopped' };
}

function ended(exit: Exit): Pick<ContainerState, 'exitCode' | 'finishedAt' | 'oomKilled'> {
  return { exitCode: exit.exitCode, finishedAt: String(exit.finishedAt), oomKilled: exit.oomKilled };
}

/** The longest time from the end of a process to conmon's exit file, on a very busy machine. */
const exitFilePatienceMs = 10_000;

/**
 * Waits for the end of a container. undefined: it has ended with an unknown exit code (its monitor was
 * killed).
 */
export function exitOf(
  backend: Backend,
  container: ContainerRef,
): { readonly ended: Promise<Exit | undefined> } {
  let told = false;
  const heard = new Promise<Exit>((resolve) => {
    backend.onExit((id, exit) => {
      if (id === container.id) {
        told = true;
        resolve(exit);
      }
    });
  });
  const looked = async (): Promise<Exit | undefined> => {
    const known = await waitUntil(
      async () => {
        const alive = await backend.survey(container);
        if (alive.status === 'stopped' && alive.exit) return { exit: alive.exit };
        return alive.status === 'created' || alive.status === 'running' || told
          ? { exit: await heard }
          : undefined;
      },
      { everyMs: 50, withinMs: exitFilePatienceMs },
    );
    return known?.exit;
  };
  return { ended: Promise.race([heard, looked()]) };
}

/** An error of one container does not hide the others. */
async function stateOrUnknown(services: Services, record: StandaloneRecord): Promise<ContainerState> {
  try {
    return await stateOf(services, record);
  } catch (error) {
    process.stderr.write(`${record.name}: ${toCrispError(error).report}\n`);
    return { status: 'unknown' };
  }
}

export async function listCommand(
  flags: PlaceFlags & { readonly json: boolean; readonly quiet: boolean },
): Promise<number> {
  return withParts(flags, async (services) => {
    const found = await Promise.all(
      (await services.records.all()).map(async (record) => ({
        record,
        state: await stateOrUnknown(services, record),
      })),
    );
    if (flags.json) printJson(found.map(({ record, state }) => shown(record, state)));
    else if (flags.quiet) process.stdout.write(found.map(({ record }) => `${record.id}\n`).join(''));
    else {
      process.stdout.write(
        table(
          ['ID', 'NAME', 'STATUS', 'BACKEND', 'CREATED', 'IMAGE'],
          found.map(({ record, state }) => [
            record.id.slice(0, 12),
            record.name,
            inWords(state),
            record.handler,
            ago(record.createdAt),
            record.image,
          ]),
        ),
      );
    }
    for (const { name, reason } of setAside.all())
      process.stderr.write(`not listed, since this version of crisp cannot read it: ${name}: ${reason}\n`);
    return 0;
  });
}

function inWords({ status, exitCode, oomKilled }: ContainerState): string {
  if (status !== 'stopped') return status;
  return `stopped (${exitCode === undefined ? 'exit code unknown' : exitCode}${oomKilled ? ', out of memory' : ''})`;
}

export async function stateCommand(
  flags: PlaceFlags & { readonly json: boolean },
  [id = '']: readonly string[],
): Promise<number> {
  return withParts(flags, async (services) => {
    const record = await services.records.find(id);
    const state = await stateOf(services, record);
    if (flags.json) printJson(shown(record, state));
    else {
      process.stdout.write(
        facts([
          ['id', record.id],
          ['name', record.name],
          ['status', inWords(state)],
          ['pid', state.pid === undefined ? undefined : String(state.pid)],
          ['address', state.addresses?.join(', ') || undefined],
          ['ports', record.ports?.join(', ')],
          ['image', record.image],
          ['backend', `${record.handler} (${record.rule})`],
          ['bundle', record.folder],
          ['log', record.logPath],
          ['created', time(record.createdAt)],
          ['started', record.startedAt && time(record.startedAt)],
          ['finished', state.finishedAt && time(state.finishedAt)],
          ['not honoured', record.notHonoured.join(', ') || undefined],
        ]),
      );
    }
    return 0;
  });
}

/** The state of the runtime-spec (runtime.md, "State"), and additional fields of crisp. */
function shown(record: StandaloneRecord, state: ContainerState): object {
  return {
    ociVersion: '1.0.2',
    id: record.id,
    status: state.status === 'incomplete' ? 'creating' : state.status,
    ...(state.pid === undefined ? {} : { pid: state.pid }),
    bundle: record.folder,
    annotations: record.plan.annotations,
    name: record.name,
    image: record.image,
    imageId: record.imageId,
    handler: record.handler,
    rule: record.rule,
    logPath: record.logPath,
    createdAt: time(record.createdAt),
    ...(record.startedAt ? { startedAt: time(record.startedAt) } : {}),
    ...(state.finishedAt ? { finishedAt: time(state.finishedAt) } : {}),
    ...(state.exitCode === undefined ? {} : { exitCode: state.exitCode, oomKilled: state.oomKilled }),
    ...(state.addresses ? { addresses: state.addresses } : {}),
    ...(record.ports ? { ports: record.ports } : {}),
    notHonoured: record.notHonoured,
  };
}

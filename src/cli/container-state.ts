// The current state of a standalone container, read from its backend, since
// other commands may change it.
import { CrispError } from '../errors.js';
import { waitUntil } from '../host/wait.js';
import type { Backend, ContainerRef, Exit } from '../backends/backend.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import type { Services } from './services.js';

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

/** The error of a command that needs a running container. */
export function notRunning(
  { name }: Pick<StandaloneRecord, 'name'>,
  status: ContainerState['status'],
  details: { readonly hint: string },
): CrispError {
  return new CrispError('WrongContainerState', `container ${name} is not running (it is ${status})`, details);
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

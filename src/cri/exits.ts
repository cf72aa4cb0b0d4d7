// The only place where exits are recorded: reported by a backend, found by a
// stop, or detected by the periodic check.
import type { Exit } from '../backends/backend.js';
import { after, within } from '../host/wait.js';
import { log, withLogContext } from '../log.js';
import { containerState, type ContainerRecord } from '../records/records.js';
import { backendOf, refOf } from './lookup.js';
import type { Services } from './services.js';
import { isShown } from './shown.js';

/** How long a monitor may take from the end of a process to its report, on a very busy machine. */
const tellPatienceMs = 10_000;

/** Reads the exit of a container from its backend. */
export async function recordIfEnded(services: Services, record: ContainerRecord): Promise<boolean> {
  const alive = await backendOf(services, record).survey(refOf(record));
  if (alive.status !== 'stopped' && alive.status !== 'missing') return false;
  await recordExit(services, record.id, alive.status === 'stopped' ? alive.exit : undefined);
  return true;
}

/** Until `signal` aborts: checks for unreported exits every ten seconds. Never rejects. */
export async function watchForLostExits(services: Services, signal: AbortSignal): Promise<void> {
  for (await after(tellPatienceMs); !signal.aborted; await after(tellPatienceMs))
    await recordLostExits(services);
}

/**
 * Records exits that were not reported, or could not be read or written at that
 * time: if the process of a container is gone and its monitor has had enough
 * time.
 */
async function recordLostExits(services: Services): Promise<void> {
  await Promise.all(
    services.store.containers.all().map(async (record) => {
      if (containerState(record) !== 'CONTAINER_RUNNING') return;
      const exit = services.stops.exitOf(record.id);
      try {
        if (
          !(await backendOf(services, record).inDoubt(refOf(record))) ||
          (await within(exit.seen, tellPatienceMs))
        )
          return;
        if (await recordIfEnded(services, record))
          log.warn({ containerId: record.id }, 'a container has ended, but its monitor has not reported it');
      } catch (error) {
        log.error(
          { err: error, containerId: record.id },
          'a container has ended, but its exit is not recorded',
        );
      } finally {
        exit.forget();
      }
    }),
  );
}

/**
 * The only writer of exits, for the backend's listener, a stop or a check that
 * found the monitor gone, and recovery. Only the first exit counts.
 * @param exit undefined: it has ended, and the exit code is not known
 */
export async function recordExit(services: Services, id: string, exit: Exit | undefined): Promise<void> {
  await services.stops.started(id);
  await withLogContext({ containerId: id }, async () => {
    let first = false;
    const record = await services.store.containers.change(id, (present) => {
      first = present.exit === undefined;
      return first ? { exit: exitOf(present, exit) } : {};
    });
    if (!record) return;
    services.stops.exited(id);
    if (!first) return;
    log.info({ exit: record.exit, podId: record.sandboxId }, 'container exited');
    if (isShown(services, record))
      services.events.emit('CONTAINER_STOPPED_EVENT', id, services.store.sandboxes.get(record.sandboxId));
  });
}

/** The kubelet compares times: an exit is never before its start, even if the file system's clock differs. */
function exitOf(record: ContainerRecord, exit: Exit | undefined): NonNullable<ContainerRecord['exit']> {
  const earliest = BigInt(record.startedAt ?? record.createdAt) + 1n;
  const finishedAt = exit === undefined ? BigInt(Date.now()) * 1_000_000n : exit.finishedAt;
  return {
    exitCode: exit?.exitCode ?? 255,
    finishedAt: (finishedAt > earliest ? finishedAt : earliest).toString(),
    reason: exit?.oomKilled ? 'OOMKilled' : exit?.exitCode === 0 ? 'Completed' : exit ? 'Error' : 'Unknown',
    message: exit
      ? ''
      : 'the container has ended, but its exit code is lost (its monitor was killed, or the node rebooted)',
  };
}

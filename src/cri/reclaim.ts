// Reclaims pods after the state folder was lost: their records are restored from
// the recovery labels of their containers, and missing parts are made again, so
// that the kubelet can continue. Called by recovery, before records are compared
// with the actual state.
//
// Only pods with a running container are reclaimed: of an ended pod only the
// name could be restored, and the kubelet makes a new one.
import type { Backend, FoundContainer } from '../backends/backend.js';
import { CrispError, toCrispError } from '../errors.js';
import { within } from '../host/wait.js';
import { log } from '../log.js';
import { remakePod } from '../pod/pod.js';
import { recoveryLabelOf, type RecoveryLabel } from '../records/recovery-label.js';
import { placedContainer, placedSandbox } from '../records/placed.js';
import { now } from '../records/records.js';
import { setAside } from '../set-aside.js';
import { logPathOf } from './log-path.js';
import { recordExit } from './exits.js';
import type { Services } from './services.js';

interface Lost {
  readonly recoveryLabel: RecoveryLabel;
  readonly found: FoundContainer;
  readonly pid: number | undefined;
}

/** How long recovery waits for one answer: what hangs must not block the node. */
export const patienceMs = 10_000;

/** The result of `work`. @throws ToolTimeout; the work then continues */
export async function inTime<T>(work: Promise<T>): Promise<T> {
  if (await within(work, patienceMs)) return work;
  throw new CrispError('ToolTimeout', `not finished within ${patienceMs / 1000} s`, { stage: 'recover' });
}

/** Does not throw if a pod fails: a pod that cannot be reclaimed has no record, and recovery removes it. */
export async function reclaimLost(services: Services): Promise<void> {
  for (const { backend } of services.handlers.values()) {
    if (!backend.reclaim) continue;
    for (const [id, lost] of await lostPods(services, backend)) {
      try {
        await reclaimPod(services, lost);
        log.warn(
          { podId: id, containers: lost.map(({ found }) => found.id) },
          'a pod without a record was reclaimed from its containers',
        );
      } catch (error) {
        log.error({ err: error, podId: id }, 'a pod without a record cannot be reclaimed');
      }
    }
  }
}

/**
 * The containers of a backend. If they cannot be listed (its program is gone, or hangs), the recovery of
 * others continues.
 */
export async function listed(backend: Backend): Promise<readonly FoundContainer[]> {
  try {
    return await inTime(backend.list());
  } catch (error) {
    log.error(
      { handler: backend.name, error: toCrispError(error).report },
      'the containers of a handler cannot be listed',
    );
    return [];
  }
}

/** By sandbox id. A container with an invalid recovery label is set aside: neither reclaimed nor removed. */
async function lostPods(services: Services, backend: Backend): Promise<Map<string, Lost[]>> {
  const pods = new Map<string, Lost[]>();
  for (const found of await listed(backend)) {
    if (services.store.containers.has(found.id)) continue;
    const recoveryLabel = recoveryLabelOf(found);
    if (recoveryLabel === 'unreadable')
      setAside.add(
        'CT',
        found.id,
        'it has no record, and the label in its notes was not written by this crisp',
      );
    if (recoveryLabel === undefined || recoveryLabel === 'unreadable') continue;
    if (recoveryLabel.sandbox.bootId !== services.bootId || recoveryLabel.sandbox.handler !== backend.name)
      continue;
    const pid = await backend.reclaim?.(found).catch((error: unknown) => {
      log.error({ err: error, containerId: found.id }, 'a container without a record cannot be inspected');
      return undefined;
    });
    pods.set(recoveryLabel.sandbox.id, [
      ...(pods.get(recoveryLabel.sandbox.id) ?? []),
      { recoveryLabel, found, pid },
    ]);
  }
  for (const [id, lost] of pods) if (lost.every(({ pid }) => pid === undefined)) pods.delete(id);
  return pods;
}

async function reclaimPod(services: Services, lost: readonly Lost[]): Promise<void> {
  const [first] = lost.filter(({ pid }) => pid !== undefined);
  if (first?.pid === undefined) return;
  const { state } = services.config;
  const sandbox = placedSandbox({ ...first.recoveryLabel.sandbox, complete: true }, state);
  services.store.sandboxes.checkReadable(sandbox.id);
  if (!services.store.sandboxes.get(sandbox.id)) {
    await remakePod(sandbox.plan, sandbox.config, first.pid);
    await services.store.sandboxes.put(sandbox);
  }
  for (const {
    recoveryLabel: { container },
    found,
    pid,
  } of lost) {
    const logPath =
      container.logPath && (await logPathOf(sandbox.config.log_directory, container.config.log_path));
    await services.store.containers.put({
      ...placedContainer({ ...container, logPath }, state, sandbox),
      complete: true,
      backendState: found.state,
      ...(pid === undefined ? {} : { startedAt: now(), pid }),
    });
    if (pid === undefined) await recordExit(services, container.id, undefined); // its exit code is lost
  }
}

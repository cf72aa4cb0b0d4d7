// Recovery at the start, before the socket opens: reconciles the records with
// the actual state. Unfinished creations are undone, exits are recorded, and
// objects with crisp's mark but without a record are reclaimed or removed.
import { join } from 'node:path';
import type { Alive } from '../backends/backend.js';
import { CrispError, toCrispError } from '../errors.js';
import { waitUntilIdle } from '../host/proc.js';
import { within } from '../host/wait.js';
import { removeUnfinishedCheckpoints } from '../images/checkpoint.js';
import { log, withLogContext } from '../log.js';
import { step } from '../steps.js';
import { namespaceFiles } from '../pod/namespaces.js';
import { ownCgroupParent } from '../oci/namespaces.js';
import type { Unclaimed } from '../records/creations.js';
import {
  containerState,
  now,
  sandboxState,
  type ContainerRecord,
  type SandboxRecord,
} from '../records/records.js';
import { idsOfStandalone } from '../records/standalone.js';
import { recoveryLabelOf } from '../records/recovery-label.js';
import { containerThing, removeOrphans, thingsIn, type Thing } from '../orphans.js';
import { repairPod } from '../pod/pod.js';
import { podOf } from '../records/placed.js';
import { inTime, listed, patienceMs, reclaimLost } from './reclaim.js';
import { unclaimedContainer } from './container-create.js';
import { removeContainerRecord } from './container-stop.js';
import { recordExit } from './exits.js';
import { backendOf, refOf } from './lookup.js';
import type { Services } from './services.js';
import { unclaimedSandbox } from './sandbox-run.js';
import { releaseSandbox, removeSandbox } from './sandbox-stop.js';

/**
 * Compares the records with the node at the start of the daemon, and repairs what differs. A failed repair
 * is logged, and its record is kept.
 */
export async function recover(services: Services): Promise<void> {
  const started = performance.now();
  const { sandboxes, containers } = services.store;
  // 0. Running programs of an earlier run, found by their working folder: a CNI plugin could still add what is being removed.
  // Not killed: a plugin may have left a long-running program (a name server of its network).
  const atWork = await step('recover: programs of an earlier run', () =>
    waitUntilIdle(services.config.state, patienceMs),
  );
  if (atWork.length > 0)
    log.warn({ pids: atWork.map(({ pid }) => pid) }, 'programs of an earlier run are still running');
  // 1. Interrupted creations and removals; then lost records, and the running containers, listed once from each backend.
  await step('recover: remnants', () => endRemnants(services));
  await step('recover: lost records', () => reclaimLost(services));
  const alive = await step('recover: survey', () => surveyAll(services));
  // 2. Containers, then their sandboxes.
  await step('recover: containers', () =>
    Promise.all(
      containers
        .all()
        .map((record) => repaired(record.id, () => repairContainer(services, record, alive.get(record.id)))),
    ),
  );
  await step('recover: pods', () =>
    Promise.all(sandboxes.all().map((record) => repaired(record.id, () => repairSandbox(services, record)))),
  );
  // 3. Orphans.
  await step('recover: orphans', () => removeUnowned(services));
  log.info(
    {
      sandboxes: sandboxes.all().length,
      containers: containers.all().length,
      ms: Math.round(performance.now() - started),
    },
    'state recovered',
  );
}

async function endRemnants(services: Services): Promise<void> {
  for (const { backend } of services.handlers.values())
    await repaired(backend.name, async () => {
      for (const { name, end } of (await backend.remnants?.()) ?? []) await repaired(name, end);
    });
}

/**
 * "unknown": it cannot be inspected (the program of its handler is gone or hangs, or its record is
 * inconsistent); no conclusion is drawn. Ends when all have answered, or none has for a time.
 */
async function surveyAll(services: Services): Promise<Map<string, Alive | 'unknown'>> {
  const found = new Map<string, Alive | 'unknown'>();
  const open = services.store.containers.all().filter((record) => record.complete && !record.exit);
  const leave = (record: ContainerRecord, error: unknown): void => {
    log.error(
      { handler: record.handler, containerId: record.id, error: toCrispError(error).report },
      'a container cannot be inspected: its record is left unchanged',
    );
    found.set(record.id, 'unknown');
  };
  let heard: (value?: unknown) => void = () => undefined;
  const all = Promise.all(
    open.map(async (record) => {
      // The process of an earlier boot is another one, even if its pid and its start time are the same.
      const wasStarted = record.startedAt !== undefined && record.bootId === services.bootId;
      try {
        found.set(record.id, await backendOf(services, record).survey(refOf(record), wasStarted));
      } catch (error) {
        leave(record, error);
      }
      heard();
    }),
  );
  const answer = (): Promise<unknown> => new Promise((resolve) => (heard = resolve));
  while (await within(Promise.race([all, answer()]), patienceMs))
    if (found.size === open.length) return found;
  const late = new CrispError('ToolTimeout', 'its runtime does not answer', { stage: 'recover' });
  for (const record of open) if (!found.has(record.id)) leave(record, late);
  return found;
}

async function repairContainer(
  services: Services,
  record: ContainerRecord,
  alive: Alive | 'unknown' | undefined,
): Promise<void> {
  const unclaimed = unclaimedContainer(services, record.sandboxId);
  if (!record.complete)
    return removedOrKept(services, record.id, unclaimed, () => removeContainerRecord(services, record.id)); // a creation that was interrupted by a crash
  if (record.unclaimed) services.creations.keep(record.id, unclaimed);
  if (record.exit) return;
  if (record.bootId !== services.bootId) return recordExit(services, record.id, undefined);
  if (alive === 'unknown') return;
  if (!alive || alive.status === 'missing') return recordExit(services, record.id, undefined);
  if (alive.status === 'stopped') return recordExit(services, record.id, alive.exit);
  // A start that was not recorded: it is running, so it was started.
  if (alive.status === 'running' && containerState(record) === 'CONTAINER_CREATED') {
    await services.store.containers.change(record.id, { startedAt: now(), pid: alive.pid });
  }
}

async function repairSandbox(services: Services, record: SandboxRecord): Promise<void> {
  const unclaimed = unclaimedSandbox(services);
  if (!record.complete)
    return removedOrKept(services, record.id, unclaimed, () => removeSandbox(services, record.id));
  if (record.unclaimed) services.creations.keep(record.id, unclaimed);
  if (record.stoppedAt !== undefined) return;
  if (record.bootId === services.bootId) return repairPod(record.plan, record.config);
  // The node was rebooted: its namespaces are gone, its address is still leased.
  await releaseSandbox(services, record);
  await services.store.sandboxes.change(record.id, { stoppedAt: now() });
}

/** Removes an incomplete object; if this fails, it is retried later, as no client knows its id. */
async function removedOrKept(
  services: Services,
  id: string,
  unclaimed: Unclaimed,
  removal: () => Promise<void>,
): Promise<void> {
  try {
    await removal();
  } catch (error) {
    services.creations.keep(id, unclaimed);
    throw error;
  }
}

async function removeUnowned(services: Services): Promise<void> {
  const { sandboxes, containers } = services.store;
  const { root, state } = services.config;
  for (const { id, sandboxId } of containers.all()) {
    if (sandboxes.has(sandboxId)) continue;
    log.warn({ containerId: id, podId: sandboxId }, 'removing a container whose pod has no record');
    await repaired(id, () => removeContainerRecord(services, id));
  }
  const left = new Set<string>(); // kept on purpose, or because the removal failed
  const isKnown = (id: string): boolean =>
    left.has(id) || containers.has(id) || sandboxes.has(id) || services.store.containersOf(id).length > 0; // a container that could not be removed still needs its pod
  const removing = async ({ kind, name, owner, remove: removeIt }: Thing): Promise<boolean> => {
    log.warn({ kind, name }, 'removing an orphan');
    const removed = await repaired(name, removeIt);
    if (!removed) left.add(owner);
    return removed;
  };
  const lists = await Promise.all(
    [...services.handlers.values()].map(async ({ backend }) => [backend, await listed(backend)] as const),
  );
  for (const [backend, found] of lists) {
    for (const container of found) if (recoveryLabelOf(container) === 'unreadable') left.add(container.id);
    await removeOrphans(
      found.map((container) => containerThing(backend, container)),
      isKnown,
      removing,
    );
  }
  await repaired('network', async () =>
    services.network.collectGarbage(
      [
        ...sandboxes
          .all()
          .flatMap((record) =>
            record.attachment && sandboxState(record) === 'SANDBOX_READY' ? [record.id] : [],
          ),
        ...sandboxes.unreadable().keys(),
        ...(await idsOfStandalone(services.config.cli_state)), // on the same network, with notes of their own
      ],
      (id) => namespaceFiles(join(podOf(state, id), 'ns')).network,
    ),
  );
  await repaired('checkpoints', () => removeUnfinishedCheckpoints(root));
  // After the network, whose plugins look into the namespaces of pods.
  await removeOrphans(
    await thingsIn({
      root,
      state,
      rootfs: services.rootfs,
      cgroup: (id) => ownCgroupParent(id, services.host.systemdCgroup),
    }),
    isKnown,
    removing,
  );
}

/** A repair that fails or hangs is logged, and recovery continues: its pod is left unchanged. */
async function repaired(id: string, repair: () => Promise<unknown>): Promise<boolean> {
  return withLogContext({}, async () => {
    try {
      await inTime(repair());
      return true;
    } catch (error) {
      log.error({ id, error: toCrispError(error).report }, 'recovery of a record failed');
      return false;
    }
  });
}

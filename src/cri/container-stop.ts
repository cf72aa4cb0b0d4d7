// StopContainer and RemoveContainer.
import { CrispError } from '../errors.js';
import { first, within } from '../host/wait.js';
import { log } from '../log.js';
import { step } from '../steps.js';
import { signalNumber } from '../oci/signals.js';
import { containerState, type ContainerRecord } from '../records/records.js';
import type { Deadline } from '../records/stops.js';
import type { RemoveContainerRequest__Output } from './generated/runtime/v1/RemoveContainerRequest.js';
import type { RemoveContainerResponse } from './generated/runtime/v1/RemoveContainerResponse.js';
import type { StopContainerRequest__Output } from './generated/runtime/v1/StopContainerRequest.js';
import type { StopContainerResponse } from './generated/runtime/v1/StopContainerResponse.js';
import { recordIfEnded } from './exits.js';
import { releaseContainer } from '../pod/container.js';
import { backendOf, containerIfThere, refOf } from './lookup.js';
import type { Services } from './services.js';
import { isShown } from './shown.js';

const SIGKILL = 9;
/** After SIGKILL, how long a process may take to end before an error (it may be stuck in the kernel). */
const killPatienceMs = 10_000;
/** After SIGKILL, how long to wait for the report of the monitor before checking directly. */
const lookAfterMs = 2_000;

/**
 * StopContainer: the stop signal, then SIGKILL after `timeout` seconds. No error if the container does not
 * exist or has exited.
 * @throws InvalidArgument for a negative timeout; ToolTimeout if its process does not end
 */
export async function stopContainer(
  services: Services,
  request: StopContainerRequest__Output,
): Promise<StopContainerResponse> {
  const known = containerIfThere(services, request.container_id);
  if (!known) return {}; // removed already: counts as stopped
  const timeoutMs = Number(request.timeout) * 1000;
  if (timeoutMs < 0)
    throw new CrispError('InvalidArgument', `timeout is ${request.timeout} s: it must not be negative`);
  await stopContainerRecord(services, known.id, timeoutMs);
  return {};
}

/**
 * Stops a container; no error if it has exited, is incomplete or does not exist. A start in
 * progress is awaited first: until then it is not known whether there is a process.
 */
export async function stopContainerRecord(services: Services, id: string, timeoutMs: number): Promise<void> {
  await services.stops.started(id);
  const record = services.store.containers.get(id);
  if (!record?.complete || record.exit) return;
  await services.stops.join(id, timeoutMs, (deadline) => stop(services, record, timeoutMs, deadline));
}

async function stop(
  services: Services,
  record: ContainerRecord,
  timeoutMs: number,
  deadline: Deadline,
): Promise<void> {
  const backend = backendOf(services, record);
  const exit = services.stops.exitOf(record.id);
  try {
    // 1. Send the stop signal, and wait for the grace period. A container that was never started has no process.
    if (timeoutMs > 0 && containerState(record) === 'CONTAINER_RUNNING') {
      await step('stop container: signal', () =>
        backend.kill(refOf(record), signalNumber(record.stopSignal)),
      );
      if (await first(exit.seen, deadline.passed)) return;
    }
    // 2. Kill.
    await step('stop container: kill', () => backend.kill(refOf(record), SIGKILL));
    if (await within(exit.seen, lookAfterMs)) return;
    // 3. No exit was reported: the monitor may be gone.
    await backend.kill(refOf(record), SIGKILL, true);
    if (await recordIfEnded(services, record)) return;
    if (await within(exit.seen, killPatienceMs)) return;
    throw new CrispError(
      'ToolTimeout',
      `container ${record.id} did not end ${killPatienceMs / 1000} s after SIGKILL`,
      {
        stage: 'stop container',
        hint: 'its process is stuck in the kernel: see /proc/PID/stack and the kernel log',
      },
    );
  } finally {
    exit.forget();
  }
}

/** RemoveContainer: also kills it. No error if it does not exist. */
export async function removeContainer(
  services: Services,
  request: RemoveContainerRequest__Output,
): Promise<RemoveContainerResponse> {
  const known = containerIfThere(services, request.container_id);
  if (!known) return {};
  await services.locks.with(known.sandboxId, () => removeContainerRecord(services, known.id));
  return {};
}

/** Kills and removes it; no error if it does not exist. The caller has the sandbox's lock. */
export async function removeContainerRecord(services: Services, id: string): Promise<void> {
  await stopContainerRecord(services, id, 0);
  const record = services.store.containers.get(id);
  if (!record) return;
  await step('remove container: container', () => backendOf(services, record).delete(refOf(record)));
  await releaseContainer(services, record);
  await step('remove container: record', () => services.store.containers.delete(id)); // last: until here a retry finds the rest
  log.info('container removed');
  if (isShown(services, record))
    services.events.emit('CONTAINER_DELETED_EVENT', id, services.store.sandboxes.get(record.sandboxId));
}

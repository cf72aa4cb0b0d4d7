// StopContainer and RemoveContainer, and the one place where exits are recorded.
import type { Exit } from '../backends/backend.js';
import { CrispError } from '../errors.js';
import { remove } from '../host/files.js';
import { addLogContext, log, withLogContext } from '../log.js';
import { signalNumber } from '../oci/signals.js';
import { metrics } from '../metrics.js';
import { containerState, now, type ContainerRecord } from '../records/records.js';
import type { RemoveContainerRequest__Output } from './generated/runtime/v1/RemoveContainerRequest.js';
import type { RemoveContainerResponse } from './generated/runtime/v1/RemoveContainerResponse.js';
import type { StopContainerRequest__Output } from './generated/runtime/v1/StopContainerRequest.js';
import type { StopContainerResponse } from './generated/runtime/v1/StopContainerResponse.js';
import { unmountImageVolumes } from './image-volumes.js';
import { backendOf, isShown, recordOf, refOf, type Parts } from './parts.js';

const SIGKILL = 9;
/** After SIGKILL, how long a process may take to die (it may be stuck in the kernel) before we say so. */
const killPatienceMs = 10_000;
/** After SIGKILL, when we stop to rely on the monitor and look for ourselves. */
const lookAfterMs = 2_000;
/** How long a monitor may take from the end of a process to telling it, on a machine that is very busy. */
const tellPatienceMs = 10_000;

/** Starts and stops under way, and who waits for which exit. */
export class Stops {
  private readonly starts = new Map<string, Promise<void>>();
  private readonly stops = new Map<
    string,
    { readonly done: Promise<void>; shorten(deadlineMs: number): void }
  >();
  private readonly waiters = new Map<string, Set<() => void>>();

  /** Runs a start. The container's exit is recorded after it: a process may have ended before its runtime says that it started. */
  async whileStarting(id: string, start: () => Promise<void>): Promise<void> {
    const done = start().finally(() => this.starts.delete(id));
    this.starts.set(id, done);
    return done;
  }

  isStopping(id: string): boolean {
    return this.stops.has(id);
  }
  /** Resolves when no start of the container is under way. */
  async started(id: string): Promise<void> {
    while (this.starts.has(id)) await this.starts.get(id)?.catch(() => undefined);
  }

  /** Runs one stop per container; whoever comes later joins it, and can only bring its deadline forward. */
  async join(id: string, timeoutMs: number, begin: (deadline: Deadline) => Promise<void>): Promise<void> {
    const present = this.stops.get(id);
    if (present) {
      present.shorten(timeoutMs);
      return present.done;
    }
    const deadline = new Deadline(timeoutMs);
    const done = begin(deadline).finally(() => {
      this.stops.delete(id);
      deadline.clear();
    });
    this.stops.set(id, { done, shorten: (ms) => deadline.shorten(ms) });
    return done;
  }

  /** Resolves at the exit of a container. */
  exitOf(id: string): { readonly seen: Promise<void>; forget(): void } {
    const waiters = this.waiters.get(id) ?? new Set();
    this.waiters.set(id, waiters);
    let wake: () => void = () => undefined;
    const seen = new Promise<void>((resolve) => {
      wake = resolve;
      waiters.add(wake);
    });
    return {
      seen,
      forget: () => {
        waiters.delete(wake);
        if (waiters.size === 0) this.waiters.delete(id);
      },
    };
  }

  exited(id: string): void {
    for (const wake of this.waiters.get(id) ?? []) wake();
  }
}

/** A point in time that can be brought forward while somebody waits for it. */
class Deadline {
  readonly passed: Promise<void>;
  private end: () => void = () => undefined;
  private atMs = Infinity;
  private timer: NodeJS.Timeout | undefined;

  constructor(timeoutMs: number) {
    this.passed = new Promise((resolve) => {
      this.end = resolve;
    });
    this.shorten(timeoutMs);
  }

  shorten(timeoutMs: number): void {
    const atMs = Date.now() + timeoutMs;
    if (atMs >= this.atMs) return;
    this.atMs = atMs;
    clearTimeout(this.timer);
    this.timer = setTimeout(this.end, Math.min(timeoutMs, 2 ** 31 - 1)); // setTimeout's range
  }

  clear(): void {
    clearTimeout(this.timer);
  }
}

export async function stopContainer(
  parts: Parts,
  request: StopContainerRequest__Output,
): Promise<StopContainerResponse> {
  const known = recordOf(parts, parts.store.containers, request.container_id, 'container_id');
  if (!known) return {}; // gone already: as good as stopped
  const { id } = known;
  addLogContext({ containerId: id, podId: known.sandboxId });
  const timeoutMs = Number(request.timeout) * 1000;
  if (timeoutMs < 0)
    throw new CrispError('InvalidArgument', `timeout is ${request.timeout} s: it must not be negative`);
  await stopContainerRecord(parts, id, timeoutMs);
  return {};
}

/**
 * Stops a container; one that has exited, that was never made whole, or that nobody knows, is fine.
 * A start that is under way comes first: nobody can tell yet whether there is a process to ask.
 */
export async function stopContainerRecord(parts: Parts, id: string, timeoutMs: number): Promise<void> {
  await parts.stops.started(id);
  const record = parts.store.containers.get(id);
  if (!record?.complete || record.exit) return;
  await parts.stops.join(id, timeoutMs, (deadline) => stop(parts, record, timeoutMs, deadline));
}

async function stop(
  parts: Parts,
  record: ContainerRecord,
  timeoutMs: number,
  deadline: Deadline,
): Promise<void> {
  const backend = backendOf(parts, record);
  const exit = parts.stops.exitOf(record.id);
  try {
    if (parts.store.containers.get(record.id)?.exit) return;
    // 1. Ask, and wait for the grace period. A container that was never started has nobody to ask.
    if (timeoutMs > 0 && containerState(record) === 'CONTAINER_RUNNING') {
      await backend.kill(refOf(record), signalNumber(record.stopSignal));
      if (await first(exit.seen, deadline.passed)) return;
    }
    // 2. Kill.
    await backend.kill(refOf(record), SIGKILL);
    if (await first(exit.seen, after(lookAfterMs))) return;
    // 3. No exit was told: the monitor may be gone.
    await backend.kill(refOf(record), SIGKILL, true);
    if (await recordIfEnded(parts, record)) return;
    if (await first(exit.seen, after(killPatienceMs))) return;
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

/** Asks the backend what has become of a container. */
async function recordIfEnded(parts: Parts, record: ContainerRecord): Promise<boolean> {
  const alive = (await backendOf(parts, record).survey([refOf(record)])).get(record.id);
  if (alive?.status !== 'stopped' && alive?.status !== 'missing') return false;
  await recordExit(parts, record.id, alive.status === 'stopped' ? alive.exit : undefined);
  return true;
}

/**
 * The monitor of a container is gone: an error in the log, in the metrics and in
 * the status; then, by runtime.lost_monitor, the container goes on without a log,
 * or is ended.  Of one that has ended as well, the exit is recorded.
 */
export async function monitorLost(parts: Parts, id: string): Promise<void> {
  await withLogContext({ containerId: id }, async () => {
    const record = parts.store.containers.get(id);
    if (!record || containerState(record) === 'CONTAINER_EXITED') return;
    const policy = parts.config.runtime.lost_monitor;
    if (!record.unwatchedAt) {
      metrics.monitorsLost.add({ handler: record.handler });
      const changed = await parts.store.containers.change(id, { unwatchedAt: now() });
      log.error(
        { podId: record.sandboxId, policy },
        'the monitor of a container has ended: its log is cut, and its exit will not be told',
      );
      // The CRI has no event for it; a listener gets the present status, as at its connection.
      if (changed && isShown(parts, changed) && containerState(changed) === 'CONTAINER_RUNNING')
        parts.events.emit('CONTAINER_STARTED_EVENT', id, parts.store.sandboxes.get(record.sandboxId));
    }
    if (await recordIfEnded(parts, record)) return;
    if (policy === 'end') await stopContainerRecord(parts, id, 0);
  });
}

/** Until `signal` aborts: looks for exits that nobody told, every ten seconds. Never rejects. */
export async function watchForLostExits(parts: Parts, signal: AbortSignal): Promise<void> {
  for (await after(tellPatienceMs); !signal.aborted; await after(tellPatienceMs))
    await recordLostExits(parts);
}

/**
 * Records the exits that nobody told, or that could not be read or written when
 * they were told: where the process of a container is gone and its monitor has
 * had its time.
 */
async function recordLostExits(parts: Parts): Promise<void> {
  await Promise.all(
    parts.store.containers.all().map(async (record) => {
      if (containerState(record) !== 'CONTAINER_RUNNING') return;
      const exit = parts.stops.exitOf(record.id);
      try {
        if (
          !(await backendOf(parts, record).inDoubt(refOf(record))) ||
          (await first(exit.seen, after(tellPatienceMs)))
        )
          return;
        if (await recordIfEnded(parts, record))
          log.warn({ containerId: record.id }, 'a container has ended, and its monitor has not told');
      } catch (error) {
        log.error(
          { err: error, containerId: record.id },
          'a container has ended, and its exit is not recorded',
        );
      } finally {
        exit.forget();
      }
    }),
  );
}

/**
 * The one writer of exits: the backend's listener, a stop or a look that found
 * the monitor gone, and recovery end here.  Only the first exit counts.
 * @param exit undefined: it has ended, nobody knows how
 */
export async function recordExit(parts: Parts, id: string, exit: Exit | undefined): Promise<void> {
  await parts.stops.started(id);
  await withLogContext({ containerId: id }, async () => {
    let first = false;
    const record = await parts.store.containers.change(id, (present) => {
      first = present.exit === undefined;
      return first ? { exit: exitOf(present, exit) } : {};
    });
    if (!record) return;
    parts.stops.exited(id);
    if (!first) return;
    log.info({ exit: record.exit, podId: record.sandboxId }, 'container exited');
    if (isShown(parts, record))
      parts.events.emit('CONTAINER_STOPPED_EVENT', id, parts.store.sandboxes.get(record.sandboxId));
  });
}

/** The kubelet compares times, so an exit is never before its start, whatever the file system's clock says. */
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

export async function removeContainer(
  parts: Parts,
  request: RemoveContainerRequest__Output,
): Promise<RemoveContainerResponse> {
  const known = recordOf(parts, parts.store.containers, request.container_id, 'container_id');
  if (!known) return {};
  const { id, sandboxId } = known;
  addLogContext({ containerId: id, podId: sandboxId });
  await parts.locks.with(sandboxId, () => removeContainerRecord(parts, id));
  return {};
}

/** Stops by force and removes; absent is fine. The caller holds the sandbox's lock. */
export async function removeContainerRecord(parts: Parts, id: string): Promise<void> {
  await stopContainerRecord(parts, id, 0);
  const record = parts.store.containers.get(id);
  if (!record) return;
  await backendOf(parts, record).delete(refOf(record));
  await parts.rootfs.unmount(id);
  await unmountImageVolumes(parts, record);
  await remove(record.folder);
  await parts.store.containers.delete(id); // last: until here a retry finds what is left to do
  log.info('container removed');
  if (isShown(parts, record))
    parts.events.emit('CONTAINER_DELETED_EVENT', id, parts.store.sandboxes.get(record.sandboxId));
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}

/** Whether `wanted` comes before `other`. */
async function first(wanted: Promise<void>, other: Promise<void>): Promise<boolean> {
  return Promise.race([wanted.then(() => true), other.then(() => false)]);
}

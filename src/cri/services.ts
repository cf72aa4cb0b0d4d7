// What the stories of cri/ speak to, built once by daemon.ts, and the few
// sentences that all of them open with.
import type { Backend, ContainerRef } from '../backends/backend.js';
import type { Config } from '../config/config.js';
import { CrispError } from '../errors.js';
import type { Images } from '../images/store.js';
import type { Rootfs } from '../images/rootfs.js';
import { isAlive } from '../host/proc.js';
import { addLogContext, log } from '../log.js';
import type { Network } from '../network/cni.js';
import type { HostFacts } from '../oci/host-facts.js';
import type { InFlight } from '../records/creations.js';
import type { Locks } from '../records/locks.js';
import {
  containerState,
  now,
  sandboxState,
  type ContainerRecord,
  type SandboxRecord,
} from '../records/records.js';
import type { RecordTable, Store } from '../records/store.js';
import type { StreamingServer } from '../streaming/server.js';
import type { Events } from './event-log.js';
import { isShown } from './shown.js';
import type { Handler } from './handlers.js';
import type { Stops } from '../records/stops.js';
import type { UsageCache } from './usage-cache.js';

export interface Services {
  /** Replaced at SIGHUP. */
  config: Config;
  /** crisp's own version. */
  readonly version: string;
  readonly bootId: string;
  readonly host: HostFacts;
  readonly store: Store;
  readonly locks: Locks;
  readonly creations: InFlight;
  readonly stops: Stops;
  readonly handlers: ReadonlyMap<string, Handler>;
  readonly network: Network;
  readonly images: Images;
  readonly rootfs: Rootfs;
  readonly usageCache: UsageCache;
  readonly events: Events;
  readonly streaming: StreamingServer;
}

/** One call of a client. */
export interface Call {
  readonly requestId: string;
  /** Aborts when the client goes away or its deadline passes. */
  readonly signal: AbortSignal;
}

/** How many ids the error about an ambiguous one names. */
const namedCandidates = 10;

/**
 * The record that an id means: a whole id, or the beginning of exactly one id of
 * those that clients are told of (tools such as crictl print ids cut short).
 * @param field the field of the request, for the error
 * @returns undefined: there is none
 * @throws InvalidArgument when the id is empty, or fits several; RecordUnreadable
 */
export function recordOf<T extends { readonly id: string; readonly complete: boolean }>(
  services: Pick<Services, 'creations'>,
  table: RecordTable<T>,
  id: string,
  field: string,
): T | undefined {
  if (!id) throw new CrispError('InvalidArgument', `${field} is empty`);
  const exact = table.get(id);
  if (exact) return exact;
  table.checkReadable(id);
  const fitting = table.all().filter((record) => record.id.startsWith(id) && isShown(services, record));
  if (fitting.length > 1) {
    const named = fitting.slice(0, namedCandidates).map((record) => record.id);
    const more = fitting.length > named.length ? ` and ${fitting.length - named.length} more` : '';
    throw new CrispError(
      'InvalidArgument',
      `${field}: "${id}" is the beginning of ${fitting.length} ids: ${named.join(', ')}${more}`,
      { hint: 'give more digits of the id' },
    );
  }
  return fitting[0];
}

/** The whole id that the id of a filter means; one that nobody has stays as it is. @throws InvalidArgument when it fits several */
export function wholeId<T extends { readonly id: string; readonly complete: boolean }>(
  services: Pick<Services, 'creations'>,
  table: RecordTable<T>,
  id: string,
  field: string,
): string {
  return id ? (recordOf(services, table, id, field)?.id ?? id) : '';
}

/** The sandbox of this id; one that nobody has got yet is not there. @throws InvalidArgument, SandboxNotFound, RecordUnreadable */
export function sandboxOf(services: Services, id: string): SandboxRecord {
  const record = recordOf(services, services.store.sandboxes, id, 'pod_sandbox_id');
  addLogContext({ podId: record?.id ?? id });
  if (!record || services.creations.hides(record.id))
    throw new CrispError('SandboxNotFound', `there is no pod sandbox ${id}`);
  return record;
}

/**
 * The record with what has become of the pod.  Anybody in a shared pid namespace
 * can end its holder, the kernel then ends all that runs there, and nobody tells
 * us: so whoever asks for the pod looks.
 */
export async function withHolderChecked(services: Services, record: SandboxRecord): Promise<SandboxRecord> {
  if (!record.holder || sandboxState(record) !== 'SANDBOX_READY' || (await isAlive(record.holder)))
    return record;
  const ended = (await services.store.sandboxes.change(record.id, { endedAt: now() })) ?? {
    ...record,
    endedAt: now(),
  };
  log.warn(
    { podId: record.id, holder: record.holder.pid },
    'the holder of the pid namespace of a pod has ended: the pod is not ready any more',
  );
  services.events.emit('CONTAINER_STOPPED_EVENT', record.id, ended);
  return ended;
}

/** @throws SandboxNotReady */
export async function readySandboxOf(services: Services, id: string): Promise<SandboxRecord> {
  const record = await withHolderChecked(services, sandboxOf(services, id));
  if (sandboxState(record) !== 'SANDBOX_READY')
    throw new CrispError('SandboxNotReady', `pod sandbox ${id} is not ready`);
  return record;
}

/** The container of this id; one that nobody has got yet is not there. @throws InvalidArgument, ContainerNotFound, RecordUnreadable */
export function containerOf(services: Services, id: string): ContainerRecord {
  const record = recordOf(services, services.store.containers, id, 'container_id');
  addLogContext({ containerId: record?.id ?? id });
  if (!record || services.creations.hides(record.id))
    throw new CrispError('ContainerNotFound', `there is no container ${id}`);
  addLogContext({ podId: record.sandboxId });
  return record;
}

/** @throws WrongContainerState */
export function runningContainerOf(services: Services, id: string): ContainerRecord {
  const record = containerOf(services, id);
  const state = containerState(record);
  if (state !== 'CONTAINER_RUNNING')
    throw new CrispError('WrongContainerState', `container ${id} is not running (${state})`);
  return record;
}

/** The backend that runs a pod or container; its name was checked when the record was made or loaded. */
export function backendOf(services: Services, record: { readonly handler: string }): Backend {
  const handler = services.handlers.get(record.handler);
  if (!handler)
    throw new CrispError(
      'UnknownHandler',
      `the runtime handler "${record.handler}" of this pod is not configured any more`,
    );
  return handler.backend;
}

export function refOf(record: ContainerRecord): ContainerRef {
  return { id: record.id, folder: record.folder, logPath: record.logPath, state: record.backendState };
}

// From the ids of a request to records, and from a record to its backend: the first
// step of most calls.
import type { Backend, ContainerRef } from '../backends/backend.js';
import { CrispError } from '../errors.js';
import { addLogContext } from '../log.js';
import {
  containerState,
  sandboxState,
  type ContainerRecord,
  type SandboxRecord,
} from '../records/records.js';
import type { RecordTable } from '../records/store.js';
import { withHolderChecked } from './holder-lost.js';
import type { Services } from './services.js';
import { isShown, type Shown } from './shown.js';

/** The maximum number of ids in the error for an ambiguous id. */
const namedCandidates = 10;

/**
 * The record of an id: a full id, or a prefix of exactly one visible id (tools
 * such as crictl print shortened ids).
 * @param field the field of the request, for the error
 * @returns undefined: there is none
 * @throws InvalidArgument if the id is empty or ambiguous; RecordUnreadable
 */
function recordOf<T extends { readonly id: string; readonly complete: boolean }>(
  services: Pick<Shown, 'creations'>,
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

/**
 * The full id for the id of a filter; an unknown id is returned unchanged.
 * @throws InvalidArgument if ambiguous
 */
export function wholeId<T extends { readonly id: string; readonly complete: boolean }>(
  services: Pick<Shown, 'creations'>,
  table: RecordTable<T>,
  id: string,
  field: string,
): string {
  return id ? (recordOf(services, table, id, field)?.id ?? id) : '';
}

/** A filter with full ids. @throws InvalidArgument for an ambiguous one */
export function wholeIds<T extends { readonly id: string; readonly pod_sandbox_id: string }>(
  services: Shown,
  filter: T,
): T {
  const { containers, sandboxes } = services.store;
  return {
    ...filter,
    id: wholeId(services, containers, filter.id, 'filter.id'),
    pod_sandbox_id: wholeId(services, sandboxes, filter.pod_sandbox_id, 'filter.pod_sandbox_id'),
  };
}

/**
 * The sandbox of a request, also if hidden. For stops and removals, which succeed if it does not exist.
 * @returns undefined: there is none
 * @throws InvalidArgument, RecordUnreadable
 */
export function sandboxIfThere(services: Shown, id: string): SandboxRecord | undefined {
  const record = recordOf(services, services.store.sandboxes, id, 'pod_sandbox_id');
  addLogContext({ podId: record?.id ?? id });
  return record;
}

/** The visible sandbox of this id. @throws InvalidArgument, SandboxNotFound, RecordUnreadable */
export function sandboxOf(services: Shown, id: string): SandboxRecord {
  const record = sandboxIfThere(services, id);
  if (!record || services.creations.hides(record.id))
    throw new CrispError('SandboxNotFound', `there is no pod sandbox ${id}`);
  return record;
}

/** The sandbox of this id while it is ready. @throws as sandboxOf(); SandboxNotReady */
export async function readySandboxOf(
  services: Shown & Pick<Services, 'events'>,
  id: string,
): Promise<SandboxRecord> {
  const record = await withHolderChecked(services, sandboxOf(services, id));
  if (sandboxState(record) !== 'SANDBOX_READY')
    throw new CrispError('SandboxNotReady', `pod sandbox ${id} is not ready`);
  return record;
}

/**
 * The container of a request, also if hidden. For stops and removals, which succeed if it does not exist.
 * @returns undefined: there is none
 * @throws InvalidArgument, RecordUnreadable
 */
export function containerIfThere(services: Shown, id: string): ContainerRecord | undefined {
  const record = recordOf(services, services.store.containers, id, 'container_id');
  addLogContext({ containerId: record?.id ?? id, ...(record ? { podId: record.sandboxId } : {}) });
  return record;
}

/** The visible container of this id. @throws InvalidArgument, ContainerNotFound, RecordUnreadable */
export function containerOf(services: Shown, id: string): ContainerRecord {
  const record = containerIfThere(services, id);
  if (!record || services.creations.hides(record.id))
    throw new CrispError('ContainerNotFound', `there is no container ${id}`);
  return record;
}

/** The container of this id while it runs. @throws as containerOf(); WrongContainerState */
export function runningContainerOf(services: Shown, id: string): ContainerRecord {
  const record = containerOf(services, id);
  const state = containerState(record);
  if (state !== 'CONTAINER_RUNNING')
    throw new CrispError('WrongContainerState', `container ${id} is not running (${state})`);
  return record;
}

/**
 * The backend that runs a pod or container; its name was checked when the record was made or loaded.
 * @throws UnknownHandler
 */
export function backendOf(
  services: Pick<Services, 'handlers'>,
  record: { readonly handler: string },
): Backend {
  const handler = services.handlers.get(record.handler);
  if (!handler)
    throw new CrispError(
      'UnknownHandler',
      `the runtime handler "${record.handler}" of this pod is not configured any more`,
    );
  return handler.backend;
}

/** The reference to a container for its backend. */
export function refOf(record: ContainerRecord): ContainerRef {
  return { id: record.id, folder: record.folder, logPath: record.logPath, state: record.backendState };
}

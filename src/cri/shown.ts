// The pods and containers that are visible to clients: they are complete, and a
// caller has their id. Objects that are being made or are unclaimed are hidden.
import type { InFlight } from '../records/creations.js';
import { compareTimes, type ContainerRecord } from '../records/records.js';
import type { Store } from '../records/store.js';

/** The services that determine which records are visible. */
export interface Shown {
  readonly store: Store;
  readonly creations: InFlight;
}

/** Whether a pod or container is visible: it is complete, and a caller has its id. */
export function isShown(
  { creations }: Pick<Shown, 'creations'>,
  record: { readonly id: string; readonly complete: boolean },
): boolean {
  return record.complete && !creations.hides(record.id);
}

/**
 * The visible containers of a pod, the newest first: a kubelet that uses the first one of a name gets the
 * current one.
 */
export function shownContainersOf(services: Shown, sandboxId: string): ContainerRecord[] {
  return services.store
    .containersOf(sandboxId)
    .filter((record) => isShown(services, record))
    .sort((one, other) => compareTimes(other.createdAt, one.createdAt));
}

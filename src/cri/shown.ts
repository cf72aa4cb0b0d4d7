// What clients are told of: a pod or container that is whole, and whose caller has
// its id. One that is being made, or whose caller went away, is hidden.
import type { InFlight } from '../records/creations.js';
import { compareTimes, type ContainerRecord } from '../records/records.js';
import type { Store } from '../records/store.js';

/** The services that tell which records clients may see. */
export interface Shown {
  readonly store: Store;
  readonly creations: InFlight;
}

/** Whether clients are told of a pod or container: it is whole, and its caller has its id. */
export function isShown(
  { creations }: Pick<Shown, 'creations'>,
  record: { readonly id: string; readonly complete: boolean },
): boolean {
  return record.complete && !creations.hides(record.id);
}

/** The containers of a pod that clients are told of, the newest first: where a kubelet takes the first one of a name, it is the present one. */
export function shownContainersOf(services: Shown, sandboxId: string): ContainerRecord[] {
  return services.store
    .containersOf(sandboxId)
    .filter((record) => isShown(services, record))
    .sort((one, other) => compareTimes(other.createdAt, one.createdAt));
}

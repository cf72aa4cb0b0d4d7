// A store of containers-storage(5), as skopeo and containers-storage(1) name it.
// Called by pull.ts.
import type { StorageLayout } from './layout.js';

export interface StorePlace {
  readonly layout: StorageLayout;
  /** The runtime folder of the store. */
  readonly runRoot: string;
}

/** Otherwise the driver would leave a bind mount of its folder on itself. */
const storageOption = 'overlay.skip_mount_home=true';

/** The store's name in containers-storage syntax, for skopeo. */
export function storageName({ layout, runRoot }: StorePlace): string {
  return `[overlay@${layout.root}+${runRoot}:${storageOption}]`;
}

/** The argv of containers-storage(1). */
export function storageCommand(
  { layout, runRoot }: StorePlace,
  ...words: readonly string[]
): [string, ...string[]] {
  return [
    'containers-storage',
    ...['--graph', layout.root],
    ...['--run', runRoot],
    ...['--storage-driver', 'overlay'],
    ...['--storage-opt', storageOption],
    ...words,
  ];
}

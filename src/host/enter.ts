// Short work in other namespaces, on the only thread that runs JavaScript code.
//
// Namespaces belong to a thread (setns(2)). The thread returns to its own before
// any other code runs on it: the work is synchronous, so neither a callback nor
// a new thread of Node, which would inherit the namespaces, can come in between.
// The threads of libuv's pool never leave theirs. A thread that cannot return
// would do everything else in a pod, so the daemon then exits; its restart is
// harmless.
import { closeSync, openSync } from 'node:fs';
import { log } from '../log.js';
import { namespaceFlag, setNamespace, unshare } from './syscalls.js';

type Kind = keyof typeof namespaceFlag;

/** The name of each kind under /proc/PID/ns. */
const fileName: Record<Kind, string> = { network: 'net', ipc: 'ipc', uts: 'uts' };
/** crisp's own namespaces, kept open after the first use. */
const home: Partial<Record<Kind, number>> = {};

/** Runs `work` in the namespaces pinned at these paths. It must be synchronous and short. */
export function inNamespaces<T extends number | void>(
  paths: Readonly<Partial<Record<Kind, string>>>,
  work: () => T,
): T {
  const kinds = (Object.keys(paths) as Kind[]).filter((kind) => paths[kind] !== undefined);
  const opened: number[] = [];
  try {
    for (const kind of kinds) opened.push(openSync(paths[kind] ?? '', 'r'));
    return away(
      kinds,
      () => {
        for (const fd of opened) setNamespace(fd);
      },
      work,
    );
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}

/** Runs `work` in new namespaces of these kinds, which end with their last reference. */
export function inNewNamespaces(kinds: readonly Kind[], work: () => void): void {
  away(
    kinds,
    () => {
      unshare(kinds.reduce((flags, kind) => flags | namespaceFlag[kind], 0));
    },
    work,
  );
}

/** The file of the thread's current namespace. */
export function currentNamespace(kind: Kind): string {
  return `/proc/thread-self/ns/${fileName[kind]}`;
}

function away<T>(kinds: readonly Kind[], leave: () => void, work: () => T): T {
  for (const kind of kinds) home[kind] ??= openSync(currentNamespace(kind), 'r');
  try {
    leave();
    return work();
  } finally {
    try {
      for (const kind of kinds) setNamespace(home[kind] ?? -1);
    } catch (error) {
      log.fatal({ err: error }, 'cannot leave the namespaces of a pod: the daemon exits');
      process.kill(process.pid, 'SIGKILL');
    }
  }
}

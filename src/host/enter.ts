// Work of a moment in other namespaces, on the one thread that runs all our code.
//
// Namespaces are a thread's (setns(2)).  The thread is back home before anybody
// else runs on it: the work is synchronous, so neither a callback nor a new
// thread of Node, which would inherit them, can come in between.  The threads of
// libuv's pool never leave home.  A thread that cannot come back would do
// everything else in a pod, so the daemon ends then; its restart is harmless.
import { closeSync, openSync } from 'node:fs';
import { log } from '../log.js';
import { namespaceFlag, setNamespace, unshare } from './syscalls.js';

type Kind = keyof typeof namespaceFlag;

/** The name of each kind under /proc/PID/ns. */
const fileName: Record<Kind, string> = { network: 'net', ipc: 'ipc', uts: 'uts' };
/** Our own namespaces, held open from the first time on. */
const home: Partial<Record<Kind, number>> = {};

/** Does something in the namespaces pinned at these paths. `work` returns at once; it cannot be asynchronous. */
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

/** Does something in new namespaces of these kinds, which go with the last thing that holds them. */
export function inNewNamespaces(kinds: readonly Kind[], work: () => void): void {
  away(
    kinds,
    () => {
      unshare(kinds.reduce((flags, kind) => flags | namespaceFlag[kind], 0));
    },
    work,
  );
}

/** The file of the namespace that the thread is in now. */
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
      log.fatal({ err: error }, 'the namespaces of a pod cannot be left: the daemon ends');
      process.kill(process.pid, 'SIGKILL');
    }
  }
}

// The ends of CTs: their exit files, and watchers that end before their CT.
import { killCgroup } from '../../host/cgroup.js';
import { identify, isAlive } from '../../host/proc.js';
import { waitUntil } from '../../host/wait.js';
import { log } from '../../log.js';
import type { ContainerRef, Exit } from '../backend.js';
import { exitWatched, watchExit } from '../exit-watch.js';
import { cgroupOf } from './cgroups.js';
import type { PctContext } from './context.js';
import { find } from './find.js';
import { stateOf } from './state.js';
import { holdWatch } from './watcher.js';

/** How often a CT without a watcher is checked. */
const unwatchedLookMs = 1_000;

/** Implements Backend.onExit: the watcher of a CT writes the exit. */
export function onExit(ctx: PctContext, listener: (containerId: string, exit: Exit) => void): void {
  ctx.exits.watch((id) => {
    const container = ctx.made.get(id);
    if (!container) return; // it is being deleted
    exitOf(ctx, container).then(
      (exit) => {
        if (exit) listener(id, exit);
      },
      (error: unknown) => log.error({ err: error, containerId: id }, 'exit file not read'),
    );
  });
}

/** Detects the end of a watcher: an idle connection to it is closed then. */
export async function holdWatcher(ctx: PctContext, container: ContainerRef): Promise<void> {
  const { id } = container;
  if (ctx.watched.has(id)) return;
  ctx.watched.set(id, () => undefined);
  const lost = async (): Promise<void> => {
    // A watcher ends with its CT, after it has written the exit; delete() ends it too.
    if (!ctx.made.has(id) || (await ctx.exits.read(id, container.folder))) return;
    const process = ctx.processes.get(id);
    const watch =
      process && (await isAlive(process))
        ? await watchExit(container.folder, process, ctx.exits.path(id))
        : undefined;
    ctx.monitorLost(id);
    // Without a watcher the end of the CT is not reported, so it is polled.
    await waitUntil(async () => !ctx.made.has(id) || inDoubt(ctx, container), { everyMs: unwatchedLookMs });
    await exitWatched(watch);
    if (ctx.made.has(id) && !(await ctx.exits.read(id, container.folder))) ctx.monitorLost(id);
  };
  const ended = (): void => {
    lost().catch((error: unknown) =>
      log.error({ err: error, containerId: id }, "the end of a CT's watcher could not be handled"),
    );
  };
  const hold = await holdWatch(container, ended);
  if (hold && ctx.watched.has(id)) ctx.watched.set(id, hold);
  else if (hold)
    hold(); // deleted meanwhile
  else if (!(await ctx.exits.read(id, container.folder))) ended();
}

/** Implements Backend.inDoubt: true if the first process of the CT has ended or is not known. */
export async function inDoubt(ctx: PctContext, { id }: ContainerRef): Promise<boolean> {
  const process = ctx.processes.get(id);
  return process === undefined || !(await isAlive(process));
}

/** Remembers the first process of a running CT. */
export async function remember(ctx: PctContext, id: string, pid: number | undefined): Promise<void> {
  const process = pid === undefined ? undefined : await identify(pid);
  if (process) ctx.processes.set(id, process);
}

/** The exit of a container, after its remaining processes were ended; undefined: none was written. */
export async function exitOf(ctx: PctContext, container: ContainerRef): Promise<Exit | undefined> {
  const exit = await ctx.exits.read(container.id, container.folder);
  if (exit) await endRest(ctx, container);
  return exit;
}

/**
 * The remaining processes of a CT in a shared pid namespace, which do not end with its first process: they
 * would keep its ports and its memory.
 */
export async function endRest(ctx: PctContext, container: ContainerRef): Promise<void> {
  if (stateOf(container)?.ownPidNamespace) return;
  try {
    const found = await find(ctx, container);
    if (found) await killCgroup(cgroupOf(found.vmid));
  } catch (error) {
    log.error({ err: error, containerId: container.id }, 'a CT has ended, but not all its processes');
  }
}

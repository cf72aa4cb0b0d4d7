// Finds the CTs at the start of the daemon.
import { join } from 'node:path';
import { CrispError } from '../../errors.js';
import { makeClosedFolder } from '../../host/files.js';
import { log } from '../../log.js';
import type { Alive, ContainerRef, FoundContainer } from '../backend.js';
import type { PctContext } from './context.js';
import { find, initPid, mine } from './find.js';
import { keepReadable } from './remove.js';
import { wasStarted } from './start.js';
import type { PctState } from './state.js';
import { exitOf, holdWatcher, remember, endRest } from './watch.js';
import { wakeWatcher } from './watcher.js';

/** Implements Backend.survey. A CT with another owner counts as missing. */
export async function survey(ctx: PctContext, container: ContainerRef): Promise<Alive> {
  ctx.made.set(container.id, container);
  const exit = await exitOf(ctx, container);
  if (exit) return { status: 'stopped', exit };
  const found = await find(ctx, container).catch((error: unknown) => {
    if (!(error instanceof CrispError) || error.id !== 'ForeignGuest') throw error;
    log.error({ error: error.report, containerId: container.id }, 'the CT of a container is not ours');
    return undefined;
  });
  if (!found) return { status: 'missing' };
  const pid = await initPid(ctx, found.vmid);
  await remember(ctx, container.id, pid);
  if (pid !== undefined && (await wasStarted(container))) await holdWatcher(ctx, container);
  if (pid !== undefined) return { status: 'running', pid };
  if (!(await wasStarted(container))) return { status: 'created', pid: 0 };
  await endRest(ctx, container);
  return { status: 'stopped', exit: undefined };
}

/** Implements Backend.list: the CTs of this node with the mark of this owner. */
export async function list(ctx: PctContext): Promise<FoundContainer[]> {
  return [...(await ctx.guard.all())].flatMap(([vmid, { mark, recoveryLabel }]): FoundContainer[] =>
    mark
      ? [
          {
            id: mark.containerId,
            folder: join(ctx.options.state, 'bundles', mark.containerId),
            logPath: '',
            recoveryLabel:
              recoveryLabel && (ctx.seal.fits(mark, recoveryLabel) ? recoveryLabel.text : 'forged'),
            state: { vmid, uid: 0, stdin: 'none', terminal: false } satisfies PctState,
          },
        ]
      : [],
  );
}

/** The watcher of a CT runs as long as the CT, and has a copy of the bundle's files. */
export async function reclaim(ctx: PctContext, container: ContainerRef): Promise<number | undefined> {
  const { vmid } = await mine(ctx, container);
  makeClosedFolder(container.folder); // the CT is running: nothing else will be mounted from this folder
  const watched = await wakeWatcher(vmid, container);
  if (!watched) await keepReadable(container);
  const pid = await initPid(ctx, vmid);
  if (pid !== undefined && !watched)
    log.error(
      { containerId: container.id, vmid },
      'a CT is running without its watcher: its log ends here, and its exit will not be reported',
    );
  return pid;
}

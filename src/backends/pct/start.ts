// Runs a CT: its watcher, then `pct start`.
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../../errors.js';
import { exists, readFileIfThere } from '../../host/files.js';
import { readTail } from '../../host/beneath.js';
import { untilServersAnswer } from '../../oci/inspect.js';
import { withWorkingFolder } from '../../oci/working-folder.js';
import { step } from '../../steps.js';
import type { ContainerRef } from '../backend.js';
import { linkLog } from '../log-file.js';
import { lxcLog } from './bundle.js';
import type { PctContext } from './context.js';
import { initPid, mine } from './find.js';
import type { GuestConfig } from './guest-config.js';
import { meaningOf } from './pct.js';
import { specOf, stateOf, type PctState } from './state.js';
import { holdWatcher, remember } from './watch.js';
import { fifo, permit, startWatcher, send, type WatcherPlan } from './watcher.js';

/**
 * Implements Backend.start: starts the watcher, then the CT.
 * @throws StartFailed, WrongContainerState, GuestMissing, ForeignGuest
 */
export async function start(ctx: PctContext, container: ContainerRef): Promise<{ pid: number }> {
  const { vmid, config } = await mine(ctx, container);
  const state = stateOf(container);
  if (!state) throw new CrispError('WrongContainerState', `container ${container.id} was never made`);
  await onlyOneOnBridge(ctx, vmid, config);
  const spec = await specOf(container);
  await withWorkingFolder(spec, spec.root.path); // again: another container may have changed a volume
  await send(container, 'quit'); // a watcher that waits for an interrupted start
  await step('start CT: watcher', () =>
    withLog(container, () => startWatcher(watcherPlan(ctx, container, state))),
  );
  try {
    await step('start CT: pct', () => ctx.pct.call('start', vmid));
  } catch (error) {
    const meaning = meaningOf(error);
    if (meaning !== 'exited at once' && meaning !== 'already running') {
      await send(container, 'quit');
      // Refused, not failed: the CT was not started, and can be started later.
      if (error instanceof CrispError && error.core === 'Locked') await forgetStart(container);
      throw await withLxcLog(error, vmid, container);
    }
  }
  return step('start CT: pid', async () => {
    const pid = await initPid(ctx, vmid);
    await remember(ctx, container.id, pid);
    await holdWatcher(ctx, container);
    return { pid: pid ?? 0 };
  });
}

function watcherPlan(
  ctx: PctContext,
  container: ContainerRef,
  { vmid, uid, stdin, terminal }: PctState,
): WatcherPlan {
  return {
    terminal,
    vmid,
    bundle: container.folder,
    lxcFolder: ctx.options.lxc.lxc_folder,
    uid,
    stdin,
    log: container.logPath !== '',
    exitFile: ctx.exits.path(container.id),
  };
}

/**
 * A net0 belongs to one CT: others in its namespace would lose the network when that CT ends. @throws
 * WrongContainerState while another CT of the pod runs
 */
async function onlyOneOnBridge(ctx: PctContext, vmid: number, { values }: GuestConfig): Promise<void> {
  const hardware = /(?:^|,)hwaddr=([^,]+)/.exec(values['net0'] ?? '')?.[1];
  if (hardware === undefined) return;
  for (const [other, config] of await ctx.guard.all()) {
    if (
      other === vmid ||
      !config.values['net0']?.includes(`hwaddr=${hardware}`) ||
      (await initPid(ctx, other)) === undefined
    )
      continue;
    throw new CrispError('WrongContainerState', `CT ${other} of this pod is running and has its network`, {
      stage: 'start',
      hint: 'a pod on a bridge runs one container at a time; use the CNI network for pods with several containers',
    });
  }
}

/**
 * The watcher makes its FIFOs, and the CT takes its permit: with both, crisp was killed before `pct start`.
 */
export async function wasStarted({ folder }: Pick<ContainerRef, 'folder'>): Promise<boolean> {
  return (await exists(join(folder, fifo.stdout))) && !(await exists(join(folder, permit)));
}

/** Restores the state before the failed start. */
async function forgetStart({ folder }: Pick<ContainerRef, 'folder'>): Promise<void> {
  for (const name of Object.values(fifo)) await rm(join(folder, name), { force: true });
}

/** The watcher opens the log meanwhile. */
export async function withLog<T>({ folder, logPath }: ContainerRef, work: () => Promise<T>): Promise<T> {
  if (logPath) await untilServersAnswer([['log', logPath]]);
  const close = logPath ? linkLog(folder, logPath) : undefined;
  return work().finally(close);
}

/** Enough for liblxc's messages about a failed start. */
const logBytes = 65_536;

/** liblxc's own messages are more detailed than pct's. */
async function withLxcLog(
  error: unknown,
  vmid: number,
  { folder, logPath }: Pick<ContainerRef, 'folder' | 'logPath'>,
): Promise<unknown> {
  const said = lxcWords(
    (await readFileIfThere(lxcLog(folder))) ?? '',
    (logPath && readTail(logPath, logBytes)) || '',
    vmid,
  );
  if (!said || !(error instanceof CrispError)) return error;
  return new CrispError(error.id, error.message, {
    stage: error.stage ?? 'start',
    tool: error.tool ?? 'pct',
    stderr: said,
    hint: error.hint,
    cause: error,
  });
}

/**
 * The first message is the cause, later ones are consequences. liblxc 5 writes
 * them to its log file; 6 only to the CT's stderr, and each line in several
 * writes, which may be separate lines in the container's log.
 */
export function lxcWords(ownLog: string, containerLog: string, vmid: number): string {
  const stderr = [...containerLog.matchAll(/^\S+ stderr ([FP]) (.*)$/gm)]
    .map(([, tag, text = '']) => (tag === 'F' ? `${text}\n` : text))
    .join('');
  const own = [...ownLog.matchAll(/^lxc-start .*? ERROR +\S+ - \S+ - (.*)$/gm)];
  const said =
    own.length > 0
      ? own
      : [...stderr.matchAll(new RegExp(`^lxc-start: ${vmid}: \\S+ \\w+: \\d+ (.*)$`, 'gm'))];
  return said
    .map(([, words = '']) => words)
    .slice(0, 4)
    .join('\n');
}

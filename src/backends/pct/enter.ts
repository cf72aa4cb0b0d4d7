// Enters a running CT: exec, attach, the size of its terminal.
import { join } from 'node:path';
import { exists } from '../../host/files.js';
import { identify, parentOf, signalProcess } from '../../host/proc.js';
import { log } from '../../log.js';
import type { Io, TerminalSize } from '../../shapes/io.js';
import type { ContainerRef, ExecPlan } from '../backend.js';
import { followSizes } from '../terminal-sizes.js';
import type { PctContext } from './context.js';
import { exec as lxcAttach } from './exec.js';
import { initPid, running } from './find.js';
import { specOf, stateOf } from './state.js';
import { attach as attachToWatcher, send } from './watcher.js';

/** Implements Backend.exec, with lxc-attach(1). */
export async function exec(
  ctx: PctContext,
  container: ContainerRef,
  plan: ExecPlan,
  signal: AbortSignal,
): Promise<{ exitCode: number }> {
  const vmid = await running(ctx, container);
  const { lxc } = ctx.options;
  const { process: own, root } = await specOf(container);
  // The rootfs of a reclaimed CT is mounted only in the CT's mount namespace.
  const rootfs = (await exists(root.path)) ? root.path : `/proc/${(await initPid(ctx, vmid)) ?? 0}/root`;
  return lxcAttach(
    {
      program: lxc.tools.lxc_attach,
      lxcFolder: lxc.lxc_folder,
      vmid,
      own,
      hostUid: stateOf(container)?.uid ?? 0,
      bundle: container.folder,
      hasShell: await exists(join(rootfs, 'bin/sh')),
    },
    plan,
    signal,
  );
}

/** Implements Backend.attach: the watcher of the CT passes on its streams. */
export async function attach(
  ctx: PctContext,
  container: ContainerRef,
  io: Io,
  signal: AbortSignal,
): Promise<void> {
  const vmid = await running(ctx, container);
  followSizes(io, (size) =>
    resize(ctx, container, vmid, size).catch((error: unknown) =>
      log.warn({ err: error, containerId: container.id }, 'terminal not resized'),
    ),
  );
  await attachToWatcher(container, io, signal);
}

/**
 * lxc-start passes a size on only after a signal: the terminal is not its controlling terminal, so the kernel
 * does not notify it.
 */
async function resize(
  ctx: PctContext,
  container: ContainerRef,
  vmid: number,
  { width, height }: TerminalSize,
): Promise<void> {
  await send(container, `resize ${height} ${width}`);
  const pid = await initPid(ctx, vmid);
  const parent = pid === undefined ? undefined : await parentOf(pid);
  const process = parent === undefined ? undefined : await identify(parent);
  if (process) await signalProcess(process, 'SIGWINCH');
}

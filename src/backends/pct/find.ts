// Finds the CT of a container, through the guard rail, and its state in liblxc.
import { CrispError } from '../../errors.js';
import { isAlive } from '../../host/proc.js';
import { run } from '../../host/run.js';
import type { ContainerRef } from '../backend.js';
import { guestsOf } from './cluster.js';
import type { PctContext } from './context.js';
import type { GuestConfig, Mark } from './guest-config.js';
import { ownerOf } from './options.js';
import { stateOf } from './state.js';

const infoTimeoutMs = 10_000;

/** The mark of a container's CT, for its description. */
export function mark(ctx: PctContext, vmid: number, containerId: string): Mark {
  return { owner: ownerOf(ctx.options), containerId, vmid: String(vmid) };
}

/** The CT of a container and its configuration. @throws GuestMissing, ForeignGuest */
export async function mine(
  ctx: PctContext,
  container: ContainerRef,
): Promise<{ vmid: number; config: GuestConfig }> {
  const found = await find(ctx, container);
  if (!found)
    throw new CrispError('GuestMissing', `the CT of container ${container.id} is not on this node`, {
      stage: 'find CT',
    });
  return found;
}

/**
 * Like mine(); if /etc/pve cannot be read, the last known CT if the container's process still runs in it.
 * @throws GuestMissing, ForeignGuest, NoQuorum
 */
export async function running(ctx: PctContext, container: ContainerRef): Promise<number> {
  try {
    return (await mine(ctx, container)).vmid;
  } catch (error) {
    const vmid = stateOf(container)?.vmid;
    const process = ctx.processes.get(container.id);
    if (!(error instanceof CrispError) || error.id !== 'NoQuorum' || !vmid || !process) throw error;
    if (!(await isAlive(process)) || (await initPid(ctx, vmid)) !== process.pid) throw error;
    return vmid;
  }
}

/**
 * undefined: it is gone. A container with an interrupted creation is found by its mark. @throws ForeignGuest
 */
export async function find(
  ctx: PctContext,
  container: ContainerRef,
): Promise<{ vmid: number; config: GuestConfig } | undefined> {
  const vmid = stateOf(container)?.vmid;
  if (vmid !== undefined) {
    const config = await ctx.guard.owned(vmid, container.id);
    return config && { vmid, config };
  }
  const [found] = [...(await ctx.guard.all())].filter(([, { mark }]) => mark?.containerId === container.id);
  return found && { vmid: found[0], config: found[1] };
}

/**
 * The id of a CT that was destroyed by others, or by a pct of an earlier run; undefined: not known, or in use
 * by another guest of the cluster.
 */
export async function formerVmid(ctx: PctContext, container: ContainerRef): Promise<number | undefined> {
  const vmid = stateOf(container)?.vmid;
  return vmid === undefined || (await guestsOf(ctx.options.lxc.pve_folder)).has(vmid) ? undefined : vmid;
}

/** undefined: it is not running. */
export async function initPid(ctx: PctContext, vmid: number): Promise<number | undefined> {
  const pid = Number((await lxcInfo(ctx, vmid, '-pH')).trim());
  return Number.isInteger(pid) && pid > 0 ? pid : undefined;
}

/**
 * Implements Backend.addresses, with lxc-info(1); without link-local ones.
 * @throws GuestMissing, ForeignGuest
 */
export async function addresses(ctx: PctContext, container: ContainerRef): Promise<string[]> {
  const { vmid } = await mine(ctx, container);
  return (await lxcInfo(ctx, vmid, '-iH'))
    .split('\n')
    .filter((address) => address !== '' && !address.startsWith('fe80:'));
}

async function lxcInfo(ctx: PctContext, vmid: number, option: string): Promise<string> {
  const { lxc } = ctx.options;
  const { stdout } = await run([lxc.tools.lxc_info, '-P', lxc.lxc_folder, '-n', String(vmid), option], {
    timeoutMs: infoTimeoutMs,
    okExitCodes: 'any',
    stage: 'lxc-info',
  });
  return stdout;
}

// Removes CTs, also after an interrupted removal.
import { appendFile, readdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { killCgroup, removeCgroup } from '../../host/cgroup.js';
import { makeClosedFolder, namesIn, remove } from '../../host/files.js';
import { waitUntilIdle, signalProcess } from '../../host/proc.js';
import { run } from '../../host/run.js';
import { waitUntil } from '../../host/wait.js';
import { log } from '../../log.js';
import { step } from '../../steps.js';
import type { ContainerRef, Remnant } from '../backend.js';
import { releaseBinds } from './binds.js';
import { includeFile } from './bundle.js';
import { cgroupOf, monitorCgroupOf } from './cgroups.js';
import { guestsOf } from './cluster.js';
import type { PctContext } from './context.js';
import { find, formerVmid } from './find.js';
import { isPctAtWork } from './intents.js';
import { meaningOf, type Meaning, type Pct } from './pct.js';
import { stateOf } from './state.js';
import { send, watcherName } from './watcher.js';

const endPatienceMs = 10_000;
const atWorkPauseMs = 100;

/**
 * Implements Backend.delete: kills the processes and destroys the CT.
 * @throws ForeignGuest, Locked, NoQuorum
 */
export async function removeContainer(ctx: PctContext, container: ContainerRef): Promise<void> {
  ctx.watched.get(container.id)?.(); // it ends its watcher itself
  ctx.watched.delete(container.id);
  if (!stateOf(container)) await step('remove CT: creation', () => waitUntilCreateEnds(ctx, container));
  await step('remove CT: remnants', () => endRemnantsOf(ctx, container.id));
  const found = await find(ctx, container);
  const vmid = found?.vmid ?? (await formerVmid(ctx, container));
  if (found) {
    // A killed `pct create` leaves its lock; the CT belongs to crisp, and no other task is making it.
    if (found.config.values['lock'] === 'create') await callUnless(ctx, 'not locked', 'unlock', found.vmid);
    await keepReadable(container);
    await step('remove CT: processes', () => killCgroup(cgroupOf(found.vmid))); // in a shared pid namespace processes remain after the end of init
    await removeAppArmor(join(ctx.options.lxc.lxc_folder, String(found.vmid), 'apparmor')).catch(
      (error: unknown) =>
        log.warn({ err: error, vmid: found.vmid }, 'a CT is gone, but not its AppArmor profile'),
    );
    await step('remove CT: note', () => ctx.intents.note('destroy', found.vmid, container.id));
    await step('remove CT: pct', () =>
      callUnless(ctx, 'missing', 'destroy', found.vmid, ['--force', '1', '--purge', '1']),
    );
  }
  if (vmid !== undefined) await step('remove CT: rest', () => clearAway(ctx, vmid));
  await step('remove CT: watcher', () => send(container, 'quit'));
  await step('remove CT: volumes', () => releaseBinds(container.folder));
  await step('remove CT: exit', () => remove(ctx.exits.path(container.id)));
  ctx.made.delete(container.id);
  ctx.processes.delete(container.id);
}

/** Removes the rest of a destroyed CT. */
async function clearAway(ctx: PctContext, vmid: number): Promise<void> {
  await ctx.units.remove(vmid);
  await tearDown(join(ctx.options.lxc.lxc_folder, String(vmid)));
  for (const group of [cgroupOf(vmid), monitorCgroupOf(vmid)])
    await removeCgroup(group).catch((error: unknown) =>
      log.warn({ err: error, vmid }, 'a CT is gone, but not its cgroup'),
    ); // of a killed lxc-start
  await ctx.intents.forget(vmid);
}

/** Implements Backend.remnants: CTs of interrupted calls of pct. */
export async function remnants(ctx: PctContext): Promise<readonly Remnant[]> {
  const found: Remnant[] = [];
  for (const intent of await ctx.intents.all()) {
    const { vmid, containerId, notedAtMs } = intent;
    if (await isPctAtWork(vmid)) continue;
    if (await ctx.guard.isRemnant(vmid))
      found.push({ name: `CT ${vmid} of ${containerId}`, end: () => endRemnant(ctx, vmid) });
    else if (Date.now() - notedAtMs > ctx.pctTimeoutMs) await endNote(ctx, vmid);
  }
  return found;
}

/** Before a container is removed: cleans up after an earlier attempt, when its pct has ended. */
async function endRemnantsOf(ctx: PctContext, containerId: string): Promise<void> {
  for (const { vmid } of (await ctx.intents.all()).filter((intent) => intent.containerId === containerId)) {
    const hasEnded = async (): Promise<boolean> => !(await isPctAtWork(vmid));
    if (!(await waitUntil(hasEnded, { everyMs: atWorkPauseMs, withinMs: ctx.pctTimeoutMs }))) continue;
    await endRemnant(ctx, vmid);
    await endNote(ctx, vmid);
  }
}

/** The pct of a note has ended; of a CT that is gone, crisp may not have removed the rest yet. */
async function endNote(ctx: PctContext, vmid: number): Promise<void> {
  if ((await guestsOf(ctx.options.lxc.pve_folder)).has(vmid)) await ctx.intents.forget(vmid);
  else await clearAway(ctx, vmid);
}

/**
 * After an unlock pct destroys such a CT like any other; its disks are found by name, since the configuration
 * is lost.
 */
async function endRemnant(ctx: PctContext, vmid: number): Promise<void> {
  if ((await isPctAtWork(vmid)) || !(await ctx.guard.isRemnant(vmid))) return;
  log.warn({ vmid }, 'completing the interrupted removal of a CT');
  await callUnless(ctx, 'not locked', 'unlock', vmid);
  await callUnless(ctx, 'missing', 'destroy', vmid, [
    '--force',
    '1',
    '--purge',
    '1',
    '--destroy-unreferenced-disks',
    '1',
  ]);
  await clearAway(ctx, vmid);
}

async function callUnless(
  ctx: PctContext,
  fine: Meaning,
  ...[verb, vmid, args]: Parameters<Pct['call']>
): Promise<void> {
  try {
    await ctx.pct.call(verb, vmid, args);
  } catch (error) {
    if (meaningOf(error) !== fine) throw error;
  }
}

/**
 * A daemon that was killed in create() may have left a running pct behind, and the CT has crisp's mark only
 * when it is complete. Waits up to the timeout of a pct call.
 */
async function waitUntilCreateEnds(ctx: PctContext, { folder }: ContainerRef): Promise<void> {
  for (const program of await waitUntilIdle(folder, ctx.options.lxc.pct_timeout_seconds * 1000, watcherName))
    await signalProcess(program, 'SIGTERM');
  await waitUntilIdle(folder, endPatienceMs);
}

/**
 * liblxc cannot load a CT without its included file, and pct would wait forever for the end of a CT that it
 * cannot stop.
 */
export async function keepReadable({ folder }: Pick<ContainerRef, 'folder'>): Promise<void> {
  makeClosedFolder(folder);
  await appendFile(includeFile(folder), '', { mode: 0o600 });
}

/**
 * The leftovers of a killed lxc-start in the kernel: the profile that liblxc made for its CT, and the policy
 * namespace below it. While the id still belongs to crisp, since the profile is named by it.
 */
async function removeAppArmor(folder: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    await rmdir(join('/sys/kernel/security/apparmor/policy/namespaces', name)).catch(() => undefined);
    await run(['apparmor_parser', '--remove', join(folder, name)], {
      timeoutMs: 30_000,
      okExitCodes: 'any',
      stage: 'remove AppArmor profile',
    });
    await rm(join(folder, name), { force: true });
  }
  await rmdir(folder).catch(() => undefined);
}

/**
 * The leftovers of `pct destroy`. File by file, and never recursively: a guest with the same id may be being
 * made.
 */
async function tearDown(folder: string): Promise<void> {
  for (const name of ['config', 'rules.seccomp']) await rm(join(folder, name), { force: true });
  // Files of liblxc's DHCP client for a net0.
  for (const name of await namesIn(join(folder, 'hook')))
    if (name.startsWith('dhclient')) await rm(join(folder, 'hook', name), { force: true });
  for (const name of ['passthrough', 'hook', 'rootfs', ''])
    await rmdir(join(folder, name)).catch(() => undefined); // absent, or in use
}

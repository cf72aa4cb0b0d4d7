// Makes the CT of a container without starting it: the mounts, `pct create`, and
// the files for its start.
import { writeFile } from 'node:fs/promises';
import { makeFolder } from '../../host/files.js';
import { withUndo } from '../../host/undo.js';
import { step } from '../../steps.js';
import type { ContainerPlan } from '../backend.js';
import { tryLog } from '../log-file.js';
import { releaseBinds, shiftedBinds } from './binds.js';
import { environmentFile, includeFile, includeText, isFolder } from './bundle.js';
import { chosenOf, rootfsOf } from './choices.js';
import type { PctContext } from './context.js';
import { createArgs, pinLines, type CreateOptions } from './create-args.js';
import { mark } from './find.js';
import { appendLines } from './guest-file.js';
import { guestPlan } from './guest-plan.js';
import { recoveryLine } from './guest-config.js';
import { environmentKey, foldersOfLxc, mountsOf } from './lxc-config.js';
import { checkMountPoints } from './mount-points.js';
import { meaningOf, untilNotTaken } from './pct.js';
import { removeContainer } from './remove.js';
import type { PctState } from './state.js';
import { makeTargets } from './targets.js';
import { dropIn, environmentText } from './unit.js';

/**
 * Implements Backend.create: makes the mounts, the CT and its configuration.
 * @throws the errors of pct (NoVmid, NoQuorum, BridgeMissing, ...)
 */
export async function create(ctx: PctContext, given: ContainerPlan): Promise<PctState> {
  const guest = chosenOf(ctx, given.sandbox);
  const { plan, devices, spec: mounted } = guestPlan(given, guest, ctx.found);
  await checkMountPoints(ctx.made.values(), plan, guest);
  for (const folder of [ctx.exits.folder, ctx.options.root]) makeFolder(folder);
  return withUndo('create CT', async (undo) => {
    const { id, folder, logPath } = plan;
    if (logPath) tryLog(logPath); // the watcher opens it only at the start: too late to refuse it
    // 1. The mounts.
    const root = plan.sandbox.idMaps?.uids[0]?.hostID ?? 0;
    undo.push('volumes', () => releaseBinds(plan.folder));
    const spec =
      plan.sandbox.namespaces.user === undefined
        ? mounted
        : await shiftedBinds(mounted, plan.folder, plan.sandbox.namespaces.user, plan.shiftedSources);
    if (rootfsOf(ctx, plan.sandbox, plan.template).kind === 'overlay')
      await makeTargets(
        spec.root.path,
        [
          ...foldersOfLxc,
          ...mountsOf(plan.spec).map(({ destination, source }) => ({
            path: destination,
            isFolder: source === undefined || isFolder(source),
          })),
        ],
        root,
      );
    // 2. The CT, with an unused id. Found by its mark, since a killed pct may have made the CT.
    undo.push('CT', () => removeContainer(ctx, { ...plan, state: undefined }));
    ctx.made.set(id, { id, folder, logPath, state: undefined });
    const vmid = await takeVmid(ctx, plan, { guest, devices });
    const state: PctState = {
      vmid,
      sandboxId: plan.sandbox.id,
      name: plan.name,
      uid: root + plan.spec.process.user.uid,
      stdin: plan.stdin ? (plan.stdinOnce ? 'once' : 'open') : 'none',
      terminal: plan.spec.process.terminal ?? false,
      ownPidNamespace: plan.spec.linux.namespaces.some(
        ({ type, path }) => type === 'pid' && path === undefined,
      ),
    };
    ctx.made.set(id, { id, folder, logPath, state });
    // 3. The files for its start.
    const { environmentReachesHooks } = ctx.found;
    await step('create CT: files', () =>
      writeFile(
        includeFile(plan.folder),
        includeText(plan, spec, vmid, {
          cgroup: ctx.node.cgroup,
          environmentReachesHooks,
          passed: devices.map(({ path }) => path),
        }),
        { mode: 0o600 },
      ),
    );
    const variables = environmentText(plan.spec.process.env);
    if (variables !== undefined) await writeFile(environmentFile(plan.folder), variables, { mode: 0o600 });
    await step('create CT: configuration', () =>
      Promise.all([
        include(ctx, vmid, plan),
        ctx.units.write(vmid, dropIn(plan.spec.process, plan.folder, environmentKey(ctx.found))),
      ]),
    );
    return state;
  });
}

/** Retries with another id if another node or tool has taken the id. */
async function takeVmid(
  ctx: PctContext,
  plan: ContainerPlan,
  { guest, devices }: Pick<CreateOptions, 'guest' | 'devices'>,
): Promise<number> {
  const { tag, pool } = ctx.options.lxc;
  const archive =
    guest.volume && plan.template === undefined
      ? await ctx.archives.of(plan.imageId, plan.spec.root.path)
      : await ctx.archives.empty();
  const argsFor = (vmid: number): string[] =>
    createArgs(plan, {
      tag,
      pool,
      mark: mark(ctx, vmid, plan.id),
      archive,
      guest,
      devices,
      hostManaged: ctx.found.hostManaged,
      node: ctx.node,
    });
  return untilNotTaken(() =>
    ctx.vmids.propose(async (vmid) => {
      await step('create CT: note', () => ctx.intents.note('create', vmid, plan.id));
      try {
        await step('create CT: pct', () => ctx.pct.call('create', vmid, argsFor(vmid), plan.folder));
      } catch (error) {
        if (meaningOf(error) === 'taken') await ctx.intents.forget(vmid); // the id belongs to another guest
        throw error;
      }
      await step('create CT: end of note', () => ctx.intents.forget(vmid)); // from here on it has crisp's mark
      return vmid;
    }),
  );
}

/**
 * Adds the other lines of the CT's configuration. They include the recovery label, since it describes the
 * pod, and all users can read pct's arguments.
 */
async function include(ctx: PctContext, vmid: number, plan: ContainerPlan): Promise<void> {
  const { id, folder, spec } = plan;
  const carried = plan.recoveryLabel?.();
  await appendLines(ctx, vmid, [
    ...(carried === undefined ? [] : [recoveryLine(ctx.seal.on(mark(ctx, vmid, id), carried))]),
    // Before lxc.include: the included file has the value of later updates.
    ...pinLines(spec.linux.resources, ctx.node),
    `lxc.include: ${includeFile(folder)}`,
  ]);
}

// An ordinary guest of Proxmox, made from an image for `crisp run --guest`: a CT on a
// storage, with the process of the image as its entrypoint.  It has no mark of crisp,
// so crisp never changes it later: Proxmox starts, backs up, migrates and removes it.
import { CrispError } from '../../errors.js';
import { run } from '../../host/run.js';
import { withUndo } from '../../host/undo.js';
import type { Process } from '../../shapes/spec.js';
import type { ContainerPlan } from '../backend.js';
import type { PctContext } from './context.js';
import { cardArgs, featureArgs, hostname, resourceArgs, rootfsArgs } from './create-args.js';
import { appendLines } from './guest-file.js';
import { annotationPrefix, guestOptions } from './guest-options.js';
import { environmentKey, fitsLine } from './lxc-config.js';
import { untilNotTaken } from './pct.js';

/**
 * @param plan a standalone container; its volumes and devices are ignored
 * @returns the VMID
 * @throws InvalidArgument, Unsupported, and the errors of pct
 */
export async function makeGuest(ctx: PctContext, plan: ContainerPlan, starts: boolean): Promise<number> {
  const { options, node, found } = ctx;
  const { template, spec, sandbox, image, imageId, name } = plan;
  if (template === undefined && !found.hostManaged)
    throw new CrispError(
      'Unsupported',
      'pct of this node makes no guest of an image: it has no entrypoints',
      {
        hint: 'pve-container 6.0.15 (Proxmox VE 9.1) and newer have them',
      },
    );
  const network = sandbox.ownNetwork ? 'bridge' : 'cni';
  const guest = guestOptions({ ...options, lxc: { ...options.lxc, network } }, sandbox.annotations);
  if (!guest.volume)
    throw new CrispError('InvalidArgument', 'a guest needs a volume, and no storage is named', {
      hint: `--annotation ${annotationPrefix}storage=NAME, or lxc.rootfs.storage`,
    });
  const lines =
    template === undefined ? guestLines(spec.process, plan.stopSignal, environmentKey(found)) : [];
  const archive = template === undefined ? await ctx.archives.of(imageId, spec.root.path) : '';
  const args = [
    ...rootfsArgs(plan, { archive, guest, node }),
    ...cardArgs(plan, guest, found.hostManaged),
    ...featureArgs(plan, guest),
    '--unprivileged',
    options.lxc.unprivileged ? '1' : '0',
    '--hostname',
    hostname(name),
    ...resourceArgs(spec.linux.resources ?? {}, node),
    '--description',
    `Image ${image}  \nMade by crisp, which does not look after it: it is an ordinary guest.`,
    ...(template === undefined ? ['--cmode', 'console', '--entrypoint', entrypoint(spec.process.args)] : []),
  ];
  return withUndo('make guest', async (undo) => {
    const vmid = await create(ctx, args);
    undo.push('guest', () => ctx.pct.call('destroy', vmid, ['--force', '1', '--purge', '1']));
    if (lines.length > 0) await appendLines(ctx, vmid, lines);
    if (starts) await ctx.pct.call('start', vmid);
    return vmid;
  });
}

/** Uses the cluster's next free id, which another tool may take first. */
async function create(ctx: PctContext, args: readonly string[]): Promise<number> {
  const { tools } = ctx.options.lxc;
  return untilNotTaken(async () => {
    const { stdout } = await run([tools.pvesh, 'get', '/cluster/nextid'], {
      timeoutMs: ctx.pctTimeoutMs,
      stage: 'choose vmid',
    });
    const vmid = Number(/\d+/.exec(stdout)?.[0]);
    await ctx.pct.call('create', vmid, args);
    return vmid;
  });
}

/** The settings without an option of pct, or with one for a single value only. @throws InvalidArgument */
export function guestLines(
  { env, cwd, user }: Pick<Process, 'env' | 'cwd' | 'user'>,
  stopSignal: string,
  key: string,
): string[] {
  const bad = [...env, cwd].find((text) => !fitsLine(text));
  if (bad !== undefined)
    throw new CrispError(
      'InvalidArgument',
      `the configuration of a guest cannot hold ${JSON.stringify(bad.slice(0, 100))}`,
    );
  return [
    ...env.map((entry) => `${key}: ${entry}`),
    ...(cwd === '/' ? [] : [`lxc.init.cwd: ${cwd}`]),
    ...(user.uid || user.gid ? [`lxc.init.uid: ${user.uid}`, `lxc.init.gid: ${user.gid}`] : []),
    ...(user.additionalGids?.length ? [`lxc.init.groups: ${user.additionalGids.join(',')}`] : []),
    `lxc.signal.halt: ${stopSignal}`,
  ];
}

/** A command line for liblxc, which supports quotes, but no escapes. @throws InvalidArgument */
export function entrypoint(args: readonly string[]): string {
  return args
    .map((word) => {
      if (/^[\w@%+=:,./-]+$/.test(word)) return word;
      const quote = ["'", '"'].find((one) => !word.includes(one));
      if (quote && !/[\p{Cc}\\]/u.test(word)) return `${quote}${word}${quote}`;
      throw new CrispError(
        'InvalidArgument',
        `the command of a guest cannot have ${JSON.stringify(word.slice(0, 100))}`,
        { hint: 'put it into a script of the image' },
      );
    })
    .join(' ');
}

// Applies the options of the pods and of the configuration to this node.
import { CrispError } from '../../errors.js';
import type { RootfsMode } from '../backend.js';
import type { SandboxPlan } from '../../shapes/sandbox.js';
import type { PctContext } from './context.js';
import { annotationPrefix, guestOptions, type GuestOptions } from './guest-options.js';

export type Choosing = Pick<PctContext, 'options' | 'found'>;

/**
 * Implements Backend.ownNetwork: true if the pod or the configuration names a bridge.
 * @throws Unsupported if this pct does not set addresses; InvalidArgument, PermissionDenied for the pod's
 * annotations
 */
export function ownNetwork(ctx: Choosing, plan: SandboxPlan): boolean {
  const { bridges } = guestOptions(ctx.options, plan.annotations);
  if (bridges.length > 0 && !ctx.found.hostManaged)
    throw new CrispError(
      'Unsupported',
      'CTs of this node cannot have a net0 of their own: its pct does not set addresses',
      { stage: 'network', hint: 'pve-container 6.0.15 (Proxmox VE 9.1) and newer support it' },
    );
  return bridges.length > 0;
}

/**
 * Implements Backend.rootfs: "own" if the CT has a volume of Proxmox.
 * @throws InvalidArgument for a template without a storage
 */
export function rootfsOf(ctx: Choosing, plan: SandboxPlan, template?: string): RootfsMode {
  const { volume } = chosenOf(ctx, plan);
  if (template !== undefined && !volume)
    throw new CrispError(
      'InvalidArgument',
      `a guest made from ${template} needs a volume, but no storage is set`,
      { hint: `set lxc.rootfs.storage, or the pod's annotation ${annotationPrefix}storage` },
    );
  return { kind: volume ? 'own' : 'overlay' };
}

/**
 * The options of a CT as they apply to the pod: bridges only with a network of its own, and with a user
 * namespace a volume for the copy of the image.
 * @throws InvalidArgument, PermissionDenied
 */
export function chosenOf(ctx: Choosing, plan: SandboxPlan): GuestOptions {
  const { bridges, volume, ...others } = guestOptions(ctx.options, plan.annotations);
  return {
    ...others,
    bridges: plan.ownNetwork ? bridges : [],
    volume: volume ?? (plan.namespaces.user === undefined ? undefined : ctx.found.copies),
  };
}

// A container as a CT, for `crisp explain`: the calls and the files, from the
// same functions that make them. Nothing is run.
import { join } from 'node:path';
import type { ContainerPlan } from '../backend.js';
import { Archives } from './archives.js';
import { includeText } from './bundle.js';
import { createArgs } from './create-args.js';
import { guestOptions } from './guest-options.js';
import { guestPlan } from './guest-plan.js';
import { environmentKey, notHonoured } from './lxc-config.js';
import { ownerOf, thisNode, type PctBackendOptions } from './options.js';
import { Pct } from './pct.js';
import { dropIn } from './unit.js';

const vmid = 'VMID';
/** As on a node with the liblxc of Proxmox VE 9.1. */
const found = { environmentReachesHooks: false };

export interface ExplainedCt {
  readonly commands: readonly { readonly what: string; readonly argv: readonly string[] }[];
  readonly files: readonly { readonly path: string; readonly text: string }[];
  /** Fields that CTs do not support on any node; the probe of a node may find more. */
  readonly notHonoured: readonly string[];
}

/** The commands and files with which create() would make this CT. Runs and writes nothing. */
export function explainCt(options: PctBackendOptions, given: ContainerPlan): ExplainedCt {
  const { lxc, root } = options;
  const node = thisNode();
  const pct = new Pct({ program: lxc.tools.pct, timeoutMs: 0, outputFolder: options.state });
  const guest = guestOptions(options, given.sandbox.annotations);
  const { plan, devices, spec } = guestPlan(given, guest, found);
  const archives = new Archives(join(root, 'archives'));
  const archive = guest.volume ? archives.pathOf(plan.imageId) : archives.emptyPath;
  const args = createArgs(plan, {
    tag: lxc.tag,
    pool: lxc.pool,
    mark: { owner: ownerOf(options), containerId: plan.id, vmid },
    archive,
    guest,
    devices,
    hostManaged: true,
    node,
  });
  return {
    commands: [
      { what: 'create', argv: pct.argv('create', vmid, args) },
      { what: 'start', argv: pct.argv('start', vmid) },
      { what: 'delete', argv: pct.argv('destroy', vmid, ['--force', '1', '--purge', '1']) },
    ],
    files: [
      {
        path: join(plan.folder, 'lxc.conf'),
        text: includeText(plan, spec, vmid, {
          cgroup: node.cgroup,
          passed: devices.map(({ path }) => path),
          ...found,
        }),
      },
      {
        path: join(lxc.unit_folder, `pve-container@${vmid}.service.d/crisp.conf`),
        text: dropIn(plan.spec.process, plan.folder, environmentKey(found)),
      },
    ],
    notHonoured: notHonoured(plan.spec, { givesGroups: true }),
  };
}

// Changes the limits of a CT.
import { appendFile } from 'node:fs/promises';
import { unifiedSettings, writeResources } from '../../host/cgroup.js';
import type { Resources } from '../../shapes/spec.js';
import { step } from '../../steps.js';
import type { ContainerRef } from '../backend.js';
import { includeFile } from './bundle.js';
import { cgroupOf } from './cgroups.js';
import type { PctContext } from './context.js';
import { pinKey, pinLines, updateArgs } from './create-args.js';
import { initPid, mine } from './find.js';
import { appendLines } from './guest-file.js';
import { specOf } from './state.js';

/** Uses pct for the values in the GUI, and the kernel's files for the exact values, which pct rounds. */
export async function update(ctx: PctContext, container: ContainerRef, resources: Resources): Promise<void> {
  const { vmid, config } = await mine(ctx, container);
  const args = updateArgs(resources, ctx.node);
  if (args.length) await step('update CT: pct', () => ctx.pct.call('set', vmid, args));
  const pinned = config.values[pinKey] === undefined ? pinLines(resources, ctx.node) : [];
  if (pinned.length) await appendLines(ctx, vmid, pinned);
  // pct also sets memory.high, near the limit; this restores the container's own value.
  const high = args.includes('--memory')
    ? (await specOf(container)).linux.resources?.unified?.['memory.high']
    : undefined;
  if ((await initPid(ctx, vmid)) !== undefined)
    await writeResources(
      cgroupOf(vmid),
      high === undefined
        ? resources
        : { ...resources, unified: { 'memory.high': high, ...resources.unified } },
    );
  else if (ctx.node.cgroup === 'v2')
    await appendFile(
      includeFile(container.folder),
      unifiedSettings(resources)
        .map(([file, value]) => `lxc.cgroup2.${file} = ${value}\n`)
        .join(''),
    );
}

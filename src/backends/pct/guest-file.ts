// Adds lines to PVE/lxc/VMID.conf that pct has no options for.
import { join } from 'node:path';
import { run } from '../../host/run.js';
import type { PctContext } from './context.js';

/** Holds the same lock as pct. @param lines in PVE's format, without line breaks @throws Locked */
export async function appendLines(
  { options }: Pick<PctContext, 'options'>,
  vmid: number,
  lines: readonly string[],
): Promise<void> {
  const { lock_folder: locks, pve_folder: pve } = options.lxc;
  await run(
    [
      'flock',
      '--wait',
      '10',
      join(locks, `pve-config-${vmid}.lock`),
      'tee',
      '-a',
      join(pve, 'lxc', `${vmid}.conf`),
    ],
    {
      timeoutMs: 20_000,
      input: lines.map((line) => `${line}\n`).join(''),
      stage: 'write CT config',
      errorId: 'Locked',
    },
  );
}

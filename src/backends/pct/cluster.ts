// The configuration of the cluster's guests: PVE (/etc/pve), which pmxcfs mounts.
// Who looks for a guest there has to tell one that is gone from a cluster file
// system that is: while pve-cluster restarts (an upgrade of its package), PVE is
// an empty folder, and the CTs run on.
import { constants } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../../errors.js';
import { isAbsent, namesIn } from '../../host/files.js';

/**
 * Looks around in the mounted PVE, by a path that stays the same mount until the
 * end: what is absent there is gone.
 * @throws NoQuorum while it is not mounted: PVE/lxc, which pmxcfs itself links to the folder of this node, leads nowhere
 */
export async function inCluster<T>(pveFolder: string, look: (pve: string) => Promise<T>): Promise<T> {
  try {
    const held = await open(pveFolder, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      const pve = `/proc/self/fd/${held.fd}`;
      await stat(`${pve}/lxc/`);
      return await look(pve);
    } finally {
      await held.close();
    }
  } catch (error) {
    if (!isAbsent(error) && !isDead(error)) throw error;
    throw new CrispError(
      'NoQuorum',
      `the configuration of the cluster is not there: ${pveFolder} is not mounted`,
      { stage: 'read CT config', hint: pveClusterHint, cause: error },
    );
  }
}
export const pveClusterHint = 'pve-cluster must run: `systemctl status pve-cluster`';

/** A pmxcfs that was killed leaves its mount, which answers so. */
function isDead(error: unknown): boolean {
  return ['ENOTCONN', 'ECONNABORTED'].includes((error as NodeJS.ErrnoException).code ?? '');
}

/** The ids of all CTs and VMs of all nodes: pmxcfs shows every node's folder on every node. @throws NoQuorum */
export async function guestsOf(pveFolder: string): Promise<Set<number>> {
  return inCluster(pveFolder, async (pve) => {
    const nodes = join(pve, 'nodes');
    const folders = [
      join(pve, 'lxc'),
      join(pve, 'qemu-server'),
      ...(await namesIn(nodes)).flatMap((node) => [
        join(nodes, node, 'lxc'),
        join(nodes, node, 'qemu-server'),
      ]),
    ];
    const files = (await Promise.all(folders.map(namesIn))).flat();
    return new Set(files.flatMap((name) => /^(\d+)\.conf$/.exec(name)?.[1] ?? []).map(Number));
  });
}

// The configuration of the cluster's guests: PVE (/etc/pve), which pmxcfs mounts.
// A look-up must distinguish a missing guest from an unmounted cluster file
// system: while pve-cluster restarts (an upgrade of its package), PVE is an empty
// folder, and the CTs keep running.
import { constants } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../../errors.js';
import { isAbsent, namesIn } from '../../host/files.js';

/**
 * Reads the mounted PVE, by a path that refers to the same mount until the end: a file that is absent there
 * does not exist.
 * @throws NoQuorum while PVE is not mounted: PVE/lxc, pmxcfs's link to this node's folder, is missing then
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
      `the configuration of the cluster is not available: ${pveFolder} is not mounted`,
      { stage: 'read CT config', hint: pveClusterHint, cause: error },
    );
  }
}
/** The hint of errors caused by a missing pmxcfs. */
export const pveClusterHint = 'pve-cluster must run: `systemctl status pve-cluster`';

/** The error of a mount after pmxcfs was killed. */
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

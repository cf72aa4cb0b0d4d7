// VMIDs: unique among all guests of the cluster.  Only `pct create` takes one
// (pmxcfs makes the file of the CT on one node only), so the id chosen here is
// a proposal, and create() requests another one if it is taken meanwhile.
import { CrispError } from '../../errors.js';
import { guestsOf } from './cluster.js';
import { vmidsInCgroups } from './cgroups.js';

/** Proposes unused VMIDs of lxc.vmid_range. */
export class Vmids {
  private readonly proposed = new Set<number>();
  private next: number;

  /**
   * @param start where to begin, as a fraction of the range: with different
   * starts on each node races are rare. Ids are used in turn, so that a CT does
   * not get the id of a CT with a unit that is still stopping.
   */
  constructor(
    private readonly pveFolder: string,
    private readonly range: { readonly first: number; readonly last: number },
    start = Math.random(),
  ) {
    this.next = range.first + Math.floor(start * (range.last - range.first + 1));
  }

  /**
   * Runs `take` with an id that no guest of the cluster has; it is not proposed to other callers meanwhile.
   * @throws NoVmid, NoQuorum
   */
  async propose<T>(take: (vmid: number) => Promise<T>): Promise<T> {
    // A leftover cgroup (of a killed lxc-start or a process that ended late) makes liblxc refuse the next CT
    // with that id ("Failed to create container cgroup").
    const used = new Set([...(await guestsOf(this.pveFolder)), ...(await vmidsInCgroups())]);
    const vmid = this.free(used);
    this.proposed.add(vmid);
    try {
      return await take(vmid);
    } finally {
      this.proposed.delete(vmid);
    }
  }

  private free(used: ReadonlySet<number>): number {
    const { first, last } = this.range;
    for (let tried = first; tried <= last; tried++) {
      const vmid = this.next;
      this.next = vmid >= last ? first : vmid + 1;
      if (!used.has(vmid) && !this.proposed.has(vmid)) return vmid;
    }
    throw new CrispError('NoVmid', `all ids from ${first} to ${last} are taken`, { stage: 'choose vmid' });
  }
}

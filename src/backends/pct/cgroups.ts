// The control groups of CTs, as PVE names them.
import { cgroupsIn } from '../../host/cgroup.js';

const payloads = '/lxc';
/** A CT's group, which PVE names; the GUI counts by it. */
export function cgroupOf(vmid: number | string): string {
  return `${payloads}/${vmid}`;
}
/** That of the lxc-start that watches it. */
export function monitorCgroupOf(vmid: number): string {
  return `/lxc.monitor/${vmid}`;
}

/** The ids that have a group on this node, of CTs that run or ran. */
export async function vmidsInCgroups(): Promise<number[]> {
  return [...(await cgroupsIn(payloads))].map(Number);
}

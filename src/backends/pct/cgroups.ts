// The control groups of CTs in PVE.
import { cgroupsIn } from '../../host/cgroup.js';

const payloads = '/lxc';
/** A CT's group; the GUI reads its statistics. */
export function cgroupOf(vmid: number | string): string {
  return `${payloads}/${vmid}`;
}
/** The group of its lxc-start. */
export function monitorCgroupOf(vmid: number): string {
  return `/lxc.monitor/${vmid}`;
}

/** The ids that have a group on this node, of CTs that run or ran. */
export async function vmidsInCgroups(): Promise<number[]> {
  return [...(await cgroupsIn(payloads))].map(Number);
}

// Capabilities of a container. Pure.
import type { Capability__Output } from '../cri/generated/runtime/v1/Capability.js';
import { CrispError } from '../errors.js';
import { capabilityNames } from '../host/proc.js';
import type { Capabilities } from './spec.js';

/** What a container has that asks for nothing: the set that Docker began with and containerd and CRI-O keep. */
const defaults = ['CHOWN', 'DAC_OVERRIDE', 'FSETID', 'FOWNER', 'MKNOD', 'NET_RAW', 'SETGID', 'SETUID', 'SETFCAP', 'SETPCAP', 'NET_BIND_SERVICE', 'SYS_CHROOT', 'KILL', 'AUDIT_WRITE']
  .map((name) => `CAP_${name}`);

/**
 * The sets of a container's process.
 * @param held what this host can hand on; what is asked for beyond it is in `missing`
 * @throws InvalidArgument for a name that no kernel knows
 */
export function containerCapabilities(wanted: Capability__Output | null, privileged: boolean, held: readonly string[]): { capabilities: Capabilities; missing: string[] } {
  const add = names(wanted?.add_capabilities, 'add_capabilities');
  const drop = names(wanted?.drop_capabilities, 'drop_capabilities');
  const ambient = names(wanted?.add_ambient_capabilities, 'add_ambient_capabilities');
  const asked = privileged ? new Set(capabilityNames) : change(new Set(defaults), add, drop);
  for (const name of ambient) if (name !== 'ALL') asked.add(name);
  const bounding = [...asked].filter((name) => held.includes(name)).sort(byBit);
  const ambientHeld = ambient.includes('ALL') ? bounding : ambient.filter((name) => bounding.includes(name));
  return {
    // For a user other than root the kernel takes all but the ambient ones away at exec (capabilities(7)).
    capabilities: { bounding, effective: bounding, permitted: bounding, inheritable: ambientHeld, ambient: ambientHeld },
    missing: privileged || add.includes('ALL') ? [] : [...asked].filter((name) => !held.includes(name)),
  };
}

function change(set: Set<string>, add: readonly string[], drop: readonly string[]): Set<string> {
  let result = set;
  if (add.includes('ALL')) result = new Set(capabilityNames);
  if (drop.includes('ALL')) result = new Set();
  for (const name of add) if (name !== 'ALL') result.add(name);
  for (const name of drop) if (name !== 'ALL') result.delete(name);
  return result;
}

function names(list: readonly string[] | undefined, field: string): string[] {
  return (list ?? []).map((text) => {
    const name = text.toUpperCase();
    if (name === 'ALL') return name;
    const full = name.startsWith('CAP_') ? name : `CAP_${name}`;
    if (!capabilityNames.includes(full)) throw new CrispError('InvalidArgument', `capabilities.${field}: "${text}" is no capability`);
    return full;
  });
}

function byBit(one: string, other: string): number { return capabilityNames.indexOf(one) - capabilityNames.indexOf(other); }

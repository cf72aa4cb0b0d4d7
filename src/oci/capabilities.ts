// Capabilities of a container. Pure.
import type { Capability__Output } from '../cri/generated/runtime/v1/Capability.js';
import { CrispError } from '../errors.js';
import { capabilityNames } from '../host/proc.js';
import type { HostFacts } from './host-facts.js';
import type { Capabilities } from '../shapes/spec.js';

/**
 * The default capabilities: Docker's original fourteen, which containerd uses too (CRI-O uses nine of them).
 */
export const defaultCapabilities: readonly string[] = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FSETID',
  'FOWNER',
  'MKNOD',
  'NET_RAW',
  'SETGID',
  'SETUID',
  'SETFCAP',
  'SETPCAP',
  'NET_BIND_SERVICE',
  'SYS_CHROOT',
  'KILL',
  'AUDIT_WRITE',
].map((name) => `CAP_${name}`);

/**
 * The sets of a container's process. They never exceed the capabilities that
 * this host can grant; others that were requested by name, or by "all", are in
 * `missing`.
 * @throws InvalidArgument for an unknown name
 */
export function containerCapabilities(
  wanted: Capability__Output | null,
  privileged: boolean,
  host: Pick<HostFacts, 'capabilities' | 'kernelCapabilities'>,
): { capabilities: Capabilities; missing: string[] } {
  const add = names(wanted?.add_capabilities, 'add_capabilities');
  const drop = names(wanted?.drop_capabilities, 'drop_capabilities');
  const ambient = names(wanted?.add_ambient_capabilities, 'add_ambient_capabilities');
  const all = privileged || (add.includes('ALL') && !drop.includes('ALL'));
  const named = [...add, ...ambient].filter((name) => name !== 'ALL');
  const base = all ? host.kernelCapabilities : drop.includes('ALL') ? [] : defaultCapabilities;
  const dropped = privileged ? [] : drop;
  const asked = new Set([
    ...base.filter((name) => !dropped.includes(name)),
    ...named.filter((name) => !dropped.includes(name)),
  ]);
  const bounding = [...asked].filter((name) => host.capabilities.includes(name)).sort(byBit);
  const ambientHeld = ambient.includes('ALL') ? bounding : bounding.filter((name) => ambient.includes(name));
  return {
    // For a user other than root the kernel removes all except the ambient ones at exec (capabilities(7)).
    capabilities: {
      bounding,
      effective: bounding,
      permitted: bounding,
      inheritable: ambientHeld,
      ambient: ambientHeld,
    },
    missing: [...asked]
      .filter((name) => (all || named.includes(name)) && !host.capabilities.includes(name))
      .sort(byBit),
  };
}

function names(list: readonly string[] | undefined, field: string): string[] {
  return (list ?? []).map((text) => {
    const name = text.toUpperCase();
    if (name === 'ALL') return name;
    const full = name.startsWith('CAP_') ? name : `CAP_${name}`;
    if (!capabilityNames.includes(full))
      throw new CrispError('InvalidArgument', `capabilities.${field}: "${text}" is not a capability`);
    return full;
  });
}

function byBit(one: string, other: string): number {
  return capabilityNames.indexOf(one) - capabilityNames.indexOf(other);
}

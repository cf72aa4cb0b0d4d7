// The options of a pod's CTs: the network and the location of the root
// filesystems. From the configuration, or, if the handler allows it, from the
// pod's annotations. Pure.
import * as z from 'zod';
import type { Config } from '../../config/config.js';
import { CrispError } from '../../errors.js';
import { pattern } from '../../config/pattern.js';

/** The CT's own net0, on a bridge of the node. */
export interface Bridge {
  readonly name: string;
  /** 0: untagged. */
  readonly vlan: number;
  /** Megabytes per second; 0: no limit. */
  readonly rate: number;
  readonly firewall: boolean;
  /** "dhcp" or ADDRESS/BITS. */
  readonly address: string;
  /** Empty: none, or from DHCP. */
  readonly gateway: string;
}

/** A volume that Proxmox makes for each CT. */
export interface Volume {
  readonly storage: string;
  readonly sizeGib: number;
}

export interface GuestOptions {
  /** undefined: the pod's CNI network. */
  readonly bridge: Bridge | undefined;
  /** undefined: an overlay over the image's layers. */
  readonly volume: Volume | undefined;
}

/** The format of PVE (PVE::JSONSchema, pve-storage-id). */
export const storageName = z.string().regex(/^[a-z][a-z0-9._-]*$/i);

export const annotationPrefix = 'io.crisp.lxc.';
const keys = [
  'network',
  'bridge',
  'vlan',
  'rate',
  'firewall',
  'address',
  'gateway',
  'storage',
  'size-gib',
] as const;
type Key = (typeof keys)[number];

const ipv4 = /^(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}$/;
const forms: Readonly<Record<Key, readonly [RegExp, string]>> = {
  network: [/^(cni|bridge)$/, 'cni or bridge'],
  bridge: [/^[\w.-]{1,15}$/, 'the name of a bridge'],
  vlan: [/^(0|[1-9]\d{0,2}|[1-3]\d{3}|40([0-8]\d|9[0-4]))$/, 'a VLAN id, 1 to 4094, or 0 for none'],
  rate: [/^\d{1,6}(\.\d{1,3})?$/, 'megabytes per second'],
  firewall: [/^(true|false)$/, 'true or false'],
  address: [
    new RegExp(`^(dhcp|${ipv4.source.slice(1, -1)}/(3[0-2]|[12]?\\d))$`),
    'dhcp, or an IPv4 address with its prefix length (10.0.0.5/24)',
  ],
  gateway: [new RegExp(`^(${ipv4.source.slice(1, -1)})?$`), 'an IPv4 address'],
  storage: [/^([a-z][a-z0-9._-]*)?$/i, 'the name of a storage, or nothing'],
  'size-gib': [/^\d{1,6}(\.\d{1,3})?$/, 'a size in GiB'],
};

/**
 * @param annotations of the pod
 * @throws PermissionDenied for an annotation that the handler does not allow, InvalidArgument for an invalid
 * one
 */
export function guestOptions(
  {
    lxc,
    allowedAnnotations,
  }: {
    readonly lxc: Pick<Config['lxc'], 'network' | 'bridge' | 'rootfs'>;
    readonly allowedAnnotations: readonly string[];
  },
  annotations: Readonly<Record<string, string>>,
): GuestOptions {
  const chosen = chosenBy(annotations, allowedAnnotations);
  const { bridge, rootfs } = lxc;
  const storage = chosen.storage ?? rootfs.storage;
  return {
    bridge:
      (chosen.network ?? lxc.network) === 'cni'
        ? undefined
        : {
            name: chosen.bridge ?? bridge.name,
            vlan: Number(chosen.vlan ?? bridge.vlan),
            rate: Number(chosen.rate ?? bridge.rate),
            firewall: chosen.firewall === undefined ? bridge.firewall : chosen.firewall === 'true',
            address: chosen.address ?? 'dhcp',
            gateway: chosen.gateway ?? '',
          },
    volume: storage === '' ? undefined : { storage, sizeGib: Number(chosen['size-gib'] ?? rootfs.size_gib) },
  };
}

function chosenBy(
  annotations: Readonly<Record<string, string>>,
  allowed: readonly string[],
): Partial<Record<Key, string>> {
  const chosen: Partial<Record<Key, string>> = {};
  for (const [name, value] of Object.entries(annotations)) {
    if (!name.startsWith(annotationPrefix)) continue;
    const key = keys.find((known) => known === name.slice(annotationPrefix.length));
    if (!key)
      throw new CrispError(
        'InvalidArgument',
        `annotation ${name}: unknown annotation; there are: ${keys.map((known) => annotationPrefix + known).join(', ')}`,
      );
    if (!allowed.some((text) => pattern(text)(name)))
      throw new CrispError('PermissionDenied', `annotation ${name} is not allowed for pods on this node`, {
        hint: 'add it, or a pattern for it, to allowed_annotations of the handler',
      });
    const [form, what] = forms[key];
    if (!form.test(value))
      throw new CrispError('InvalidArgument', `annotation ${name}: "${value}" is not ${what}`);
    chosen[key] = value;
  }
  return chosen;
}

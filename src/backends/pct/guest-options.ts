// The options of a pod's CTs: networks, the storage of the root filesystem, volumes,
// features.  From the configuration or, if the handler allows it, from the pod's
// annotations, within the limits of lxc.choices.  Pure.
import * as z from 'zod';
import type { Config } from '../../config/config.js';
import { CrispError } from '../../errors.js';
import { pattern } from '../../config/pattern.js';

/** A network card of the CT, on a bridge or an SDN vnet of the node. */
export interface Bridge {
  /** 0: net0 in Proxmox, eth0 in the CT. */
  readonly index: number;
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

/** A volume that replaces the container's mount at this path. */
export interface MountPoint extends Volume {
  /** N of mpN. */
  readonly index: number;
  /** Absolute, without "." and "..". */
  readonly path: string;
  /** Included in backups by vzdump. */
  readonly backup: boolean;
}

/** PVE's names (PVE::LXC::Config, features); tun is the device /dev/net/tun. */
export const features = ['nesting', 'fuse', 'keyctl', 'tun'] as const;
export type Feature = (typeof features)[number];

export interface GuestOptions {
  /** net0, net1 and so on; empty: the pod's CNI network. */
  readonly bridges: readonly Bridge[];
  /** undefined: an overlay over the image's layers. */
  readonly volume: Volume | undefined;
  readonly mountPoints: readonly MountPoint[];
  readonly features: readonly Feature[];
}

/** The form of a storage name in PVE (PVE::JSONSchema, pve-storage-id). */
const storageForm = /^[a-z][a-z0-9._-]*$/i;
/** The schema of a storage name. */
export const storageName = z.string().regex(storageForm);

/** The prefix of the annotations with which a pod sets options of its CTs. */
export const annotationPrefix = 'io.crisp.lxc.';

type Form = readonly [RegExp, string];
const ipv4 = /^(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}$/;
const yesOrNo: Form = [/^(true|false)$/, 'true or false'];
const size: Form = [/^\d{1,6}(\.\d{1,3})?$/, 'a size in GiB'];
const card = {
  bridge: [/^[\w.-]{1,15}$/, 'the name of a bridge or vnet'],
  vlan: [/^(0|[1-9]\d{0,2}|[1-3]\d{3}|40([0-8]\d|9[0-4]))$/, 'a VLAN id, 1 to 4094, or 0 for none'],
  rate: [/^\d{1,6}(\.\d{1,3})?$/, 'megabytes per second'],
  firewall: yesOrNo,
  address: [
    new RegExp(`^(dhcp|${ipv4.source.slice(1, -1)}/(3[0-2]|[12]?\\d))$`),
    'dhcp, or an IPv4 address with its prefix length (10.0.0.5/24)',
  ],
} satisfies Record<string, Form>;
/** Annotations with a single value. */
const forms = {
  network: [/^(cni|bridge)$/, 'cni or bridge'],
  ...card,
  gateway: [new RegExp(`^(${ipv4.source.slice(1, -1)})?$`), 'an IPv4 address'],
  storage: [/^([a-z][a-z0-9._-]*)?$/i, 'the name of a storage, or nothing'],
  'size-gib': size,
  features: [
    new RegExp(`^(${features.join('|')})(,(${features.join('|')})){0,${features.length - 1}}$`),
    `a list of ${features.join(', ')}`,
  ],
} satisfies Record<string, Form>;
/** The fields of mpN. A path has no commas or blanks, which would end the value in PVE's syntax. */
const mountPoint = {
  path: [
    /^(?!\/(proc|sys|dev)(\/|$))(\/(?!\.{1,2}(\/|$))[\w.+-]{1,255}){1,16}$/,
    'an absolute path in the container, outside /proc, /sys and /dev',
  ],
  storage: [storageForm, 'the name of a storage'],
  'size-gib': size,
  backup: yesOrNo,
} satisfies Record<string, Form>;

type Key = keyof typeof forms;
/** Annotations with several fields: net1 to net7 (net0 has its own annotations), and mp0 to mp7. */
const numbered = /^(?:net([1-7])|mp([0-7]))$/;
const choices = [...Object.keys(forms), 'net1 to net7', 'mp0 to mp7'];

export interface GuestChoices {
  readonly lxc: Pick<Config['lxc'], 'network' | 'bridge' | 'rootfs' | 'choices'>;
  readonly allowedAnnotations: readonly string[];
}

/**
 * @param annotations of the pod
 * @throws PermissionDenied if the handler or lxc.choices does not allow an annotation of crisp,
 * InvalidArgument if its value is invalid
 */
export function guestOptions(
  options: GuestChoices,
  annotations: Readonly<Record<string, string>>,
): GuestOptions {
  const { single, cards, mountPoints } = chosenBy(annotations, options.allowedAnnotations);
  const { bridge, rootfs, choices } = options.lxc;
  const storage = single.storage ?? rootfs.storage;
  const onBridge = (single.network ?? options.lxc.network) === 'bridge';
  if (!onBridge && cards.length > 0)
    throw new CrispError(
      'InvalidArgument',
      `annotation ${annotationPrefix}net${cards[0]?.index}: a pod on the CNI network has no other networks`,
      { hint: `add the annotation ${annotationPrefix}network: bridge` },
    );
  const limits = new Limits(choices);
  if (single.bridge !== undefined && single.bridge !== bridge.name) limits.bridge('bridge', single.bridge);
  if (storage !== '' && storage !== rootfs.storage) limits.storage('storage', storage);
  if (single['size-gib'] !== undefined) limits.size('size-gib', Number(single['size-gib']));
  const wanted = features.filter((name) => single.features?.split(',').includes(name));
  limits.features(wanted);
  for (const { index, fields } of cards) limits.bridge(`net${index}`, fields.bridge ?? '');
  for (const { index, storage: name, sizeGib } of mountPoints) {
    limits.storage(`mp${index}`, name);
    limits.size(`mp${index}`, sizeGib);
  }
  return {
    bridges: onBridge
      ? [
          {
            index: 0,
            name: single.bridge ?? bridge.name,
            vlan: Number(single.vlan ?? bridge.vlan),
            rate: Number(single.rate ?? bridge.rate),
            firewall: single.firewall === undefined ? bridge.firewall : single.firewall === 'true',
            address: single.address ?? 'dhcp',
            gateway: single.gateway ?? '',
          },
          ...cards.map(({ index, fields }) => ({
            index,
            name: fields.bridge ?? '',
            vlan: Number(fields.vlan ?? 0),
            rate: Number(fields.rate ?? bridge.rate),
            firewall: fields.firewall === undefined ? bridge.firewall : fields.firewall === 'true',
            address: fields.address ?? 'dhcp',
            gateway: '', // only net0 has a default route
          })),
        ]
      : [],
    volume: storage === '' ? undefined : { storage, sizeGib: Number(single['size-gib'] ?? rootfs.size_gib) },
    mountPoints,
    features: wanted,
  };
}

/** The values that the node's administrator allows to pods. */
class Limits {
  constructor(private readonly choices: Config['lxc']['choices']) {}

  bridge(key: string, name: string): void {
    this.oneOf(key, 'bridges', name);
  }
  storage(key: string, name: string): void {
    this.oneOf(key, 'storages', name);
  }
  size(key: string, gib: number): void {
    if (gib > this.choices.max_size_gib)
      throw this.denied(key, `${gib} GiB is above lxc.choices.max_size_gib (${this.choices.max_size_gib})`);
  }
  features(wanted: readonly Feature[]): void {
    const not = wanted.find((name) => !this.choices.features.includes(name));
    if (not) throw this.denied('features', `${not} is not in lxc.choices.features`);
  }

  private oneOf(key: string, list: 'bridges' | 'storages', name: string): void {
    if (!this.choices[list].some((text) => pattern(text)(name)))
      throw this.denied(key, `"${name}" is not in lxc.choices.${list}`);
  }
  private denied(key: string, why: string): CrispError {
    return new CrispError('PermissionDenied', `annotation ${annotationPrefix}${key}: ${why}`);
  }
}

interface Chosen {
  readonly single: Partial<Record<Key, string>>;
  readonly cards: readonly { readonly index: number; readonly fields: Fields<typeof card> }[];
  readonly mountPoints: readonly MountPoint[];
}
type Fields<T> = Partial<Record<keyof T, string>>;

function chosenBy(annotations: Readonly<Record<string, string>>, allowed: readonly string[]): Chosen {
  const single: Partial<Record<Key, string>> = {};
  const cards: { index: number; fields: Fields<typeof card> }[] = [];
  const mountPoints: MountPoint[] = [];
  for (const [name, value] of Object.entries(annotations)) {
    if (!name.startsWith(annotationPrefix)) continue;
    const key = name.slice(annotationPrefix.length);
    const [isNumbered, net, mp] = numbered.exec(key) ?? [];
    if (!isNumbered && !isKey(key))
      throw new CrispError(
        'InvalidArgument',
        `annotation ${name}: unknown option; after ${annotationPrefix} there can be ${choices.join(', ')}`,
      );
    if (!allowed.some((text) => pattern(text)(name)))
      throw new CrispError('PermissionDenied', `annotation ${name} is not allowed for pods on this node`, {
        hint: 'add it, or a pattern for it, to allowed_annotations of the handler',
      });
    if (net !== undefined)
      cards.push({ index: Number(net), fields: fieldsOf(name, value, card, ['bridge']) });
    else if (mp !== undefined) mountPoints.push(mountPointOf(Number(mp), name, value));
    else if (isKey(key)) single[key] = checked(name, value, forms[key]);
  }
  const inOrder = (a: { index: number }, b: { index: number }): number => a.index - b.index;
  const twice = mountPoints.find(({ path }, at) => mountPoints.findIndex((one) => one.path === path) < at);
  if (twice)
    throw new CrispError(
      'InvalidArgument',
      `annotation ${annotationPrefix}mp${twice.index}: another one has ${twice.path}`,
    );
  return { single, cards: cards.sort(inOrder), mountPoints: mountPoints.sort(inOrder) };
}

function isKey(key: string): key is Key {
  return Object.hasOwn(forms, key);
}

function checked(name: string, value: string, [form, words]: Form): string {
  if (!form.test(value))
    throw new CrispError('InvalidArgument', `annotation ${name}: "${value.slice(0, 100)}" is not ${words}`);
  return value;
}

const longestValue = 1024;

/** "key=value,key=value". */
function fieldsOf<T extends Readonly<Record<string, Form>>>(
  name: string,
  value: string,
  known: T,
  required: readonly (keyof T & string)[],
): Fields<T> {
  const found: Partial<Record<string, string>> = {};
  for (const field of value.slice(0, longestValue + 1).split(',')) {
    const at = field.indexOf('=');
    const key = field.slice(0, Math.max(at, 0));
    const form = Object.hasOwn(known, key) ? known[key] : undefined;
    if (!form || found[key] !== undefined || value.length > longestValue)
      throw new CrispError(
        'InvalidArgument',
        `annotation ${name}: each of ${Object.keys(known).join(', ')} may be there once, as KEY=VALUE, with a comma between them`,
      );
    found[key] = checked(name, field.slice(at + 1), form);
  }
  const missing = required.find((key) => found[key] === undefined);
  if (missing) throw new CrispError('InvalidArgument', `annotation ${name}: ${missing} is missing`);
  return found as Fields<T>;
}

function mountPointOf(index: number, name: string, value: string): MountPoint {
  const {
    path = '',
    storage = '',
    backup,
    ...rest
  } = fieldsOf(name, value, mountPoint, ['path', 'storage', 'size-gib']);
  return { index, path, storage, sizeGib: Number(rest['size-gib']), backup: backup === 'true' };
}

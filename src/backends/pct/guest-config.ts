// Parses PVE/lxc/VMID.conf of a CT: its tags, and the mark of crisp in its description. Pure; used by the
// guard, list() and create().
//
//   #Pod default/web, container app          description, a line each, %-escaped, with two blanks at its end
//   #crisp-owner: pve1 /run/crisp
//   #crisp-container: 4f0c…                  (facts of PVE::LXC::Config)
//   #crisp-vmid: 900123
//   #<!-- crisp-recovery q1ZKLC… 9f2a… -->   not shown by the GUI
//   tags: crisp;default
//   lxc.include: /run/crisp/bundles/4f0c…/lxc.conf
//   [snapshot]                               the following lines are not the current CT
//
// Users who may edit a CT's options can write anything into these lines, without any right on the host: so
// they are untrusted data. Without a valid id the CT does not belong to crisp; the recovery label is used
// only with a valid seal (seal.ts).
import { isContainerId } from '../../shapes/id.js';

/** The container of a CT, and the crisp to which it belongs. */
export interface Mark {
  /**
   * NODE and state folder: two crisps on one node (the daemon and the command line) do not change each
   * other's CTs.
   */
  readonly owner: string;
  readonly containerId: string;
  /** A clone has the notes of its original, but does not belong to crisp. */
  readonly vmid: string;
}

export interface SealedLabel {
  readonly text: string;
  readonly seal: string;
}

export interface GuestConfig {
  readonly tags: readonly string[];
  readonly description: string;
  /** undefined: it has none. */
  readonly mark: Mark | undefined;
  /** The line of ContainerPlan.recoveryLabel, and its seal; undefined: there is none. */
  readonly recoveryLabel: SealedLabel | undefined;
  /** The other keys, the first value of each. */
  readonly values: Readonly<Record<string, string>>;
}

/** The first key of the mark in a description. */
export const ownerKey = 'crisp-owner';
const containerKey = 'crisp-container';
const vmidKey = 'crisp-vmid';

/**
 * The description of a CT: text for users of the GUI, then the mark. The GUI shows Markdown, in which two
 * blanks at the end prevent the next line from being joined to this one.
 */
export function describe(words: readonly string[], mark: Mark): string {
  return [
    ...words,
    `${ownerKey}: ${mark.owner}`,
    `${containerKey}: ${mark.containerId}`,
    `${vmidKey}: ${mark.vmid}`,
  ]
    .map(oneLine)
    .join('  \n');
}

/**
 * A line for the configuration, which PVE reads as part of the description. It contains nothing that PVE
 * would escape.
 */
export function recoveryLine({ text, seal }: SealedLabel): string {
  return `#<!-- crisp-recovery ${text} ${seal} -->`;
}

/** A line break in a value of the pod must not start a line of crisp. */
function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\u2028\u2029]+/gu, ' ');
}

/** @param text the content of VMID.conf */
export function parseGuestConfig(text: string): GuestConfig {
  const lines = text.split('\n');
  const sections = lines.findIndex((line) => line.startsWith('['));
  const own = sections < 0 ? lines : lines.slice(0, sections);
  const values: Record<string, string> = {};
  for (const line of own) {
    const [, key, value] = /^([a-z][\w.-]*)\s*[:=]\s*(.*?)\s*$/i.exec(line) ?? [];
    if (key !== undefined && value !== undefined && !Object.hasOwn(values, key)) values[key] = value;
  }
  const description = own
    .filter((line) => line.startsWith('#'))
    .map((line) => unescape(line.slice(1)))
    .join('\n');
  return {
    tags: (values['tags'] ?? '').split(/[;, ]+/).filter(Boolean),
    description,
    mark: markOf(description),
    recoveryLabel: sealedLabelOf(description),
    values,
  };
}

/** All lines, each exactly once: a CT with a description pasted into its own does not belong to crisp. */
function markOf(description: string): Mark | undefined {
  const only = (key: string): string | undefined => {
    const found = description.split('\n').filter((line) => line.startsWith(`${key}: `));
    return found.length === 1 ? found[0]?.slice(key.length + 2).trim() : undefined;
  };
  const [owner, containerId, vmid] = [only(ownerKey), only(containerKey), only(vmidKey)];
  return owner && containerId && isContainerId(containerId) && vmid
    ? { owner, containerId, vmid }
    : undefined;
}

/** A label that is malformed or occurs twice has no valid seal. */
function sealedLabelOf(description: string): SealedLabel | undefined {
  const lines = description.split('\n').filter((line) => /^<!-- crisp-(?:recovery|keepsake)/.test(line));
  if (lines.length === 0) return undefined;
  const [, text = '', seal = ''] =
    /^<!-- crisp-(?:recovery|keepsake) ([\w+/=]+) ([0-9a-f]{64}) -->$/.exec(
      lines.length === 1 ? (lines[0] ?? '') : '',
    ) ?? [];
  return { text, seal };
}

/** A foreign description may contain a % that is not an escape. */
function unescape(line: string): string {
  try {
    return decodeURIComponent(line);
  } catch {
    return line;
  }
}

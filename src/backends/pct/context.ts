// Shared by the verbs of the backend: the programs and files of the node, and
// the state of the containers while crisp runs.
import { join } from 'node:path';
import type { ProcessIdentity } from '../../host/proc.js';
import type { ContainerRef } from '../backend.js';
import { Exits } from '../exits.js';
import { Archives } from './archives.js';
import type { Node } from './create-args.js';
import type { Findings } from './findings.js';
import { Guard } from './guard.js';
import { Intents } from './intents.js';
import { ownerOf, thisNode, type PctBackendOptions } from './options.js';
import { Pct } from './pct.js';
import { Seal } from './seal.js';
import { Units } from './unit.js';
import { Vmids } from './vmids.js';

export interface PctContext {
  readonly options: PctBackendOptions;
  readonly node: Node;
  readonly pct: Pct;
  readonly pctTimeoutMs: number;
  readonly intents: Intents;
  readonly guard: Guard;
  readonly vmids: Vmids;
  readonly archives: Archives;
  readonly units: Units;
  readonly seal: Seal;
  readonly exits: Exits;
  /** The result of the node's probe. */
  found: Findings;
  /** The containers with reported exits; the state is absent while they are being made. */
  readonly made: Map<string, ContainerRef>;
  /** The first process of each running CT. */
  readonly processes: Map<string, ProcessIdentity>;
  /**
   * Connections to the watchers of running CTs; each entry closes one. The entry of a lost watcher is kept,
   * since the loss is reported once.
   */
  readonly watched: Map<string, () => void>;
  monitorLost: (containerId: string) => void;
}

/** The context for these options. Runs no program. */
export function contextOf(options: PctBackendOptions): PctContext {
  const { lxc, root, state, name } = options;
  const pctTimeoutMs = lxc.pct_timeout_seconds * 1000;
  const owner = ownerOf(options);
  return {
    options,
    node: thisNode(),
    pct: new Pct({ program: lxc.tools.pct, timeoutMs: pctTimeoutMs, outputFolder: state }),
    pctTimeoutMs,
    intents: new Intents(root, owner),
    guard: new Guard({ pveFolder: lxc.pve_folder, range: lxc.vmid_range, tag: lxc.tag, owner }),
    vmids: new Vmids(lxc.pve_folder, lxc.vmid_range),
    archives: new Archives(join(root, 'archives')),
    units: new Units(lxc.unit_folder, lxc.tools.systemctl),
    seal: new Seal(root),
    exits: new Exits(join(state, 'exits', name)),
    found: { hostManaged: false, givesGroups: true, environmentReachesHooks: true },
    made: new Map(),
    processes: new Map(),
    watched: new Map(),
    monitorLost: () => undefined,
  };
}

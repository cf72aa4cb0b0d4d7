// The options of the pct backend: its section of the configuration and facts about
// the node.
import { cpus, hostname, totalmem } from 'node:os';
import type { Config } from '../../config/config.js';
import { cgroupVersion } from '../../host/cgroup.js';
import type { IdMaps } from '../../shapes/sandbox.js';
import type { Node } from './create-args.js';

export interface PctBackendOptions {
  /** The runtime handler. */
  readonly name: string;
  readonly lxc: Config['lxc'];
  /** The annotations that pods may use: see guest-options.ts. */
  readonly allowedAnnotations: readonly string[];
  /** The state folder of the daemon (or of the command line). */
  readonly state: string;
  readonly root: string;
}

/** @param state the daemon's folder, or the command line's */
export function optionsOf(config: Config, name: string, state: string): PctBackendOptions {
  return {
    name,
    lxc: config.lxc,
    allowedAnnotations: config.handlers[name]?.allowed_annotations ?? [],
    state,
    root: config.root,
  };
}

/** The facts of this node that limits depend on; memory in bytes. */
export function thisNode(): Node {
  return {
    arch: process.arch,
    hostname: hostname(),
    memoryBytes: totalmem(),
    cpus: cpus().length,
    cgroup: cgroupVersion(),
  };
}

/**
 * The owner mark: the daemon and the command line on a node are different owners, each with a state folder of
 * its own.
 */
export function ownerOf({ lxc, state }: Pick<PctBackendOptions, 'lxc' | 'state'>): string {
  return `${lxc.owner || hostname()} ${state}`;
}

const map = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
/** The ids of every unprivileged CT (PVE::LXC: root:100000:65536 of /etc/subuid). */
export const unprivilegedIds: IdMaps = { uids: map, gids: map };

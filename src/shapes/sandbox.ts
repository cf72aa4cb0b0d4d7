// The plan of a pod, for the code that makes its namespaces, its network and
// its containers. Made by pod/plan, kept in the pod's record.
import type { IdMapping } from './spec.js';

/** The plan of a pod, for a backend. */
export interface SandboxPlan {
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly attempt: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** A folder under the state folder, made and removed by the caller. */
  readonly folder: string;
  readonly hostname: string | undefined;
  /** Paths of pinned namespaces; an absent one is the host's (or, for pid, each container's own). */
  readonly namespaces: Readonly<Partial<Record<'network' | 'ipc' | 'uts' | 'pid' | 'user', string>>>;
  /** The mapping of namespaces.user. */
  readonly idMaps?: IdMaps | undefined;
  /**
   * Each container has a network of its own (Backend.ownNetwork): there is no namespaces.network, but it is
   * not the host's.
   */
  readonly ownNetwork?: boolean | undefined;
  readonly cgroupParent: string;
}

/** The host ids of a user namespace's ids. */
export interface IdMaps {
  readonly uids: readonly IdMapping[];
  readonly gids: readonly IdMapping[];
}

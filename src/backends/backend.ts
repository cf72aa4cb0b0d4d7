// What runs containers, in OCI words: no CRI type enters here.
//
// One instance stands for one runtime handler ("crun", "runc", "lxc").  The
// stories of cri/ and the commands of cli/ call it; daemon.ts and the router
// are the only ones that know which classes there are.
//
//   create ──► start ──► (runs) ──► exit, seen once through onExit
//      └──────────────────────────► delete (from any state)
import type { Io } from '../shapes/io.js';
import type { IdMaps, SandboxPlan } from '../shapes/sandbox.js';
import type { Resources, Spec } from '../shapes/spec.js';

/**
 * How a backend wants the rootfs of its containers.
 * overlay: the caller mounts one over the image's layers (shifted into the pod's
 * user namespace, where it has one) and names it in spec.root.path.
 * own: the backend makes a copy; spec.root.path is a read-only view of the image.
 */
export type RootfsMode = { readonly kind: 'overlay' } | { readonly kind: 'own' };

/** What a container is to a backend. */
export interface ContainerPlan {
  readonly id: string;
  readonly name: string;
  readonly attempt: number;
  readonly image: string;
  readonly imageId: string;
  /** The image is no OCI image but this template of Proxmox (a volume id): there is nothing at spec.root.path. */
  readonly template?: string | undefined;
  readonly sandbox: SandboxPlan;
  /** The bundle: holds config.json, and is the place for the backend's own files (FIFOs, pid file). On tmpfs by default. */
  readonly folder: string;
  /** The spec that config.json holds; root.path is the rootfs, mounted already when rootfs() wished so. */
  readonly spec: Spec;
  /** Mount sources whose files have the owners that they have in the container: nothing is to be shifted in them. */
  readonly shiftedSources?: readonly string[];
  readonly logPath: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  /** SIGTERM and so on, for backends that keep it in a config. */
  readonly stopSignal: string;
  /** A line that tells who the container is, for backends that can keep it where it outlives our state folder; undefined: it would be too long. Absent: not worth it. */
  recoveryLabel?(): string | undefined;
}

/** Names a container that create() made: its id, its bundle, and what create() returned. */
export interface ContainerRef {
  readonly id: string;
  readonly folder: string;
  readonly logPath: string;
  /** The backend's own JSON, as create() returned it; nobody else reads it. */
  readonly state: unknown;
}

/** A container that bears our mark. */
export interface FoundContainer extends ContainerRef {
  /** What ContainerPlan.recoveryLabel gave; 'forged': something is there that crisp did not put there. */
  readonly recoveryLabel?: string | undefined;
}

/** A container that a tool which was cut off has left half made or half removed. */
export interface Remnant {
  /** For a person: "CT 900123 of CONTAINER". */
  readonly name: string;
  /** Removes what is left of it; nothing when it is no remnant any more. */
  readonly end: () => Promise<void>;
}

export interface Exit {
  /** 0..255; 128+n for a death by signal n. */
  readonly exitCode: number;
  /** Nanoseconds since the epoch. */
  readonly finishedAt: bigint;
  readonly oomKilled: boolean;
}

/** What survey() finds of one container. */
export type Alive =
  | { readonly status: 'created' | 'running'; readonly pid: number }
  | { readonly status: 'stopped'; readonly exit: Exit | undefined }
  | { readonly status: 'missing' };

/** User, environment, rights and working folder are those of the container's own process. */
export interface ExecPlan {
  readonly args: readonly string[];
  /** "NAME=value", on top of the container's own. */
  readonly env?: readonly string[];
  readonly io: Io;
  /** Milliseconds; undefined: no limit. At its end the process group is killed. */
  readonly timeoutMs: number | undefined;
}

export interface Features {
  readonly recursiveReadOnlyMounts: boolean;
  readonly userNamespaces: boolean;
}

/** The outcome of running a throw-away container. */
export interface Probe {
  readonly ready: boolean;
  /** Why not, in words for a person; empty when ready. */
  readonly reason: string;
  /** The same for a program that looks for a fix; absent when ready, and before the first probe. */
  readonly failure?: ProbeFailure;
  readonly version: string;
  readonly features: Features;
  /** Why a feature is not there, in words for a person. */
  readonly lacks: Readonly<Partial<Record<keyof Features, string>>>;
  /** What else the backend found, as its own JSON; see Backend.recall. */
  readonly found?: unknown;
}

export interface ProbeFailure {
  /** The reason without its hint. */
  readonly finding: string;
  readonly hint: string;
  /** The name or path of the program that is not installed, where that is the reason. */
  readonly missing: string | undefined;
}

/** An OCI runtime: its name or path, and the arguments before the verb. */
export interface OciRuntime {
  readonly path: string;
  readonly args: readonly string[];
}

/**
 * Every call may throw a CrispError.  kill, delete and stopSandbox are
 * idempotent: what is gone already is no error.
 */
export interface Backend {
  /** The runtime handler it serves. */
  readonly name: string;
  /** Runs a throw-away container: create, start, exit code, delete. Never throws. */
  probe(): Promise<Probe>;
  /** Tells versions of the programs behind it apart (and whether they are there): when it changes, what the probe found is no longer known. Never throws. */
  fingerprint(): Promise<string>;
  /** Takes over what an earlier probe of the same node found, instead of a new one. Absent: a probe leaves nothing that creating needs. */
  recall?(probe: Probe): void;

  /** The OCI runtime behind it, which can start the holder of a pod's pid namespace too. Absent: none is. */
  readonly ociRuntime?: OciRuntime;

  /** The user namespace of pods that ask for none and share none of the host's; absent: the host's. */
  userNamespace?(plan: SandboxPlan): IdMaps | undefined;
  /** Whether containers of this pod bring a network of their own, instead of the one that CNI makes. Absent: never. @throws PermissionDenied, InvalidArgument for what the pod asks for */
  ownNetwork?(plan: SandboxPlan): boolean;
  /** The addresses of a running container with a network of its own; none are known yet: []. */
  addresses?(container: ContainerRef): Promise<readonly string[]>;
  /** What the backend must make once per pod; its answer is kept in the pod's record. */
  startSandbox(plan: SandboxPlan): Promise<unknown>;
  /** Undoes startSandbox; all containers are stopped already. */
  stopSandbox(plan: SandboxPlan, state: unknown): Promise<void>;

  /** What of a spec the backend cannot give, as paths in it: "spec.hooks". Absent: nothing. */
  notHonoured?(spec: Spec): readonly string[];
  /** Asked before the rootfs of a container is made. @param template of Proxmox, see ContainerPlan @throws InvalidArgument where there can be none from it */
  rootfs(plan: SandboxPlan, template?: string): RootfsMode;
  /** Removes what was prepared of an image that is gone. */
  forgetImage?(imageId: string): Promise<void>;
  /** Makes the container, not yet running; the answer is kept in its record. Undoes itself on failure. */
  create(plan: ContainerPlan): Promise<unknown>;
  /** Makes something of the plan that is no container of ours, and that its own platform looks after. Absent: the backend has no such. @returns its number */
  makeGuest?(plan: ContainerPlan, starts: boolean): Promise<number>;
  /** Runs the container's process. @throws StartFailed when the process cannot be executed. */
  start(container: ContainerRef): Promise<{ pid: number }>;
  /** Sends a signal (a number) to the container's first process; `all`: to every process in it. */
  kill(container: ContainerRef, signal: number, all?: boolean): Promise<void>;
  /** Removes all that create() made, killing what runs. The bundle and the rootfs are the caller's. */
  delete(container: ContainerRef): Promise<void>;

  /** Runs one more process in a running container, to its end. @throws ExecTimeout */
  exec(container: ContainerRef, plan: ExecPlan, signal: AbortSignal): Promise<{ exitCode: number }>;
  /** Connects to the container's first process until the client or the process ends. */
  attach(container: ContainerRef, io: Io, signal: AbortSignal): Promise<void>;
  update(container: ContainerRef, resources: Resources): Promise<void>;
  /** The log file was renamed: write to a new one at the same path. */
  reopenLog(container: ContainerRef): Promise<void>;
  /** Writes criu's images of a running container, which runs on, into the folder. @throws Unsupported where the host or the runtime cannot */
  checkpoint(container: ContainerRef, folder: string, timeoutMs: number): Promise<void>;

  /** Whether a container that runs by all we know may have ended all the same: cheap, no program is run for it; survey() then tells. */
  inDoubt(container: ContainerRef): Promise<boolean>;
  /** What is alive of these containers now; used at start and when a state is in doubt. */
  survey(container: ContainerRef): Promise<Alive>;
  /** The ids of all containers that bear our mark, recorded or not; recovery removes the ones without a record. */
  list(): Promise<readonly FoundContainer[]>;
  /** What an earlier run had begun to make or to remove, and nothing works on any more: recovery and `crisp gc` end it. Absent: there can be none. */
  remnants?(): Promise<readonly Remnant[]>;
  /**
   * Takes back a container that our state folder has lost: makes anew what it had in its bundle.
   * Absent: the backend's containers carry no recoveryLabel.
   * @returns its pid; undefined: it does not run
   */
  reclaim?(container: ContainerRef): Promise<number | undefined>;
  /** The listener hears of each exit once, also of exits while we were away (after the survey). Set before anything is created. */
  onExit(listener: (containerId: string, exit: Exit) => void): void;
  /**
   * The listener hears of each running container whose monitor (what writes its log
   * and its exit) is gone: when that is found, and again when such a container ends.
   * Also after a restart of the daemon, from the survey on. Set before anything is created.
   */
  onMonitorLost(listener: (containerId: string) => void): void;
  /** The cgroup of a container, relative to the cgroup root ("/kubepods/…/ID"). */
  cgroup(container: ContainerRef): string;
  /** Stops watching; containers run on. */
  close(): Promise<void>;
}

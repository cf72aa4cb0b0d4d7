// The interface of a backend, which runs containers, in OCI terms: no CRI
// types.
//
// One instance per runtime handler ("crun", "runc", "lxc"). Called by cri/
// and the commands of cli/; only build.ts depends on the classes.
//
//   create ──► start ──► (runs) ──► exit, reported once through onExit
//      └──────────────────────────► delete (from any state)
import type { Io } from '../shapes/io.js';
import type { IdMaps, SandboxPlan } from '../shapes/sandbox.js';
import type { Resources, Spec } from '../shapes/spec.js';

/**
 * The kind of rootfs that a backend needs for its containers. overlay: the caller
 * mounts an overlay over the image's layers (mapped into the pod's user
 * namespace, if it has one) and sets spec.root.path. own: the backend makes a
 * copy; spec.root.path is a read-only view of the image.
 */
export type RootfsMode = { readonly kind: 'overlay' } | { readonly kind: 'own' };

/** The plan of a container, for a backend. */
export interface ContainerPlan {
  readonly id: string;
  readonly name: string;
  readonly attempt: number;
  readonly image: string;
  readonly imageId: string;
  /**
   * Set if the image is not an OCI image but a template of Proxmox (its volume id): spec.root.path is not
   * used.
   */
  readonly template?: string | undefined;
  readonly sandbox: SandboxPlan;
  /**
   * The bundle: the folder of config.json and of the backend's own files (FIFOs, pid file). On tmpfs by
   * default.
   */
  readonly folder: string;
  /** The content of config.json; root.path is the rootfs, already mounted if rootfs() requires it. */
  readonly spec: Spec;
  /** Mount sources with files that already have the owners of the container: they must not be idmapped. */
  readonly shiftedSources?: readonly string[];
  readonly logPath: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  /** The stop signal (SIGTERM and so on), for backends that store it in a config. */
  readonly stopSignal: string;
  /**
   * The recovery label, for backends that can store it outside of the state folder; undefined: it would be
   * too long. Absent: not needed.
   */
  recoveryLabel?(): string | undefined;
}

/** Identifies a container that create() made: its id, its bundle, and the result of create(). */
export interface ContainerRef {
  readonly id: string;
  readonly folder: string;
  readonly logPath: string;
  /** The backend's own JSON from create(); not read elsewhere. */
  readonly state: unknown;
}

/** A container with crisp's mark. */
export interface FoundContainer extends ContainerRef {
  /** ContainerPlan.recoveryLabel; 'forged': a label that crisp did not write. */
  readonly recoveryLabel?: string | undefined;
}

/** The rest of a container after an interrupted creation or removal. */
export interface Remnant {
  /** For messages: "CT 900123 of CONTAINER". */
  readonly name: string;
  /** Removes it; no effect if it is not a remnant any more. */
  readonly end: () => Promise<void>;
}

export interface Exit {
  /** 0..255; 128+n for an end by signal n. */
  readonly exitCode: number;
  /** Nanoseconds since the epoch. */
  readonly finishedAt: bigint;
  readonly oomKilled: boolean;
}

/** The result of survey() for one container. */
export type Alive =
  | { readonly status: 'created' | 'running'; readonly pid: number }
  | { readonly status: 'stopped'; readonly exit: Exit | undefined }
  | { readonly status: 'missing' };

/** Uses the user, environment, privileges and working folder of the container's own process. */
export interface ExecPlan {
  readonly args: readonly string[];
  /** "NAME=value", in addition to the container's own. */
  readonly env?: readonly string[];
  readonly io: Io;
  /** Milliseconds; undefined: no limit. Then the process group is killed. */
  readonly timeoutMs: number | undefined;
}

export interface Features {
  readonly recursiveReadOnlyMounts: boolean;
  readonly userNamespaces: boolean;
}

/** The result of running a temporary container. */
export interface Probe {
  readonly ready: boolean;
  /** The reason why it is not ready, as a message; empty if ready. */
  readonly reason: string;
  /** The same for a program that looks for a fix; absent when ready, and before the first probe. */
  readonly failure?: ProbeFailure;
  readonly version: string;
  readonly features: Features;
  /** The reason why a feature is missing, as a message. */
  readonly lacks: Readonly<Partial<Record<keyof Features, string>>>;
  /** Other findings of the backend, as its own JSON; see Backend.recall. */
  readonly found?: unknown;
}

export interface ProbeFailure {
  /** The reason without its hint. */
  readonly finding: string;
  readonly hint: string;
  /** The name or path of the missing program, if that is the reason. */
  readonly missing: string | undefined;
}

/** An OCI runtime: its name or path, and the arguments before the verb. */
export interface OciRuntime {
  readonly path: string;
  readonly args: readonly string[];
}

/**
 * Every call may throw a CrispError.  kill, delete and stopSandbox are
 * idempotent: it is not an error if the object is gone already.
 */
export interface Backend {
  /** The name of its runtime handler. */
  readonly name: string;
  /** Runs a temporary container: create, start, exit code, delete. Never throws. */
  probe(): Promise<Probe>;
  /**
   * Identifies the versions of its programs (and whether they exist): when it changes, the result of the
   * probe is not valid any more. Never throws.
   */
  fingerprint(): Promise<string>;
  /**
   * Uses the findings of an earlier probe of the same node instead of a new probe. Absent: creating does not
   * depend on findings.
   */
  recall?(probe: Probe): void;

  /** Its OCI runtime, which can also start the holder of a pod's pid namespace. Absent: none. */
  readonly ociRuntime?: OciRuntime;

  /**
   * The default user namespace of pods that do not request one and do not share a namespace of the host;
   * absent: the host's.
   */
  userNamespace?(plan: SandboxPlan): IdMaps | undefined;
  /**
   * Whether containers of this pod have a network of their own, instead of the pod's CNI network. Absent:
   * never. @throws PermissionDenied, InvalidArgument for the pod's options
   */
  ownNetwork?(plan: SandboxPlan): boolean;
  /** The addresses of a running container with a network of its own; empty: not known yet. */
  addresses?(container: ContainerRef): Promise<readonly string[]>;
  /** Makes the parts of the backend that exist once per pod; the result is kept in the pod's record. */
  startSandbox(plan: SandboxPlan): Promise<unknown>;
  /** Undoes startSandbox; all containers are stopped already. */
  stopSandbox(plan: SandboxPlan, state: unknown): Promise<void>;

  /** The fields of a spec that the backend does not support, as paths: "spec.hooks". Absent: none. */
  notHonoured?(spec: Spec): readonly string[];
  /**
   * Called before the rootfs of a container is made. @param template of Proxmox, see ContainerPlan @throws
   * InvalidArgument if it is not supported
   */
  rootfs(plan: SandboxPlan, template?: string): RootfsMode;
  /** Removes prepared files of an image that is gone. */
  forgetImage?(imageId: string): Promise<void>;
  /** Makes the container without starting it; the result is kept in its record. Undoes itself on failure. */
  create(plan: ContainerPlan): Promise<unknown>;
  /**
   * Makes an ordinary guest from the plan: the platform manages it, not crisp. Absent: not supported.
   * @returns its number
   */
  makeGuest?(plan: ContainerPlan, starts: boolean): Promise<number>;
  /** Runs the container's process. @throws StartFailed when the process cannot be executed. */
  start(container: ContainerRef): Promise<{ pid: number }>;
  /** Sends a signal (a number) to the container's first process; `all`: to every process in it. */
  kill(container: ContainerRef, signal: number, all?: boolean): Promise<void>;
  /**
   * Removes everything that create() made, and kills running processes. The caller removes the bundle and the
   * rootfs.
   */
  delete(container: ContainerRef): Promise<void>;

  /** Runs a command in a running container until it ends. @throws ExecTimeout */
  exec(container: ContainerRef, plan: ExecPlan, signal: AbortSignal): Promise<{ exitCode: number }>;
  /** Connects to the container's first process until the client or the process ends. */
  attach(container: ContainerRef, io: Io, signal: AbortSignal): Promise<void>;
  update(container: ContainerRef, resources: Resources): Promise<void>;
  /** The log file was renamed: switches to a new file at the same path. */
  reopenLog(container: ContainerRef): Promise<void>;
  /**
   * Writes criu's images of a running container, which keeps running, into the folder. @throws Unsupported if
   * the host or the runtime does not support it
   */
  checkpoint(container: ContainerRef, folder: string, timeoutMs: number): Promise<void>;

  /**
   * Whether a container that is recorded as running may have ended: cheap, without running a program;
   * survey() then gives the answer.
   */
  inDoubt(container: ContainerRef): Promise<boolean>;
  /**
   * The current state of a container; used at start and when a state is in doubt. @param wasStarted its start
   * in this boot is recorded, so it is running if its first process is there
   */
  survey(container: ContainerRef, wasStarted?: boolean): Promise<Alive>;
  /**
   * All containers with crisp's mark, with or without a record; recovery removes those without. Fails if they
   * cannot be listed: an empty list would mean that nothing runs.
   */
  list(): Promise<readonly FoundContainer[]>;
  /**
   * Interrupted creations and removals of an earlier run, on which no tool is working any more: recovery and
   * `crisp gc` remove them. Absent: there can be none.
   */
  remnants?(): Promise<readonly Remnant[]>;
  /**
   * Reclaims a container that was lost with the state folder: restores its bundle. Absent: the
   * backend's containers have no recovery label.
   * @returns its pid; undefined: it is not running
   */
  reclaim?(container: ContainerRef): Promise<number | undefined>;
  /**
   * The listener is called once for each exit, also for exits while crisp was not running (after the survey).
   * Set before anything is created.
   */
  onExit(listener: (containerId: string, exit: Exit) => void): void;
  /**
   * The listener is called for each running container that has lost its monitor (the writer
   * of its log and its exit): when this is detected, and again when the container ends. Also
   * after a restart of the daemon, from the survey on. Set before anything is created.
   */
  onMonitorLost(listener: (containerId: string) => void): void;
  /** The cgroup of a container, relative to the cgroup root ("/kubepods/…/ID"). */
  cgroup(container: ContainerRef): string;
  /** Stops watching; containers keep running. */
  close(): Promise<void>;
}

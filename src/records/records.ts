// The records of pod sandboxes and containers, and the states derived from them.
//
//   sandbox:    READY ── stoppedAt or endedAt ──► NOTREADY ──► record removed
//   container:  CREATED ── startedAt ──► RUNNING ── exit ──► EXITED ──► record removed
//
// A record is read as untrusted data: its types are checked (not more strictly than
// the values that an image or a plugin may put into it), paths are made from its id
// (placed.ts), and names of programs are looked up in the configuration. docs/adr/0011
// describes how records change.
//
// A record has the request and the exit; the state is derived from them, never stored.
// Times are nanoseconds since the epoch as strings: they do not fit a JS number, and
// JSON has no bigint.
import { randomBytes } from 'node:crypto';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import * as z from 'zod';
import type { ContainerState__Output as ContainerState } from '../cri/generated/runtime/v1/ContainerState.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import type { PodSandboxState__Output as PodSandboxState } from '../cri/generated/runtime/v1/PodSandboxState.js';
import type { Signal__Output as Signal } from '../cri/generated/runtime/v1/Signal.js';
import { containerConfigOf, linuxResourcesOf, podSandboxConfigOf } from '../cri/proto.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import { attachmentSchema } from '../network/conflist.js';
import { idSchema, storedPlanSchema } from './stored.js';

export { fromJson, idSchema, now } from './stored.js';

const nanoseconds = z.string().regex(/^\d{1,20}$/);
const count = z.number().int().nonnegative();

/** A message of the CRI, with the check of its type. */
function message<T>(of: (value: unknown) => T): z.ZodType<T> {
  return z.unknown().transform((value, context) => {
    try {
      return of(value);
    } catch (error) {
      context.addIssue((error as Error).message);
      return z.NEVER;
    }
  });
}
const resources = message(linuxResourcesOf);

/**
 * The file of a pod's record: STATE/sandboxes/ID.json. Times are nanoseconds since the epoch, as decimal
 * text.
 */
export const storedSandboxSchema = z.object({
  version: z.literal(1),
  id: idSchema,
  /** The request as received. */
  config: message(podSandboxConfigOf),
  runtimeHandler: z.string(),
  /** The handler that the router chose, and the rule; never changed during the life of the pod. */
  handler: z.string(),
  rule: z.string(),
  bootId: z.string(),
  /** false from the write of the intent until the sandbox is complete: recovery undoes such a sandbox. */
  complete: z.boolean(),
  /** Its caller disconnected while it was made: it is hidden until the retry comes. */
  unclaimed: z.boolean().optional(),
  createdAt: nanoseconds,
  stoppedAt: nanoseconds.optional(),
  /**
   * When the holder was found to have ended by itself: the pod has to be stopped, and nothing can be started
   * in it.
   */
  endedAt: nanoseconds.optional(),
  plan: storedPlanSchema,
  /** undefined: on the host's network, or plan.ownNetwork. */
  attachment: attachmentSchema.optional(),
  /** The addresses of a pod with plan.ownNetwork, once they are known. */
  ips: z.array(z.string()).optional(),
  /** The result of backend.startSandbox. */
  backendState: z.unknown().optional(),
  /** The process that keeps a pod-wide pid namespace. */
  holder: z.object({ pid: z.number().int().min(2), startTime: z.string().regex(/^\d+$/) }).optional(),
  resources: resources.optional(),
  overhead: resources.optional(),
});
export type StoredSandbox = z.infer<typeof storedSandboxSchema>;
export type SandboxRecord = Omit<StoredSandbox, 'plan'> & { plan: SandboxPlan };

/**
 * The file of a container's record: STATE/containers/ID.json. Times are nanoseconds since the epoch, as
 * decimal text.
 */
export const storedContainerSchema = z.object({
  version: z.literal(1),
  id: idSchema,
  sandboxId: idSchema,
  config: message(containerConfigOf),
  handler: z.string(),
  bootId: z.string(),
  complete: z.boolean(),
  /** Its caller disconnected while it was made: it is hidden until the retry comes. */
  unclaimed: z.boolean().optional(),
  imageId: z.string(),
  /**
   * The name of the image when the container was made: its first tag, otherwise a digest reference; for
   * ContainerStatus.image. Absent in records of older versions.
   */
  imageName: z.string().optional(),
  /** NAME@DIGEST if the image has one, for image_ref. */
  imageRef: z.string(),
  /** The images that are mounted as volumes: index in config.mounts -> image id. */
  imageVolumes: z.record(z.string(), z.string()).default({}),
  logPath: z.string(),
  /** The CRI's name, such as SIGNAL_SIGTERM. */
  stopSignal: z.custom<Signal>((value) => typeof value === 'string'),
  /** The user and groups of the process, for ContainerStatus.user. */
  user: z.object({ uid: z.number(), gid: z.number(), supplementalGroups: z.array(z.number()) }),
  /**
   * Paths of requested CRI fields ("linux.…") or spec fields ("spec.…") that are not honoured, for the
   * verbose status.
   */
  notHonoured: z.array(z.string()),
  resources: resources.optional(),
  /** Folders of the host that were made for mounts, outermost first. */
  madeMountSources: z.array(z.string()).optional(),
  backendState: z.unknown().optional(),
  createdAt: nanoseconds,
  startedAt: nanoseconds.optional(),
  pid: count.optional(),
  /** When its monitor was found dead while it ran: its log is not written any more. */
  unwatchedAt: nanoseconds.optional(),
  exit: z
    .object({ exitCode: z.number().int(), finishedAt: nanoseconds, reason: z.string(), message: z.string() })
    .optional(),
});
export type StoredContainer = z.infer<typeof storedContainerSchema>;
/** folder: its bundle. */
export type ContainerRecord = StoredContainer & { folder: string };

/** Ids are 64 hex digits, as expected by tools that find container ids in paths and cgroups. */
export function newId(): string {
  return randomBytes(32).toString('hex');
}

/** The state of a pod for the CRI: ready from its completion until it is stopped, or its holder has ended. */
export function sandboxState(record: SandboxRecord): PodSandboxState {
  return record.complete && record.stoppedAt === undefined && record.endedAt === undefined
    ? 'SANDBOX_READY'
    : 'SANDBOX_NOTREADY';
}

/** Orders times of records, the earlier first. */
export function compareTimes(one: string, other: string): number {
  return one.length - other.length || (one < other ? -1 : one > other ? 1 : 0); // numerically: there are no leading zeros
}

/** The state of a container for the CRI; never CONTAINER_UNKNOWN. */
export function containerState(record: ContainerRecord): ContainerState {
  if (record.exit) return 'CONTAINER_EXITED';
  if (record.startedAt) return 'CONTAINER_RUNNING';
  return 'CONTAINER_CREATED';
}

/** The name that must be unique among sandboxes, and that the kubelet repeats in a retry. */
export function sandboxKey(config: PodSandboxConfig__Output): string {
  const { name, namespace, uid, attempt } = config.metadata ?? {
    name: '',
    namespace: '',
    uid: '',
    attempt: 0,
  };
  return [name, namespace, uid, attempt].join('_');
}

/** The name that must be unique among containers, and that the kubelet repeats in a retry. */
export function containerKey(sandboxId: string, config: ContainerConfig__Output): string {
  return [sandboxId, config.metadata?.name ?? '', config.metadata?.attempt ?? 0].join('_');
}

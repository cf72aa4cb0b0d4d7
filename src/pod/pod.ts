// A pod on this host: its folder, namespaces, network, memory, cgroup, the holder
// of a shared pid namespace, and the parts that its backend makes once per pod.
// Pods are made, repaired, released and removed only here; called by cri/, by
// recovery, by `crisp gc` and by the standalone commands, in which each container
// has a pod of its own.
//
//   makePod ──► (containers) ──► releasePod ──► removePod
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { Backend, OciRuntime } from '../backends/backend.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { makePodCgroup, removePodCgroup, writeResources } from '../host/cgroup.js';
import { expectPassage, makeClosedFolder, remove } from '../host/files.js';
import { unmount, unmountBelow } from '../host/mounts.js';
import { step } from '../steps.js';
import type { ProcessIdentity } from '../host/proc.js';
import type { Undo } from '../host/undo.js';
import type { Network } from '../network/cni.js';
import type { Attachment } from '../network/conflist.js';
import type { HostFacts } from '../oci/host-facts.js';
import { cgroupsPath, rootGroupOf, sharesWithHost } from '../oci/namespaces.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import type { Resources } from '../shapes/spec.js';
import { podFilesOf } from './files.js';
import { repairPodMemory, mountPodMemory, podMemory } from './memory.js';
import {
  bringLoopbackUp,
  namespaceFiles,
  pinNamespaces,
  repinNamespaces,
  unpinNamespaces,
} from './namespaces.js';
import {
  findHolderTools,
  holderFolder,
  startPidHolder,
  stopPidHolder,
  type HolderTools,
} from './pid-holder.js';
import {
  checkOwnNetwork,
  namespacesFolder,
  ownsCgroup,
  podNetwork,
  sharesPids,
  userNamespace,
  wantedNamespaces,
} from './plan.js';

export interface PodRequest {
  /** Checked by checkedConfig(). */
  readonly config: PodSandboxConfig__Output;
  /** The result of planOf(). */
  readonly plan: SandboxPlan;
  readonly backend: Backend;
  readonly host: Pick<HostFacts, 'systemdCgroup' | 'lowestOomScoreAdj'>;
  /** Assigns its address. Absent: its network namespace has only loopback. */
  readonly network?: Pick<Network, 'attach' | 'detach'>;
  /** The runtimes that may start the holder of a shared pid namespace, the preferred one first. */
  readonly holderRuntimes: readonly OciRuntime[];
  /** false: the caller chose the network of the pod, and its annotations are ignored. */
  readonly mayHaveOwnNetwork?: boolean;
}

/** The parts of a pod that its record keeps. */
export interface MadePod {
  /** The plan of the request, with the pinned namespaces and the mapping of ids. */
  readonly plan: SandboxPlan;
  readonly attachment: Attachment | undefined;
  readonly holder: ProcessIdentity | undefined;
  /** The result of Backend.startSandbox(). */
  readonly backendState: unknown;
}

/**
 * Settings of a pod's own network namespace, in which no port needs protection: programs without root may
 * listen on ports below 1024, and use ping (ip(7), icmp(7)).
 */
const openToAll = { 'net.ipv4.ip_unprivileged_port_start': '0', 'net.ipv4.ping_group_range': '0 2147483647' };
/** The whole pod ends with the holder: so the kernel's OOM killer should choose it last. */
const holderOomScoreAdj = -998;

/**
 * Makes a pod. The removal of each part is on `undo` before the part is made.
 * @throws UnsupportedField, ToolMissing, InvalidArgument, NamespaceFailed, SysctlFailed, and the errors of
 * the network and the backend
 */
export async function makePod(undo: Undo, request: PodRequest): Promise<MadePod> {
  const { config, plan, backend, network } = request;
  // 1. The checks, before anything is made.
  const ownNetwork =
    wantedNamespaces(config).network &&
    request.mayHaveOwnNetwork !== false &&
    (backend.ownNetwork?.(plan) ?? false);
  if (ownNetwork) checkOwnNetwork(config);
  const wanted = { ...wantedNamespaces(config), ...(ownNetwork ? { network: false } : {}) };
  const holderTools = sharesPids(config) ? await findHolderTools(request.holderRuntimes) : undefined;
  const idMaps =
    userNamespace(config) ?? (sharesWithHost(config) ? undefined : backend.userNamespace?.(plan));

  // 2. Its folder, with the files for its containers.
  undo.push('folder', () => remove(plan.folder));
  if (idMaps) await expectPassage(dirname(plan.folder));
  makeClosedFolder(plan.folder, rootGroupOf(idMaps));
  const files = await podFilesOf(config);

  // 3. The namespaces, with hostname and sysctls.
  undo.push('namespaces', () => unpinNamespaces(namespacesFolder(plan)));
  const namespaces: Record<string, string> = await pinNamespaces(
    namespacesFolder(plan),
    { ...wanted, user: idMaps },
    {
      hostname: wanted.uts ? config.hostname : '',
      sysctls: { ...(wanted.network && !idMaps ? openToAll : {}), ...config.linux?.sysctls },
    },
  );
  const netns = namespaces['network'] ?? '';

  // 4. Independent parts, in parallel: the network takes longest, so the others take no extra time once its
  // first plugin runs (each start of a process blocks this thread for some milliseconds).
  const begun = setImmediate();
  undo.push('cgroup', () => (ownsCgroup(config) ? removePodCgroup(plan.cgroupParent) : undefined));
  const cgroup = begun.then(() => (ownsCgroup(config) ? makePodCgroup(plan.cgroupParent) : undefined));
  undo.push('memory', () => unmount(podMemory(plan.folder)));
  const [attachment, holder] = await allOf([
    wanted.network && network ? attach(undo, network, request, netns) : undefined,
    holderTools &&
      cgroup.then(() => startHolder(undo, request.host, { ...plan, namespaces, idMaps }, holderTools)),
    begun.then(() => (wanted.network ? bringLoopbackUp(netns) : undefined)),
    begun.then(() => mountPodMemory(plan.folder, files)),
    cgroup,
  ] as const);

  // 5. The parts that the backend makes once per pod.
  const made: SandboxPlan = {
    ...plan,
    ...(idMaps ? { idMaps } : {}),
    ...(ownNetwork ? { ownNetwork } : {}),
    namespaces: { ...namespaces, ...(holder ? { pid: holder.path } : {}) },
  };
  const backendState = await backend.startSandbox(made);
  undo.push('backend sandbox', () => backend.stopSandbox(made, backendState));
  return { plan: made, attachment, holder: holder?.holder, backendState };
}

async function attach(
  undo: Undo,
  network: NonNullable<PodRequest['network']>,
  { plan, config }: PodRequest,
  netns: string,
): Promise<Attachment> {
  const pod = podNetwork(plan, config, netns);
  const attachment = await network.attach(pod); // without the caller's signal: a started attach is finished, for the retry
  undo.push('network', () => network.detach(pod, attachment));
  return attachment;
}

async function startHolder(
  undo: Undo,
  host: PodRequest['host'],
  plan: SandboxPlan,
  tools: HolderTools,
): Promise<{ path: string; holder: ProcessIdentity }> {
  const folder = holderFolder(plan.folder);
  undo.push('pid holder', () => stopPidHolder(folder));
  return startPidHolder({
    tools,
    folder,
    namespaces: plan.namespaces,
    idMaps: plan.idMaps,
    cgroupsPath: cgroupsPath(plan.cgroupParent, `holder-${plan.id}`, host.systemdCgroup),
    systemdCgroup: host.systemdCgroup,
    oomScoreAdj: Math.max(holderOomScoreAdj, host.lowestOomScoreAdj),
  });
}

/**
 * Makes the folder, the pins and the memory of a pod again after its folder was lost. @param pid a process in
 * its namespaces
 */
export async function remakePod(
  plan: SandboxPlan,
  config: PodSandboxConfig__Output,
  pid: number,
): Promise<void> {
  makeClosedFolder(plan.folder, rootGroupOf(plan.idMaps));
  await repinNamespaces(namespacesFolder(plan), plan.namespaces, pid);
  await repairPod(plan, config); // for later containers: the memory of the running ones cannot be reached
}

/** Mounts the memory of a pod that has none, because an earlier version of crisp made it. */
export async function repairPod(plan: SandboxPlan, config: PodSandboxConfig__Output): Promise<void> {
  await repairPodMemory(plan.folder, () => podFilesOf(config));
}

/**
 * Sets the limits of a pod that has its own cgroup: see ownsCgroup().
 * @throws InvalidArgument if the kernel refuses a value
 */
export async function limitPod({ cgroupParent }: SandboxPlan, resources: Resources): Promise<void> {
  await writeResources(cgroupParent, resources);
}

/**
 * Releases the network, the holder, the namespaces and the memory of a pod after
 * its containers have ended; also after a crash during makePod(). Idempotent.
 * @param network the network of its address; absent: the pod has no address
 */
export async function releasePod(
  pod: {
    readonly plan: SandboxPlan;
    readonly holder?: ProcessIdentity | undefined;
    readonly backendState?: unknown;
  },
  backend: Pick<Backend, 'stopSandbox'>,
  network?: {
    readonly of: Pick<Network, 'detach'>;
    readonly config: PodSandboxConfig__Output;
    readonly attachment: Attachment | undefined;
  },
): Promise<void> {
  const { plan, holder } = pod;
  await step('stop pod: backend', () => backend.stopSandbox(plan, pod.backendState));
  if (network && wantedNamespaces(network.config).network && !plan.ownNetwork) {
    await step('stop pod: network', () =>
      network.of.detach(
        podNetwork(plan, network.config, namespaceFiles(namespacesFolder(plan)).network),
        network.attachment,
      ),
    );
  }
  const folder = holderFolder(plan.folder);
  if (holder || existsSync(folder)) await step('stop pod: pid holder', () => stopPidHolder(folder, holder));
  await step('stop pod: namespaces', () => unpinNamespaces(namespacesFolder(plan)));
  await step('stop pod: memory', () => unmountBelow(plan.folder));
}

/**
 * Removes a pod that releasePod() has released, or that has no record and no containers and
 * network any more. Idempotent; the folder is removed last, so that a retry finds it.
 * @param cgroup the cgroup that makePod() made; undefined: its cgroup is not crisp's
 */
export async function removePod(folder: string, cgroup: string | undefined): Promise<void> {
  if (existsSync(holderFolder(folder))) await stopPidHolder(holderFolder(folder));
  await takeApart(folder, cgroup);
}

/** Removes a folder with all mounts in it, including namespaces, and its cgroup. */
export async function takeApart(folder: string, cgroup: string | undefined): Promise<void> {
  await unmountBelow(folder);
  if (cgroup !== undefined) await step('remove pod: cgroup', () => removePodCgroup(cgroup));
  await step('remove pod: folder', () => remove(folder));
}

/**
 * Like Promise.all, but waits for all before it fails: an operation that is still running cannot be undone.
 */
async function allOf<T extends readonly unknown[]>(
  work: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  const results = await Promise.allSettled(work);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
  return results.map((result) => (result as PromiseFulfilledResult<unknown>).value) as never;
}

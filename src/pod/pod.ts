// A pod on this host: its folder, namespaces, network, memory, cgroup, the holder
// of a shared pid namespace, and what its backend makes once per pod. Made,
// repaired, released and removed here alone; called by the stories of cri/, by
// recovery, by `crisp gc` and by the standalone commands, whose containers have a
// pod of their own each.
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
import { mendPodMemory, mountPodMemory, podMemory } from './memory.js';
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
  /** As planOf() makes it. */
  readonly plan: SandboxPlan;
  readonly backend: Backend;
  readonly host: Pick<HostFacts, 'systemdCgroup' | 'lowestOomScoreAdj'>;
  /** Gives it an address. Absent: its network namespace has loopback alone. */
  readonly network?: Pick<Network, 'attach' | 'detach'>;
  /** What may start the holder of a shared pid namespace, the preferred one first. */
  readonly holderRuntimes: readonly OciRuntime[];
  /** false: the caller named the network of the pod, whatever its annotations say. */
  readonly mayHaveOwnNetwork?: boolean;
}

/** What a pod's record keeps of it. */
export interface MadePod {
  /** The plan of the request, with the pinned namespaces and the mapping of ids. */
  readonly plan: SandboxPlan;
  readonly attachment: Attachment | undefined;
  readonly holder: ProcessIdentity | undefined;
  /** What Backend.startSandbox() returned. */
  readonly backendState: unknown;
}

/** What programs that are not root may do in a network of their own, where no port is worth more than another: listen below 1024, and ping (ip(7), icmp(7)). */
const openToAll = { 'net.ipv4.ip_unprivileged_port_start': '0', 'net.ipv4.ping_group_range': '0 2147483647' };
/** With the holder the whole pod ends: of its processes it is the last that the kernel should choose. */
const holderOomScoreAdj = -998;

/**
 * Makes a pod. Each thing that it makes is on `undo` before it is made.
 * @throws UnsupportedField, ToolMissing, InvalidArgument, NamespaceFailed, SysctlFailed, and what the network and the backend throw
 */
export async function makePod(undo: Undo, request: PodRequest): Promise<MadePod> {
  const { config, plan, backend, network } = request;
  // 1. What it takes, before anything is made.
  const ownNetwork =
    wantedNamespaces(config).network &&
    request.mayHaveOwnNetwork !== false &&
    (backend.ownNetwork?.(plan) ?? false);
  if (ownNetwork) checkOwnNetwork(config);
  const wanted = { ...wantedNamespaces(config), ...(ownNetwork ? { network: false } : {}) };
  const holderTools = sharesPids(config) ? await findHolderTools(request.holderRuntimes) : undefined;
  const idMaps =
    userNamespace(config) ?? (sharesWithHost(config) ? undefined : backend.userNamespace?.(plan));

  // 2. Its folder, with the files that its containers will see.
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

  // 4. What needs no order among itself: the network takes longest, so the rest costs no time beside it
  // once its first plugin runs (each start of a process holds up this thread for some milliseconds).
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

  // 5. What the backend needs once per pod.
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
  const attachment = await network.attach(pod); // not the caller's signal: what is begun is finished, for the retry
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

/** Makes the folder, the pins and the memory of a pod again whose folder was lost. @param pid a process that lives in its namespaces */
export async function remakePod(
  plan: SandboxPlan,
  config: PodSandboxConfig__Output,
  pid: number,
): Promise<void> {
  makeClosedFolder(plan.folder, rootGroupOf(plan.idMaps));
  await repinNamespaces(namespacesFolder(plan), plan.namespaces, pid);
  await repairPod(plan, config); // for containers to come: the memory of the running ones is out of reach
}

/** Gives a pod its memory if it has none, as one that an earlier version of crisp made. */
export async function repairPod(plan: SandboxPlan, config: PodSandboxConfig__Output): Promise<void> {
  await mendPodMemory(plan.folder, () => podFilesOf(config));
}

/** Sets the limits of a pod whose cgroup makePod() made; that of any other pod is its owner's to limit. @throws InvalidArgument for a value that the kernel refuses */
export async function limitPod(
  { cgroupParent }: SandboxPlan,
  config: PodSandboxConfig__Output,
  resources: Resources,
): Promise<void> {
  if (ownsCgroup(config)) await writeResources(cgroupParent, resources);
}

/**
 * Gives back the network, the holder, the namespaces and the memory of a pod whose
 * containers have ended; also after a crash in the middle of makePod(). Idempotent.
 * @param network what it has an address of; absent: the pod has none
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
 * Removes a pod that releasePod() has released, or that has no record and no
 * containers and network any more. Idempotent; the folder goes last, so that a
 * retry finds it.
 * @param cgroup the one that makePod() made for it; undefined: its cgroup is somebody else's
 */
export async function removePod(folder: string, cgroup: string | undefined): Promise<void> {
  if (existsSync(holderFolder(folder))) await stopPidHolder(holderFolder(folder));
  await takeApart(folder, cgroup);
}

/** A folder with all that is mounted in it, namespaces too, and the cgroup beside it. */
export async function takeApart(folder: string, cgroup: string | undefined): Promise<void> {
  await unmountBelow(folder);
  if (cgroup !== undefined) await step('remove pod: cgroup', () => removePodCgroup(cgroup));
  await step('remove pod: folder', () => remove(folder));
}

/** Like Promise.all, but waits for all before it fails: what is still under way cannot be undone. */
async function allOf<T extends readonly unknown[]>(
  work: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  const results = await Promise.allSettled(work);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
  return results.map((result) => (result as PromiseFulfilledResult<unknown>).value) as never;
}

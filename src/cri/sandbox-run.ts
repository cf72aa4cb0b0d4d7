// RunPodSandbox: route, namespaces, network, record.
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { IdMaps, SandboxPlan } from '../backends/backend.js';
import { CrispError } from '../errors.js';
import { removePodCgroup } from '../host/cgroup.js';
import { makeFolder, remove } from '../host/files.js';
import { mount, unmount } from '../host/mounts.js';
import { withUndo } from '../host/undo.js';
import { addLogContext, log } from '../log.js';
import type { PodNetwork } from '../network/cni.js';
import { bringLoopbackUp, checkPodSysctls, pinNamespaces, startPidHolder, stopPidHolder, unpinNamespaces } from '../network/namespaces.js';
import { writePodFiles } from '../oci/pod-files.js';
import type { IdMapping } from '../oci/spec.js';
import { now, sandboxKey, sandboxState, type SandboxRecord } from '../pods/records.js';
import { chooseHandler } from '../router.js';
import type { PodSandboxConfig__Output } from './generated/runtime/v1/PodSandboxConfig.js';
import type { RunPodSandboxRequest__Output } from './generated/runtime/v1/RunPodSandboxRequest.js';
import type { UserNamespace__Output } from './generated/runtime/v1/UserNamespace.js';
import type { RunPodSandboxResponse } from './generated/runtime/v1/RunPodSandboxResponse.js';
import { backendOf, type Call, type Parts } from './parts.js';
import { removeSandbox } from './sandbox-stop.js';

/** Ids are 64 hex digits, as tools that look for container ids in paths and cgroups expect. */
export function newId(): string { return randomBytes(32).toString('hex'); }

export async function runPodSandbox(parts: Parts, request: RunPodSandboxRequest__Output, call: Call): Promise<RunPodSandboxResponse> {
  const config = checkedConfig(request.config);
  const key = sandboxKey(config);
  const id = await parts.creations.join(key, request, call.signal, async () => {
    const present = parts.store.sandboxes.all().find((record) => sandboxKey(record.config) === key);
    return present ? reused(parts, present, request) : makeSandbox(parts, config, request.runtime_handler);
  }, (made) => removeSandbox(parts, made));
  addLogContext({ podId: id });
  return { pod_sandbox_id: id };
}

/** The caller's retry may come after the first answer was lost: the same request gets the same pod. */
function reused(parts: Parts, record: SandboxRecord, request: RunPodSandboxRequest__Output): string {
  const same = isDeepStrictEqual(record.config, request.config) && record.runtimeHandler === request.runtime_handler;
  if (!same || sandboxState(record) !== 'SANDBOX_READY') {
    throw new CrispError('NameInUse', `pod ${sandboxKey(record.config)} exists already as ${record.id} (${sandboxState(record)})`);
  }
  parts.creations.claim(record.id);
  return record.id;
}

function checkedConfig(config: PodSandboxConfig__Output | null): PodSandboxConfig__Output {
  if (!config) throw new CrispError('InvalidArgument', 'config is missing');
  if (!config.metadata?.name) throw new CrispError('InvalidArgument', 'config.metadata.name is empty');
  if (!config.metadata.namespace) throw new CrispError('InvalidArgument', 'config.metadata.namespace is empty');
  const options = config.linux?.security_context?.namespace_options;
  for (const kind of ['network', 'ipc'] as const) {
    if (options && !['POD', 'NODE'].includes(options[kind])) throw new CrispError('InvalidArgument', `namespace_options.${kind} of a pod must be POD or NODE, not ${options[kind]}`);
  }
  checkUserNamespace(options?.userns_options ?? null);
  if (options?.pid === 'TARGET') throw new CrispError('InvalidArgument', 'namespace_options.pid of a pod cannot be TARGET');
  if (config.log_directory && !config.log_directory.startsWith('/')) throw new CrispError('InvalidArgument', 'config.log_directory must be an absolute path');
  checkPodSysctls(config.linux?.sysctls ?? {}, { hostNetwork: options?.network === 'NODE', hostIpc: options?.ipc === 'NODE' });
  return config;
}

/** The kubelet allots one range for users and the same for groups (KEP-127). */
function checkUserNamespace(options: UserNamespace__Output | null): void {
  if (!options || options.mode === 'NODE') return;
  const invalid = (why: string): CrispError => new CrispError('InvalidArgument', `namespace_options.userns_options: ${why}`);
  if (options.mode !== 'POD') throw invalid(`the mode must be POD or NODE, not ${options.mode}`);
  if (options.uids.length !== 1 || options.gids.length !== 1) throw invalid('there must be one mapping of users and one of groups');
  if (!isDeepStrictEqual(options.uids, options.gids)) throw invalid('users and groups must be mapped alike');
  const [map] = options.uids;
  if (!map || map.container_id !== 0 || map.length === 0) throw invalid('the mapping must begin at 0 in the container and have a length');
}

async function makeSandbox(parts: Parts, config: PodSandboxConfig__Output, runtimeHandler: string): Promise<string> {
  const id = newId();
  addLogContext({ podId: id });
  return withUndo(async (undo) => {
    // 1. Who runs it, for all its life.
    const chosen = chooseHandler(parts, { handler: runtimeHandler, namespace: config.metadata?.namespace ?? '', name: config.metadata?.name ?? '', labels: config.labels, annotations: config.annotations });
    const plan = planOf(parts, id, config);
    const wanted = wantedNamespaces(config);

    // 2. The intent, before anything that could leak.
    const record: SandboxRecord = {
      version: 1, id, config, runtimeHandler, backend: chosen.backend, rule: chosen.rule, bootId: parts.bootId,
      complete: false, createdAt: now(), plan, backendState: undefined,
    };
    undo.push('record', () => parts.store.sandboxes.delete(id));
    await parts.store.sandboxes.put(record);

    // 3. Its folder, with the files that its containers will see.
    undo.push('folder', () => remove(plan.folder));
    await makeFolder(plan.folder, 0o711);
    await writePodFiles(plan.folder, config);

    // 4. The namespaces, with hostname and sysctls.
    undo.push('namespaces', () => unpinNamespaces(namespacesFolder(plan)));
    const backend = backendOf(parts, chosen);
    const idMaps = userNamespace(config) ?? backend.userNamespace?.(plan);
    const namespaces: Record<string, string> = await pinNamespaces(namespacesFolder(plan), { ...wanted, user: idMaps }, { hostname: wanted.uts ? config.hostname : '', sysctls: config.linux?.sysctls ?? {} });

    // 5. What needs no order among itself: the network takes longest, so the rest costs no time beside it.
    undo.push('cgroup', () => ownsCgroup(config) ? removePodCgroup(plan.cgroupParent) : undefined);
    undo.push('shared memory', () => unmount(sharedMemory(plan)));
    const [attachment, holder] = await allOf([
      wanted.network ? attachNetwork(parts, plan, config, namespaces['network'] ?? '', undo) : undefined,
      config.linux?.security_context?.namespace_options?.pid === 'POD' ? startHolder(plan, undo) : undefined,
      wanted.network ? bringLoopbackUp(namespaces['network'] ?? '') : undefined,
      wanted.ipc ? mountSharedMemory(plan) : undefined,
    ] as const);

    // 6. What the backend needs once per pod.
    const finalPlan: SandboxPlan = { ...plan, ...(idMaps ? { idMaps } : {}), namespaces: { ...namespaces, ...(holder ? { pid: holder.path } : {}) } };
    const backendState = await backend.startSandbox(finalPlan);
    undo.push('backend sandbox', () => backend.stopSandbox(finalPlan, backendState));

    // 7. From here on it is there.
    const done = await parts.store.sandboxes.put({ ...record, complete: true, plan: finalPlan, attachment, backendState, ...(holder ? { holder: holder.holder } : {}) });
    log.info({ pod: `${config.metadata?.namespace}/${config.metadata?.name}`, backend: chosen.backend, rule: chosen.rule, ips: attachment?.ips }, 'pod sandbox runs');
    parts.events.emit('CONTAINER_CREATED_EVENT', id, done);
    parts.events.emit('CONTAINER_STARTED_EVENT', id, done);
    return id;
  });
}

function planOf(parts: Parts, id: string, config: PodSandboxConfig__Output): SandboxPlan {
  return {
    id, name: config.metadata?.name ?? '', namespace: config.metadata?.namespace ?? '', uid: config.metadata?.uid ?? '', attempt: config.metadata?.attempt ?? 0,
    labels: config.labels, annotations: config.annotations, folder: join(parts.config.state, 'pods', id),
    hostname: config.hostname || undefined, namespaces: {}, cgroupParent: cgroupParent(config, id),
  };
}

/** The kubelet makes and limits the pod's cgroup and names it; for anybody else there is one of our own. */
function cgroupParent(config: PodSandboxConfig__Output, id: string): string {
  return config.linux?.cgroup_parent || `/crisp/${id}`;
}
export function ownsCgroup(config: PodSandboxConfig__Output): boolean { return !config.linux?.cgroup_parent; }

export function namespacesFolder(plan: SandboxPlan): string { return join(plan.folder, 'ns'); }
/** The pod's /dev/shm: POSIX shared memory is a tmpfs, so an ipc namespace alone does not share it. */
export function sharedMemory(plan: SandboxPlan): string { return join(plan.folder, 'shm'); }

/** A pod on the host's network keeps the host's name as well. */
function wantedNamespaces(config: PodSandboxConfig__Output): { network: boolean; ipc: boolean; uts: boolean } {
  const options = config.linux?.security_context?.namespace_options;
  const network = options?.network !== 'NODE';
  return { network, ipc: options?.ipc !== 'NODE', uts: network };
}

function userNamespace(config: PodSandboxConfig__Output): IdMaps | undefined {
  const options = config.linux?.security_context?.namespace_options?.userns_options;
  if (options?.mode !== 'POD') return undefined;
  const maps = (list: typeof options.uids): IdMapping[] => list.map((map) => ({ containerID: map.container_id, hostID: map.host_id, size: map.length }));
  return { uids: maps(options.uids), gids: maps(options.gids) };
}

async function attachNetwork(parts: Parts, plan: SandboxPlan, config: PodSandboxConfig__Output, netns: string, undo: { push(what: string, step: () => Promise<unknown>): void }) {
  const pod = podNetwork(plan, config, netns);
  const attachment = await parts.network.attach(pod); // not the caller's signal: what is begun is finished, for the retry
  undo.push('network', () => parts.network.detach(pod, attachment));
  return attachment;
}

export function podNetwork(plan: SandboxPlan, config: PodSandboxConfig__Output, netns: string): PodNetwork {
  const bits = (annotation: string): number | undefined => {
    const text = config.annotations[annotation];
    return text === undefined ? undefined : parseQuantity(text, annotation);
  };
  const ingressBitsPerSecond = bits('kubernetes.io/ingress-bandwidth');
  const egressBitsPerSecond = bits('kubernetes.io/egress-bandwidth');
  return {
    id: plan.id, name: plan.name, namespace: plan.namespace, uid: plan.uid, netns, annotations: plan.annotations,
    portMappings: config.port_mappings.filter((mapping) => mapping.host_port > 0).map((mapping) => ({
      protocol: mapping.protocol.toLowerCase() as 'tcp' | 'udp' | 'sctp', containerPort: mapping.container_port, hostPort: mapping.host_port, hostIp: mapping.host_ip,
    })),
    ...(ingressBitsPerSecond === undefined && egressBitsPerSecond === undefined ? {} : { bandwidth: { ...(ingressBitsPerSecond === undefined ? {} : { ingressBitsPerSecond }), ...(egressBitsPerSecond === undefined ? {} : { egressBitsPerSecond }) } }),
    ...(config.dns_config ? { dns: config.dns_config } : {}),
  };
}

/** A Kubernetes quantity of bits per second: "10M", "1Gi", "1500000". */
function parseQuantity(text: string, what: string): number {
  const [, number, suffix = ''] = /^(\d+(?:\.\d+)?)(k|M|G|T|Ki|Mi|Gi|Ti)?$/.exec(text) ?? [];
  if (number === undefined) throw new CrispError('InvalidArgument', `${what}: "${text}" is no quantity`);
  const factor = suffix.endsWith('i') ? 1024 : 1000;
  return Math.round(Number(number) * factor ** ' kMGT'.indexOf(suffix[0]?.replace('K', 'k') ?? ' '));
}

async function startHolder(plan: SandboxPlan, undo: { push(what: string, step: () => Promise<unknown>): void }) {
  const started = await startPidHolder(namespacesFolder(plan));
  undo.push('pid holder', () => stopPidHolder(started.holder));
  return started;
}

async function mountSharedMemory(plan: SandboxPlan): Promise<void> {
  await makeFolder(sharedMemory(plan), 0o1777);
  await mount('tmpfs', 'shm', sharedMemory(plan), 'nosuid,nodev,noexec,mode=1777,size=64m');
}

/** Like Promise.all, but waits for all before it fails: what is still under way cannot be undone. */
export async function allOf<T extends readonly unknown[]>(work: T): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  const results = await Promise.allSettled(work);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
  return results.map((result) => (result as PromiseFulfilledResult<unknown>).value) as never;
}

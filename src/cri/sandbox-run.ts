// RunPodSandbox: route, namespaces, network, record.
import { setImmediate } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Backend, OciRuntime } from '../backends/backend.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import { CrispError } from '../errors.js';
import { makePodCgroup, removePodCgroup } from '../host/cgroup.js';
import { expectPassage, makeClosedFolder, remove } from '../host/files.js';
import { unmount } from '../host/mounts.js';
import { withUndo } from '../host/undo.js';
import { addLogContext, log, withLogContext } from '../log.js';
import { metrics } from '../metrics.js';
import { bringLoopbackUp, pinNamespaces, unpinNamespaces } from '../pod/namespaces.js';
import {
  findHolderTools,
  holderFolder,
  startPidHolder,
  stopPidHolder,
  type HolderTools,
} from '../pod/pid-holder.js';
import { cgroupsPath, rootGroupOf, sharesWithHost } from '../oci/namespaces.js';
import { podFilesOf } from '../pod/files.js';
import { mountPodMemory, podMemory } from '../pod/memory.js';
import type { Unclaimed } from '../records/creations.js';
import { now, sandboxKey, sandboxState, type SandboxRecord } from '../records/records.js';
import { chooseHandler, route, withFallbacks } from '../config/router.js';
import type { PodSandboxConfig__Output } from './generated/runtime/v1/PodSandboxConfig.js';
import type { RunPodSandboxRequest__Output } from './generated/runtime/v1/RunPodSandboxRequest.js';
import type { RunPodSandboxResponse } from './generated/runtime/v1/RunPodSandboxResponse.js';
import { refreshHandlers } from './handlers.js';
import { backendOf, withHolderChecked, type Call, type Services } from './services.js';
import {
  checkedConfig,
  checkOwnNetwork,
  namespacesFolder,
  ownsCgroup,
  planOf,
  podNetwork,
  sharesPids,
  userNamespace,
  wantedNamespaces,
} from './sandbox-plan.js';
import { removeSandbox } from './sandbox-stop.js';

export async function runPodSandbox(
  services: Services,
  request: RunPodSandboxRequest__Output,
  call: Call,
): Promise<RunPodSandboxResponse> {
  const config = checkedConfig(request.config);
  const key = sandboxKey(config);
  const id = await services.creations.join(
    key,
    request,
    call.signal,
    async (newId) => {
      const found = (): SandboxRecord | undefined =>
        services.store.sandboxes.all().find((record) => sandboxKey(record.config) === key);
      const present = found();
      if (present?.complete) {
        // Under its lock: an unclaimed one may be about to be removed.
        const kept = await services.locks.with(present.id, async () => {
          const record = services.store.sandboxes.get(present.id);
          return record && reused(services, await withHolderChecked(services, record), request);
        });
        if (kept !== undefined) return kept;
      }
      const left = found();
      if (left) await removeSandbox(services, left.id); // left by a try that could not be undone, and that has ended: all of this name join it
      return makeSandbox(services, newId, config, request.runtime_handler);
    },
    unclaimedSandbox(services),
  );
  await claimSandbox(services, id);
  addLogContext({ podId: id });
  return { pod_sandbox_id: id };
}

/** The caller has the id of a pod: from now on it is shown, and its events are told. */
async function claimSandbox(services: Services, id: string): Promise<void> {
  if (!services.creations.claim(id)) return;
  const record = services.store.sandboxes.get(id)?.unclaimed
    ? await services.store.sandboxes.change(id, { unclaimed: undefined })
    : services.store.sandboxes.get(id);
  services.events.emit('CONTAINER_CREATED_EVENT', id, record);
  services.events.emit('CONTAINER_STARTED_EVENT', id, record);
}

/** What becomes of a pod whose caller went away while it was made. Also for those of an earlier run. */
export function unclaimedSandbox(services: Services): Unclaimed {
  return {
    keep: (id) =>
      services.store.sandboxes.change(id, () => (services.creations.hides(id) ? { unclaimed: true } : {})),
    discard: (id) =>
      withLogContext({ podId: id }, () => removeSandbox(services, id, () => services.creations.expired(id))),
    remains: (id) => services.store.sandboxes.has(id),
  };
}

/** What programs that are not root may do in a network of their own, where no port is worth more than another: listen below 1024, and ping (ip(7), icmp(7)). */
const openToAll = { 'net.ipv4.ip_unprivileged_port_start': '0', 'net.ipv4.ping_group_range': '0 2147483647' };

/** The caller's retry may come after the first answer was lost: the same request gets the same pod. */
function reused(services: Services, record: SandboxRecord, request: RunPodSandboxRequest__Output): string {
  const same =
    isDeepStrictEqual(record.config, request.config) && record.runtimeHandler === request.runtime_handler;
  if (!same || sandboxState(record) !== 'SANDBOX_READY') {
    throw new CrispError(
      'NameInUse',
      `pod ${sandboxKey(record.config)} exists already as ${record.id} (${sandboxState(record)})`,
    );
  }
  services.creations.hold(record.id);
  return record.id;
}

async function makeSandbox(
  services: Services,
  id: string,
  config: PodSandboxConfig__Output,
  runtimeHandler: string,
): Promise<string> {
  addLogContext({ podId: id });
  return withUndo('RunPodSandbox', async (undo) => {
    // 1. Who runs it, for all its life.
    const input = {
      handler: runtimeHandler,
      namespace: config.metadata?.namespace ?? '',
      name: config.metadata?.name ?? '',
      labels: config.labels,
      annotations: config.annotations,
    };
    await refreshHandlers(
      services.handlers,
      withFallbacks(services.config, route(services.config, input).handler),
    );
    const chosen = chooseHandler(services, input);
    if (chosen.insteadOf) metrics.fallbacks.add({ from: chosen.insteadOf, to: chosen.handler });
    const plan = planOf(services.config.state, id, config, services.host.systemdCgroup);
    const backend = backendOf(services, chosen);
    const ownNetwork = wantedNamespaces(config).network && (backend.ownNetwork?.(plan) ?? false);
    if (ownNetwork) checkOwnNetwork(config);
    const wanted = { ...wantedNamespaces(config), ...(ownNetwork ? { network: false } : {}) };
    const holderTools = sharesPids(config)
      ? await findHolderTools(holderRuntimes(services, backend))
      : undefined;

    // 2. The intent, before anything that could leak.
    const record: SandboxRecord = {
      version: 1,
      id,
      config,
      runtimeHandler,
      handler: chosen.handler,
      rule: chosen.rule,
      bootId: services.bootId,
      complete: false,
      createdAt: now(),
      plan,
      backendState: undefined,
    };
    undo.push('record', (clean) => (clean ? services.store.sandboxes.delete(id) : undefined));
    await services.store.sandboxes.put(record);

    // 3. Its folder, with the files that its containers will see.
    undo.push('folder', () => remove(plan.folder));
    const idMaps =
      userNamespace(config) ?? (sharesWithHost(config) ? undefined : backend.userNamespace?.(plan));
    if (idMaps) await expectPassage(services.config.state);
    makeClosedFolder(plan.folder, rootGroupOf(idMaps));
    const files = await podFilesOf(config);

    // 4. The namespaces, with hostname and sysctls.
    undo.push('namespaces', () => unpinNamespaces(namespacesFolder(plan)));
    const namespaces: Record<string, string> = await pinNamespaces(
      namespacesFolder(plan),
      { ...wanted, user: idMaps },
      {
        hostname: wanted.uts ? config.hostname : '',
        sysctls: { ...(wanted.network && !idMaps ? openToAll : {}), ...config.linux?.sysctls },
      },
    );

    // 5. What needs no order among itself: the network takes longest, so the rest costs no time beside it
    // once its first plugin runs (each start of a process holds up this thread for some milliseconds).
    const begun = setImmediate();
    undo.push('cgroup', () => (ownsCgroup(config) ? removePodCgroup(plan.cgroupParent) : undefined));
    const cgroup = begun.then(() => (ownsCgroup(config) ? makePodCgroup(plan.cgroupParent) : undefined));
    undo.push('memory', () => unmount(podMemory(plan.folder)));
    const [attachment, holder] = await allOf([
      wanted.network ? attachNetwork(services, plan, config, namespaces['network'] ?? '', undo) : undefined,
      holderTools &&
        cgroup.then(() => startHolder(services, { ...plan, namespaces, idMaps }, holderTools, undo)),
      begun.then(() => (wanted.network ? bringLoopbackUp(namespaces['network'] ?? '') : undefined)),
      begun.then(() => mountPodMemory(plan.folder, files)),
      cgroup,
    ] as const);

    // 6. What the backend needs once per pod.
    const finalPlan: SandboxPlan = {
      ...plan,
      ...(idMaps ? { idMaps } : {}),
      ...(ownNetwork ? { ownNetwork } : {}),
      namespaces: { ...namespaces, ...(holder ? { pid: holder.path } : {}) },
    };
    const backendState = await backend.startSandbox(finalPlan);
    undo.push('backend sandbox', () => backend.stopSandbox(finalPlan, backendState));

    // 7. From here on it is there.
    await services.store.sandboxes.put({
      ...record,
      complete: true,
      plan: finalPlan,
      attachment,
      backendState,
      ...(holder ? { holder: holder.holder } : {}),
    });
    metrics.routed.add({ handler: chosen.handler, rule: chosen.rule });
    log.info(
      {
        pod: `${config.metadata?.namespace}/${config.metadata?.name}`,
        handler: chosen.handler,
        rule: chosen.rule,
        ips: attachment?.ips,
      },
      'pod sandbox runs',
    );
    return id;
  });
}

async function attachNetwork(
  services: Services,
  plan: SandboxPlan,
  config: PodSandboxConfig__Output,
  netns: string,
  undo: { push(what: string, step: () => Promise<unknown>): void },
) {
  const pod = podNetwork(plan, config, netns);
  const attachment = await services.network.attach(pod); // not the caller's signal: what is begun is finished, for the retry
  undo.push('network', () => services.network.detach(pod, attachment));
  return attachment;
}

async function startHolder(
  { host }: Services,
  plan: SandboxPlan,
  tools: HolderTools,
  undo: { push(what: string, step: () => Promise<unknown>): void },
) {
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
/** With it the whole pod ends: of its processes it is the last that the kernel should choose. */
const holderOomScoreAdj = -998;

/** What may start a holder: the pod's own runtime if it is one of OCI, else another that works here. */
export function holderRuntimes({ handlers }: Pick<Services, 'handlers'>, own?: Backend): OciRuntime[] {
  const ready = [...handlers.values()].filter(({ probe }) => probe.ready).map(({ backend }) => backend);
  return [
    ...[...(own ? [own] : []), ...ready].flatMap(({ ociRuntime }) => ociRuntime ?? []),
    ...['crun', 'runc'].map((path) => ({ path, args: [] })),
  ];
}

/** Like Promise.all, but waits for all before it fails: what is still under way cannot be undone. */
export async function allOf<T extends readonly unknown[]>(
  work: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  const results = await Promise.allSettled(work);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
  return results.map((result) => (result as PromiseFulfilledResult<unknown>).value) as never;
}

// RunPodSandbox: route, record, pod.
import { isDeepStrictEqual } from 'node:util';
import type { Backend, OciRuntime } from '../backends/backend.js';
import { chooseHandler, route, withFallbacks } from '../config/router.js';
import { CrispError } from '../errors.js';
import { withUndo } from '../host/undo.js';
import { addLogContext, log, withLogContext } from '../log.js';
import { metrics } from '../metrics.js';
import { checkedConfig, planOf } from '../pod/plan.js';
import { makePod } from '../pod/pod.js';
import type { Unclaimed } from '../records/creations.js';
import { now, sandboxKey, sandboxState, type SandboxRecord } from '../records/records.js';
import type { PodSandboxConfig__Output } from './generated/runtime/v1/PodSandboxConfig.js';
import type { RunPodSandboxRequest__Output } from './generated/runtime/v1/RunPodSandboxRequest.js';
import type { RunPodSandboxResponse } from './generated/runtime/v1/RunPodSandboxResponse.js';
import { refreshHandlers } from './handlers.js';
import { withHolderChecked } from './holder-lost.js';
import { backendOf } from './lookup.js';
import type { Call, Services } from './services.js';
import { removeSandbox } from './sandbox-stop.js';

/**
 * RunPodSandbox. A retry with the same request gets the same pod.
 * @throws InvalidArgument, UnknownHandler, HandlerNotReady, NameInUse, NetworkNotReady, CniFailed,
 * NamespaceFailed, SysctlFailed
 */
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
        // Under its lock: an unclaimed pod may be about to be removed.
        const kept = await services.locks.with(present.id, async () => {
          const record = services.store.sandboxes.get(present.id);
          return record && reused(services, await withHolderChecked(services, record), request);
        });
        if (kept !== undefined) return kept;
      }
      const left = found();
      if (left) await removeSandbox(services, left.id); // left by an attempt that could not be undone, and has ended, since all calls for this name join it
      return makeSandbox(services, newId, config, request.runtime_handler);
    },
    unclaimedSandbox(services),
  );
  await claimSandbox(services, id);
  addLogContext({ podId: id });
  return { pod_sandbox_id: id };
}

/** The caller has the id of a pod: from now on it is visible, and its events are sent. */
async function claimSandbox(services: Services, id: string): Promise<void> {
  if (!services.creations.claim(id)) return;
  const record = services.store.sandboxes.get(id)?.unclaimed
    ? await services.store.sandboxes.change(id, { unclaimed: undefined })
    : services.store.sandboxes.get(id);
  services.events.emit('CONTAINER_CREATED_EVENT', id, record);
  services.events.emit('CONTAINER_STARTED_EVENT', id, record);
}

/** Handles a pod if its caller disconnected while it was made. Also for pods of an earlier run. */
export function unclaimedSandbox(services: Services): Unclaimed {
  return {
    keep: (id) =>
      services.store.sandboxes.change(id, () => (services.creations.hides(id) ? { unclaimed: true } : {})),
    discard: (id) =>
      withLogContext({ podId: id }, () => removeSandbox(services, id, () => services.creations.expired(id))),
    remains: (id) => services.store.sandboxes.has(id),
  };
}

/** The caller may retry after the first answer was lost: the same request returns the same pod. */
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
    // 1. Its handler, which never changes.
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

    // 2. The intent: recorded before anything is made.
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

    // 3. The pod.
    const made = await makePod(undo, {
      config,
      plan,
      backend,
      host: services.host,
      network: services.network,
      holderRuntimes: holderRuntimes(services, backend),
    });

    // 4. The complete record: from here on the pod exists.
    await services.store.sandboxes.put({
      ...record,
      complete: true,
      plan: made.plan,
      attachment: made.attachment,
      backendState: made.backendState,
      ...(made.holder ? { holder: made.holder } : {}),
    });
    metrics.routed.add({ handler: chosen.handler, rule: chosen.rule });
    log.info(
      {
        pod: `${config.metadata?.namespace}/${config.metadata?.name}`,
        handler: chosen.handler,
        rule: chosen.rule,
        ips: made.attachment?.ips,
      },
      'pod sandbox runs',
    );
    return id;
  });
}

/**
 * The runtimes that may start a holder: the pod's own runtime if it is an OCI runtime, otherwise another one
 * that is ready.
 */
export function holderRuntimes({ handlers }: Pick<Services, 'handlers'>, own?: Backend): OciRuntime[] {
  const ready = [...handlers.values()].filter(({ probe }) => probe.ready).map(({ backend }) => backend);
  return [
    ...[...(own ? [own] : []), ...ready].flatMap(({ ociRuntime }) => ociRuntime ?? []),
    ...['crun', 'runc'].map((path) => ({ path, args: [] })),
  ];
}

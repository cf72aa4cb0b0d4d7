// PodSandboxStatus and ListPodSandbox. Reads take no lock.
import type { ListPodSandboxRequest__Output } from './generated/runtime/v1/ListPodSandboxRequest.js';
import type { ListPodSandboxResponse } from './generated/runtime/v1/ListPodSandboxResponse.js';
import type { PodSandboxFilter__Output } from './generated/runtime/v1/PodSandboxFilter.js';
import type { PodSandboxStatusRequest__Output } from './generated/runtime/v1/PodSandboxStatusRequest.js';
import type { PodSandboxStatusResponse } from './generated/runtime/v1/PodSandboxStatusResponse.js';
import type { StreamPodSandboxesRequest__Output } from './generated/runtime/v1/StreamPodSandboxesRequest.js';
import type { StreamPodSandboxesResponse } from './generated/runtime/v1/StreamPodSandboxesResponse.js';
import { toCrispError } from '../errors.js';
import { containerState, now, sandboxState, type SandboxRecord } from '../records/records.js';
import { containerStatus, matches, sandboxItem, sandboxStatus } from './convert.js';
import { backendOf, lookedAt, refOf, sandboxOf, type Parts } from './parts.js';
import { inPages } from './pages.js';
import { podNetwork } from './sandbox-plan.js';

export async function podSandboxStatus(
  parts: Parts,
  request: PodSandboxStatusRequest__Output,
): Promise<PodSandboxStatusResponse> {
  const record = await withAddresses(parts, await lookedAt(parts, sandboxOf(parts, request.pod_sandbox_id)));
  return {
    status: sandboxStatus(record),
    timestamp: now(),
    containers_statuses: parts.store.completeContainersOf(record.id).map(containerStatus),
    info: request.verbose
      ? { info: JSON.stringify({ ...verbose(record), ...(await checkedNetwork(parts, record)) }) }
      : {},
  };
}

/** What the plugins say of the pod's network now: whoever looks into a pod wants to know. */
async function checkedNetwork(parts: Parts, record: SandboxRecord): Promise<{ networkCheck?: string }> {
  const { attachment, plan, config } = record;
  if (!attachment || sandboxState(record) !== 'SANDBOX_READY') return {};
  try {
    const isChecked = await parts.network.check(
      podNetwork(plan, config, plan.namespaces.network ?? ''),
      attachment,
    );
    return {
      networkCheck: isChecked
        ? 'as it was made'
        : 'not checked: the network has disableCheck, or is older than CNI 0.4.0',
    };
  } catch (error) {
    return { networkCheck: toCrispError(error).report };
  }
}

/** Where each container brings its own network, the pod's address is known some time after the start of one. */
async function withAddresses(parts: Parts, record: SandboxRecord): Promise<SandboxRecord> {
  if (!record.plan.ownNetwork || record.ips || sandboxState(record) !== 'SANDBOX_READY') return record;
  const running = parts.store
    .containersOf(record.id)
    .find((container) => containerState(container) === 'CONTAINER_RUNNING');
  const ips = running ? ((await backendOf(parts, record).addresses?.(refOf(running))) ?? []) : [];
  return (
    (ips.length ? await parts.store.sandboxes.change(record.id, { ips: [...ips] }) : undefined) ?? record
  );
}

function verbose(record: SandboxRecord) {
  const { backend, rule, plan, attachment, config, runtimeHandler } = record;
  return {
    backend,
    rule,
    runtimeHandler,
    namespaces: plan.namespaces,
    cgroupParent: plan.cgroupParent,
    folder: plan.folder,
    network: attachment,
    config,
  };
}

export async function listPodSandbox(
  parts: Parts,
  request: ListPodSandboxRequest__Output,
): Promise<ListPodSandboxResponse> {
  return { items: (await filtered(parts, request.filter)).map(sandboxItem) };
}

export async function* streamPodSandboxes(
  parts: Parts,
  request: StreamPodSandboxesRequest__Output,
): AsyncGenerator<StreamPodSandboxesResponse> {
  for (const page of inPages(await filtered(parts, request.filter)))
    yield { pod_sandboxes: page.map(sandboxItem) };
}

/** A sandbox in the making is not listed: it may yet be undone. */
async function filtered(parts: Parts, filter: PodSandboxFilter__Output | null): Promise<SandboxRecord[]> {
  return (await Promise.all(parts.store.sandboxes.all().map((record) => lookedAt(parts, record))))
    .filter((record) => record.complete && matches({ id: record.id, labels: record.config.labels }, filter))
    .filter((record) => !filter?.state || sandboxState(record) === filter.state.state)
    .sort((one, other) => (BigInt(one.createdAt) < BigInt(other.createdAt) ? -1 : 1));
}

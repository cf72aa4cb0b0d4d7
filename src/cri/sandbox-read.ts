// PodSandboxStatus and ListPodSandbox. Reads take no lock.
import type { ListPodSandboxRequest__Output } from './generated/runtime/v1/ListPodSandboxRequest.js';
import type { ListPodSandboxResponse } from './generated/runtime/v1/ListPodSandboxResponse.js';
import type { PodSandboxFilter__Output } from './generated/runtime/v1/PodSandboxFilter.js';
import type { PodSandboxStatusRequest__Output } from './generated/runtime/v1/PodSandboxStatusRequest.js';
import type { PodSandboxStatusResponse } from './generated/runtime/v1/PodSandboxStatusResponse.js';
import type { StreamPodSandboxesRequest__Output } from './generated/runtime/v1/StreamPodSandboxesRequest.js';
import type { StreamPodSandboxesResponse } from './generated/runtime/v1/StreamPodSandboxesResponse.js';
import { toCrispError } from '../errors.js';
import { compareTimes, containerState, sandboxState, type SandboxRecord } from '../records/records.js';
import { containerStatus, matches, sandboxItem, sandboxStatus } from './convert.js';
import { withHolderChecked } from './holder-lost.js';
import { backendOf, refOf, sandboxOf, wholeId } from './lookup.js';
import type { Services } from './services.js';
import { isShown, shownContainersOf } from './shown.js';
import { paginate } from './paginate.js';
import { podNetwork } from '../pod/plan.js';

/** What these calls use. */
type Used = Pick<Services, 'store' | 'creations' | 'handlers' | 'network' | 'events'>;

/** PodSandboxStatus; the verbose status also checks the network of the pod. @throws SandboxNotFound */
export async function podSandboxStatus(
  services: Used,
  request: PodSandboxStatusRequest__Output,
): Promise<PodSandboxStatusResponse> {
  const record = await withAddresses(
    services,
    await withHolderChecked(services, sandboxOf(services, request.pod_sandbox_id)),
  );
  return {
    status: sandboxStatus(record),
    // No timestamp, as from containerd: with a timestamp a kubelet with the gate EventedPLEG uses these
    // statuses instead of ListContainers, and then does not count the containers of this sandbox as active.
    containers_statuses: shownContainersOf(services, record.id).map(containerStatus),
    info: request.verbose
      ? {
          info: JSON.stringify({ ...verbose(services, record), ...(await checkedNetwork(services, record)) }),
        }
      : {},
  };
}

/** The result of the plugins' CHECK of the pod's network, for the verbose status. */
async function checkedNetwork(services: Used, record: SandboxRecord): Promise<{ networkCheck?: string }> {
  const { attachment, plan, config } = record;
  if (!attachment || sandboxState(record) !== 'SANDBOX_READY') return {};
  try {
    const isChecked = await services.network.check(
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

/** If each container has its own network, the pod's address is known some time after a container's start. */
async function withAddresses(services: Used, record: SandboxRecord): Promise<SandboxRecord> {
  if (!record.plan.ownNetwork || record.ips || sandboxState(record) !== 'SANDBOX_READY') return record;
  const running = services.store
    .containersOf(record.id)
    .find((container) => containerState(container) === 'CONTAINER_RUNNING');
  const ips = running ? ((await backendOf(services, record).addresses?.(refOf(running))) ?? []) : [];
  return (
    (ips.length ? await services.store.sandboxes.change(record.id, { ips: [...ips] }) : undefined) ?? record
  );
}

/**
 * "pid", "runtimeSpec" and "config" have containerd's names, since scripts
 * read them from `crictl inspectp`. There is no pause process: "pid" is the holder
 * of a shared pid namespace, otherwise the first running container, otherwise 0;
 * the namespaces have the paths of their pins.
 */
function verbose(services: Used, record: SandboxRecord) {
  const { handler, rule, plan, attachment, config, runtimeHandler } = record;
  const ready = sandboxState(record) === 'SANDBOX_READY';
  const running = shownContainersOf(services, record.id)
    .reverse()
    .find((container) => containerState(container) === 'CONTAINER_RUNNING');
  return {
    pid: ready ? (record.holder?.pid ?? running?.pid ?? 0) : 0,
    runtimeSpec: {
      ociVersion: '1.0.2',
      hostname: plan.hostname,
      annotations: plan.annotations,
      linux: {
        cgroupsPath: plan.cgroupParent,
        namespaces: ready ? Object.entries(plan.namespaces).map(([type, path]) => ({ type, path })) : [],
      },
    },
    handler,
    rule,
    runtimeHandler,
    namespaces: plan.namespaces,
    cgroupParent: plan.cgroupParent,
    folder: plan.folder,
    network: attachment,
    config,
  };
}

/** ListPodSandbox, the oldest first. @throws InvalidArgument for an ambiguous id in the filter */
export async function listPodSandbox(
  services: Used,
  request: ListPodSandboxRequest__Output,
): Promise<ListPodSandboxResponse> {
  return { items: (await filtered(services, request.filter)).map(sandboxItem) };
}

/** StreamPodSandboxes (KEP-5825): as ListPodSandbox, in pages. */
export async function* streamPodSandboxes(
  services: Used,
  request: StreamPodSandboxesRequest__Output,
): AsyncGenerator<StreamPodSandboxesResponse> {
  for (const page of paginate(await filtered(services, request.filter)))
    yield { pod_sandboxes: page.map(sandboxItem) };
}

/**
 * A sandbox that is being made is not listed: it may still be undone.
 * @throws InvalidArgument for an ambiguous id
 */
async function filtered(services: Used, given: PodSandboxFilter__Output | null): Promise<SandboxRecord[]> {
  const filter = given && {
    ...given,
    id: wholeId(services, services.store.sandboxes, given.id, 'filter.id'),
  };
  return (
    await Promise.all(services.store.sandboxes.all().map((record) => withHolderChecked(services, record)))
  )
    .filter(
      (record) =>
        isShown(services, record) && matches({ id: record.id, labels: record.config.labels }, filter),
    )
    .filter((record) => !filter?.state || sandboxState(record) === filter.state.state)
    .sort((one, other) => compareTimes(one.createdAt, other.createdAt));
}

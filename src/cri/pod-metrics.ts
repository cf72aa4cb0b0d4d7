// ListMetricDescriptors and ListPodSandboxMetrics: the series that the kubelet
// serves under /metrics/cadvisor. They have the names and labels of cAdvisor,
// so that its dashboards work; metric-table.ts lists them.
import { cgroupPath } from '../host/cgroup.js';
import { readDetails, readProcesses, readUsage } from '../host/cgroup-stats.js';
import { deviceName, filesystemOf, type Filesystem } from '../host/filesystem.js';
import { countOpenFiles, openFilesLimit } from '../host/open-files.js';
import { sandboxState, type ContainerRecord, type SandboxRecord } from '../records/records.js';
import type { ContainerMetrics } from './generated/runtime/v1/ContainerMetrics.js';
import type { ListMetricDescriptorsRequest__Output } from './generated/runtime/v1/ListMetricDescriptorsRequest.js';
import type { ListMetricDescriptorsResponse } from './generated/runtime/v1/ListMetricDescriptorsResponse.js';
import type { ListPodSandboxMetricsRequest__Output } from './generated/runtime/v1/ListPodSandboxMetricsRequest.js';
import type { ListPodSandboxMetricsResponse } from './generated/runtime/v1/ListPodSandboxMetricsResponse.js';
import type { Metric } from './generated/runtime/v1/Metric.js';
import type { PodSandboxMetrics } from './generated/runtime/v1/PodSandboxMetrics.js';
import type { StreamPodSandboxMetricsRequest__Output } from './generated/runtime/v1/StreamPodSandboxMetricsRequest.js';
import type { StreamPodSandboxMetricsResponse } from './generated/runtime/v1/StreamPodSandboxMetricsResponse.js';
import { containerMetrics, interfaceMetrics, type Counted, type MetricTable } from './metric-table.js';
import type { Services } from './services.js';
import { isShown } from './shown.js';
import { paginate } from './paginate.js';
import { cgroupOf, podInterfaces } from './stats.js';

/** What these calls use. */
type Used = Pick<Services, 'config' | 'store' | 'creations' | 'handlers' | 'usageCache'>;

/** On each series. As with cAdvisor, id is the cgroup, and name the id of the container or sandbox. */
const commonLabels = ['id', 'name', 'image', 'namespace', 'pod', 'container'];
/** How long a call waits for the sizes of layers that have not been measured yet. */
const newLayersWaitMs = 2_000;

/** ListMetricDescriptors: all metrics of ListPodSandboxMetrics with their labels. */
export async function listMetricDescriptors(
  _services: Used,
  _request: ListMetricDescriptorsRequest__Output,
): Promise<ListMetricDescriptorsResponse> {
  return {
    descriptors: Object.entries({ ...containerMetrics, ...interfaceMetrics }).map(
      ([name, { help, labels }]) => ({ name, help, label_keys: [...commonLabels, ...(labels ?? [])] }),
    ),
  };
}

/** ListPodSandboxMetrics: the metrics of all ready pods. */
export async function listPodSandboxMetrics(
  services: Used,
  _request: ListPodSandboxMetricsRequest__Output,
): Promise<ListPodSandboxMetricsResponse> {
  return {
    pod_metrics: await Promise.all(readySandboxes(services).map((record) => metricsOf(services, record))),
  };
}

/** StreamPodSandboxMetrics (KEP-5825): as ListPodSandboxMetrics, in pages. */
export async function* streamPodSandboxMetrics(
  services: Used,
  _request: StreamPodSandboxMetricsRequest__Output,
): AsyncGenerator<StreamPodSandboxMetricsResponse> {
  for (const page of paginate(readySandboxes(services)))
    yield { pod_sandbox_metrics: await Promise.all(page.map((record) => metricsOf(services, record))) };
}

function readySandboxes(services: Used): SandboxRecord[] {
  return services.store.sandboxes
    .all()
    .filter((record) => isShown(services, record) && sandboxState(record) === 'SANDBOX_READY');
}

async function metricsOf(services: Used, record: SandboxRecord): Promise<PodSandboxMetrics> {
  const { id, plan } = record;
  const running = services.store
    .containersOf(id)
    .filter(({ startedAt, exit }) => startedAt !== undefined && exit === undefined);
  await services.usageCache.layersMeasured(
    running.map((container) => container.id),
    newLayersWaitMs,
  );
  const filesystem = await filesystemOf(services.config.root);
  // The network is the pod's, so these series belong to no container.
  const labels = [cgroupPath(plan.cgroupParent), id, '', plan.namespace, plan.name, ''];
  return {
    pod_sandbox_id: id,
    metrics: (podInterfaces(services, record) ?? []).flatMap((one) =>
      seriesOf(interfaceMetrics, one, labels, [one.name]),
    ),
    container_metrics: (
      await Promise.all(running.map((container) => containerMetricsOf(services, plan, container, filesystem)))
    ).flat(),
  };
}

/** Empty if it has just ended. */
async function containerMetricsOf(
  services: Used,
  { namespace, name: pod }: SandboxRecord['plan'],
  record: ContainerRecord,
  filesystem: Filesystem,
): Promise<ContainerMetrics[]> {
  const cgroup = cgroupOf(services, record);
  const usage = cgroup === undefined ? undefined : readUsage(cgroup);
  const details = cgroup === undefined ? undefined : readDetails(cgroup);
  if (cgroup === undefined || !usage || !details) return [];
  const pids = readProcesses(cgroup);
  const counted: Counted = {
    usage,
    details,
    filesystem,
    pids,
    openFiles: await countOpenFiles(pids),
    openFilesLimit: record.pid === undefined ? undefined : await openFilesLimit(record.pid),
    layer: services.usageCache.layer(record.id),
    deviceName,
    resources: record.resources,
    startedAt: record.startedAt ?? record.createdAt,
  };
  const { metadata, image } = record.config;
  const labels = [
    cgroupPath(cgroup),
    record.id,
    image?.user_specified_image || image?.image || record.imageRef,
    namespace,
    pod,
    metadata?.name ?? '',
  ];
  return [{ container_id: record.id, metrics: seriesOf(containerMetrics, counted, labels) }];
}

/** @param labels the values of commonLabels @param more values of further labels that are the same for all rows */
function seriesOf<Source>(
  table: MetricTable<Source>,
  source: Source,
  labels: readonly string[],
  more: readonly string[] = [],
): Metric[] {
  return Object.entries(table).flatMap(([name, { type, values }]) => {
    const found = values(source) ?? [];
    const samples = typeof found === 'object' ? found : [{ value: found, labels: [] }];
    return samples.map((sample) => ({
      // timestamp 0: the values are current, so that the kubelet uses the time of the scrape
      name,
      timestamp: '0',
      metric_type: type,
      label_values: [...labels, ...more, ...sample.labels],
      value: { value: String(sample.value) },
    }));
  });
}

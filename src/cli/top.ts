// `crisp top`: the resource usage of the daemon's pods and containers, and of
// standalone containers. Live on a terminal, otherwise once.
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerStats__Output } from '../cri/generated/runtime/v1/ContainerStats.js';
import type { ListPodSandboxStatsResponse__Output } from '../cri/generated/runtime/v1/ListPodSandboxStatsResponse.js';
import type { PodSandboxStats__Output } from '../cri/generated/runtime/v1/PodSandboxStats.js';
import { CrispError } from '../errors.js';
import { readUsage } from '../host/cgroup-stats.js';
import { refOf } from '../records/standalone.js';
import { stateOf } from './container-state.js';
import { withDaemon } from './daemon-client.js';
import { printJson, size, table } from './output.js';
import { UsageError } from './parse.js';
import { showProcesses } from './processes.js';
import { type PlaceFlags, type Services, withParts } from './services.js';

export interface TopFlags extends PlaceFlags {
  readonly sort: string | undefined;
  readonly json: boolean;
}

export const sortKeys = ['cpu', 'memory', 'network', 'disk', 'name'] as const;
type SortKey = (typeof sortKeys)[number];

/** The usage of a pod or container; undefined: not known (yet). */
export interface Use {
  readonly name: string;
  /** Of one core. */
  readonly cpuPercent?: number;
  readonly memoryBytes?: number;
  /** Since the network of the pod was made. */
  readonly receivedBytes?: number;
  readonly sentBytes?: number;
  readonly diskBytes?: number;
}
export interface PodUse extends Use {
  /** None: a standalone container. */
  readonly containers: readonly Use[];
}

const intervalMs = 2_000;
/** The time between two measurements of a standalone container's CPU usage. */
const sampleMs = 500;

export async function topCommand(flags: TopFlags, [id]: readonly string[]): Promise<number> {
  const key = (flags.sort ?? 'cpu') as SortKey;
  if (!sortKeys.includes(key))
    throw new UsageError(`--sort must be ${sortKeys.join(', ')}, not "${flags.sort}"`);
  return withParts(flags, async (services) => {
    if (id !== undefined) {
      await showProcesses(services, id, flags.json);
      return 0;
    }
    const standalone = new StandaloneUse(services);
    const look = async (): Promise<PodUse[]> =>
      sorted([...(await podsOfDaemon(services.config.listen)), ...(await standalone.look())], key);
    if (await standalone.look().then((found) => found.length > 0)) await sleep(sampleMs);
    if (flags.json) printJson(await look());
    else if (!canRedraw()) process.stdout.write(inWords(await look()));
    else await live(look);
    return 0;
  });
}

/** A terminal that has the sequences for it. */
function canRedraw(): boolean {
  return process.stdout.isTTY && !['', 'dumb'].includes(process.env['TERM'] ?? '');
}

/** Until Ctrl-C. */
async function live(look: () => Promise<PodUse[]>): Promise<void> {
  const end = new AbortController();
  process.once('SIGINT', () => end.abort());
  while (!end.signal.aborted) {
    // Sizes are 0 where nobody has set them. A line that wraps would push others off the screen.
    const [rows, columns] = [process.stdout.rows || 24, process.stdout.columns || 80];
    const lines = inWords(await look())
      .split('\n')
      .map((line) => line.slice(0, columns));
    process.stdout.write(`\x1b[H\x1b[2J${lines.slice(0, rows - 1).join('\n')}`);
    await sleep(intervalMs, undefined, { signal: end.signal }).catch(() => undefined);
  }
  process.stdout.write('\n');
}

/** Empty if no daemon is running. */
async function podsOfDaemon(listen: string): Promise<PodUse[]> {
  try {
    const { stats } = await withDaemon(listen, ({ runtime, ask }) =>
      ask<ListPodSandboxStatsResponse__Output>((options, done) =>
        runtime.ListPodSandboxStats({}, options, done),
      ),
    );
    return stats.map(podUse);
  } catch (error) {
    if (error instanceof CrispError && error.id === 'DaemonUnreachable') return [];
    throw error;
  }
}

type Amount = { readonly value: string } | null | undefined;
function amount(from: Amount): number | undefined {
  return from ? Number(from.value) : undefined;
}

/** Leaves out unknown values. */
function use(name: string, known: { [Key in keyof Omit<Use, 'name'>]: number | undefined }): Use {
  return { name, ...Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined)) };
}

export function podUse({ attributes, linux }: PodSandboxStats__Output): PodUse {
  const { namespace = '', name = '' } = attributes?.metadata ?? {};
  const network = linux?.network?.default_interface;
  const containers = (linux?.containers ?? []).map(containerUse);
  const disks = containers.flatMap(({ diskBytes }) => diskBytes ?? []);
  return {
    ...use(`${namespace}/${name}`, {
      cpuPercent: percent(amount(linux?.cpu?.usage_nano_cores)),
      memoryBytes: amount(linux?.memory?.working_set_bytes),
      receivedBytes: amount(network?.rx_bytes),
      sentBytes: amount(network?.tx_bytes),
      diskBytes: disks.length ? disks.reduce((sum, bytes) => sum + bytes, 0) : undefined,
    }),
    containers,
  };
}

function containerUse({ attributes, cpu, memory, writable_layer: layer }: ContainerStats__Output): Use {
  return use(attributes?.metadata?.name ?? '', {
    cpuPercent: percent(amount(cpu?.usage_nano_cores)),
    memoryBytes: amount(memory?.working_set_bytes),
    diskBytes: amount(layer?.used_bytes),
  });
}

function percent(nanoCores: number | undefined): number | undefined {
  return nanoCores === undefined ? undefined : nanoCores / 1e7;
}

/** The running standalone containers; their CPU usage is known from the second measurement on. */
class StandaloneUse {
  private readonly before = new Map<string, { cpuNs: bigint; at: number }>();

  constructor(private readonly services: Services) {}

  async look(): Promise<PodUse[]> {
    const found: PodUse[] = [];
    for (const record of await this.services.records.all()) {
      const { status } = await stateOf(this.services, record).catch(() => ({ status: 'unknown' }));
      if (status !== 'running') continue;
      const usage = readUsage(this.services.backendOf(record).cgroup(refOf(record)));
      if (!usage) continue;
      const [at, before] = [performance.now(), this.before.get(record.id)];
      this.before.set(record.id, { cpuNs: usage.cpuNs, at });
      found.push({
        ...use(record.name, {
          cpuPercent: before && Number(usage.cpuNs - before.cpuNs) / 1e4 / (at - before.at),
          memoryBytes: usage.memory.workingSetBytes,
        }),
        containers: [],
      });
    }
    return found;
  }
}

/** Sorted by usage, highest first, or by name. */
export function sorted(pods: readonly PodUse[], key: SortKey): PodUse[] {
  const value = (one: Use): number =>
    ({
      cpu: one.cpuPercent,
      memory: one.memoryBytes,
      network: one.receivedBytes === undefined ? undefined : one.receivedBytes + (one.sentBytes ?? 0),
      disk: one.diskBytes,
      name: 0,
    })[key] ?? -1;
  const compare = (one: Use, other: Use): number =>
    value(other) - value(one) || one.name.localeCompare(other.name);
  return pods.map((pod) => ({ ...pod, containers: [...pod.containers].sort(compare) })).sort(compare);
}

export function inWords(pods: readonly PodUse[]): string {
  if (pods.length === 0) return 'nothing runs\n';
  const row = (one: Use, indent: string): string[] => [
    `${indent}${one.name}`,
    one.cpuPercent === undefined ? '-' : `${one.cpuPercent.toFixed(1)} %`,
    ...[one.memoryBytes, one.receivedBytes, one.sentBytes, one.diskBytes].map((bytes) =>
      bytes === undefined ? '-' : size(bytes),
    ),
  ];
  return table(
    ['POD OR CONTAINER', 'CPU', 'MEMORY', 'RECEIVED', 'SENT', 'DISK'],
    pods.flatMap((pod) => [row(pod, ''), ...pod.containers.map((container) => row(container, '  '))]),
  );
}

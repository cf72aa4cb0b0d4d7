// `crisp status`: the state of the daemon.
import type { Probe } from '../backends/backend.js';
import { loadConfig } from '../config/config.js';
import type { ListContainersResponse__Output } from '../cri/generated/runtime/v1/ListContainersResponse.js';
import type { ListImagesResponse__Output } from '../cri/generated/runtime/v1/ListImagesResponse.js';
import type { ListPodSandboxResponse__Output } from '../cri/generated/runtime/v1/ListPodSandboxResponse.js';
import type { StatusResponse__Output } from '../cri/generated/runtime/v1/StatusResponse.js';
import type { VersionResponse__Output } from '../cri/generated/runtime/v1/VersionResponse.js';
import { withDaemon } from './daemon-client.js';
import type { SetAside } from '../set-aside.js';
import { facts, lacking, printJson } from './output.js';

export interface StatusFlags {
  readonly config: string | undefined;
  readonly listen: string | undefined;
  readonly json: boolean;
}

type HandlerStatus = Pick<Probe, 'ready' | 'reason' | 'version' | 'lacks'> & { readonly name: string };

export interface DaemonStatus {
  readonly socket: string;
  readonly version: string;
  /** All conditions are true. */
  readonly healthy: boolean;
  readonly conditions: readonly {
    readonly type: string;
    readonly status: boolean;
    readonly message: string;
  }[];
  readonly handlers: readonly HandlerStatus[];
  readonly pods: Readonly<Record<'ready' | 'notReady', number>>;
  readonly containers: Readonly<Record<'created' | 'running' | 'exited', number>>;
  readonly images: number;
  /** Items that were set aside because they cannot be read. */
  readonly setAside: readonly SetAside[];
}

/** @returns the exit code: 0 healthy, 1 not */
export async function statusCommand(flags: StatusFlags): Promise<number> {
  const { listen } = loadConfig(flags.config, { listen: flags.listen });
  const status = await readStatus(listen);
  if (flags.json) printJson(status);
  else process.stdout.write(inWords(status));
  return status.healthy ? 0 : 1;
}

/** @throws DaemonUnreachable, PermissionDenied */
export async function readStatus(listen: string): Promise<DaemonStatus> {
  return withDaemon(listen, async ({ runtime, images, ask }) => {
    const [version, status, pods, containers, stored] = await Promise.all([
      ask<VersionResponse__Output>((options, done) => runtime.Version({}, options, done)),
      ask<StatusResponse__Output>((options, done) => runtime.Status({ verbose: true }, options, done)),
      ask<ListPodSandboxResponse__Output>((options, done) => runtime.ListPodSandbox({}, options, done)),
      ask<ListContainersResponse__Output>((options, done) => runtime.ListContainers({}, options, done)),
      ask<ListImagesResponse__Output>((options, done) => images.ListImages({}, options, done)),
    ]);
    const conditions = (status.status?.conditions ?? []).map(({ type, status: good, message }) => ({
      type,
      status: good,
      message,
    }));
    const count = <T extends { readonly state: string }>(list: readonly T[], state: string): number =>
      list.filter((item) => item.state === state).length;
    const handlers = JSON.parse(status.info['handlers'] ?? '{}') as Record<
      string,
      Omit<HandlerStatus, 'name'>
    >;
    const { records } = JSON.parse(status.info['setAside'] ?? '{"records":[]}') as { records: SetAside[] };
    return {
      socket: listen,
      version: version.runtime_version,
      healthy: conditions.length > 0 && conditions.every((condition) => condition.status),
      conditions,
      handlers: Object.entries(handlers).map(([name, { ready, reason, version: own, lacks }]) => ({
        name,
        ready,
        reason,
        version: own,
        lacks,
      })),
      pods: { ready: count(pods.items, 'SANDBOX_READY'), notReady: count(pods.items, 'SANDBOX_NOTREADY') },
      containers: {
        created: count(containers.containers, 'CONTAINER_CREATED'),
        running: count(containers.containers, 'CONTAINER_RUNNING'),
        exited: count(containers.containers, 'CONTAINER_EXITED'),
      },
      images: stored.images.length,
      setAside: records,
    };
  });
}

function inWords(status: DaemonStatus): string {
  const { pods, containers } = status;
  return facts([
    ['crisp', `${status.version} at ${status.socket}`],
    ...status.conditions.map(({ type, status: good, message }): [string, string] => [
      type,
      good ? 'yes' : type === 'RuntimeReady' ? 'no: no runtime handler is ready' : `no: ${message}`,
    ]), // the handlers show the reason
    ...status.handlers.map(({ name, ready, reason, version, lacks }): [string, string] => [
      `handler ${name}`,
      ready ? [`ready (${version})`, ...lacking(lacks)].join('; ') : `not ready: ${reason}`,
    ]),
    ['pods', `${pods.ready} ready, ${pods.notReady} not ready`],
    [
      'containers',
      `${containers.running} running, ${containers.created} created, ${containers.exited} exited`,
    ],
    ['images', String(status.images)],
    ...status.setAside.map(({ kind, name, reason }): [string, string] => [
      'set aside',
      `${kind} ${name}: ${reason}`,
    ]),
  ]);
}

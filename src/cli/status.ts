// `crisp status`: is the daemon there, is it well, what does it run.
import { credentials, type ServiceError } from '@grpc/grpc-js';
import { connect } from 'node:net';
import type { Probe } from '../backends/backend.js';
import { loadConfig } from '../config/config.js';
import type { ImageServiceClient } from '../cri/generated/runtime/v1/ImageService.js';
import type { ListContainersResponse__Output } from '../cri/generated/runtime/v1/ListContainersResponse.js';
import type { ListImagesResponse__Output } from '../cri/generated/runtime/v1/ListImagesResponse.js';
import type { ListPodSandboxResponse__Output } from '../cri/generated/runtime/v1/ListPodSandboxResponse.js';
import type { RuntimeServiceClient } from '../cri/generated/runtime/v1/RuntimeService.js';
import type { StatusResponse__Output } from '../cri/generated/runtime/v1/StatusResponse.js';
import type { VersionResponse__Output } from '../cri/generated/runtime/v1/VersionResponse.js';
import { loadProto } from '../cri/proto.js';
import { CrispError } from '../errors.js';
import type { SetAside } from '../set-aside.js';
import { facts, lacking, printJson } from './output.js';

const timeoutMs = 5_000;

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
  /** What it found, cannot read and leaves alone. */
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

/** @throws DaemonUnreachable */
export async function readStatus(listen: string): Promise<DaemonStatus> {
  await checkSocket(listen.replace('unix://', ''));
  const {
    runtime: { v1 },
  } = loadProto();
  const runtime: RuntimeServiceClient = new v1.RuntimeService(listen, credentials.createInsecure());
  const images: ImageServiceClient = new v1.ImageService(listen, credentials.createInsecure());
  try {
    const [version, status, pods, containers, stored] = await Promise.all([
      unary<VersionResponse__Output>(listen, (options, done) => runtime.Version({}, options, done)),
      unary<StatusResponse__Output>(listen, (options, done) =>
        runtime.Status({ verbose: true }, options, done),
      ),
      unary<ListPodSandboxResponse__Output>(listen, (options, done) =>
        runtime.ListPodSandbox({}, options, done),
      ),
      unary<ListContainersResponse__Output>(listen, (options, done) =>
        runtime.ListContainers({}, options, done),
      ),
      unary<ListImagesResponse__Output>(listen, (options, done) => images.ListImages({}, options, done)),
    ]);
    const conditions = (status.status?.conditions ?? []).map(({ type, status: good, message }) => ({
      type,
      status: good,
      message,
    }));
    const count = <T extends { readonly state: string }>(list: readonly T[], state: string): number =>
      list.filter((item) => item.state === state).length;
    return {
      socket: listen,
      version: version.runtime_version,
      healthy: conditions.length > 0 && conditions.every((condition) => condition.status),
      conditions,
      handlers: (JSON.parse(status.info['handlers'] ?? '[]') as HandlerStatus[]).map(
        ({ name, ready, reason, version: own, lacks }) => ({ name, ready, reason, version: own, lacks }),
      ),
      pods: { ready: count(pods.items, 'SANDBOX_READY'), notReady: count(pods.items, 'SANDBOX_NOTREADY') },
      containers: {
        created: count(containers.containers, 'CONTAINER_CREATED'),
        running: count(containers.containers, 'CONTAINER_RUNNING'),
        exited: count(containers.containers, 'CONTAINER_EXITED'),
      },
      images: stored.images.length,
      setAside: JSON.parse(status.info['setAside'] ?? '[]') as SetAside[],
    };
  } finally {
    runtime.close();
    images.close();
  }
}

/** Tells what is wrong with the socket; gRPC would only say that it is unavailable. */
function checkSocket(path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve();
    });
    socket.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'EACCES'
          ? new CrispError('PermissionDenied', `the socket ${path} is for root`, {
              hint: 'run it with sudo',
            })
          : unreachable(
              path,
              error.code === 'ENOENT'
                ? 'there is no such socket'
                : error.code === 'ECONNREFUSED'
                  ? 'nobody listens there'
                  : error.message,
            ),
      ),
    );
  });
}

function unreachable(listen: string, why: string): CrispError {
  return new CrispError('DaemonUnreachable', `the daemon does not answer at ${listen}: ${why}`, {
    stage: 'status',
  });
}

function unary<T>(
  listen: string,
  call: (options: { deadline: number }, done: (error: ServiceError | null, response?: T) => void) => unknown,
): Promise<T> {
  return new Promise((resolve, reject) => {
    call({ deadline: Date.now() + timeoutMs }, (error, response) => {
      if (error || response === undefined) reject(unreachable(listen, error?.details ?? 'no answer'));
      else resolve(response);
    });
  });
}

function inWords(status: DaemonStatus): string {
  const { pods, containers } = status;
  return facts([
    ['crisp', `${status.version} at ${status.socket}`],
    ...status.conditions.map(({ type, status: good, message }): [string, string] => [
      type,
      good ? 'yes' : type === 'RuntimeReady' ? 'no: no runtime handler is ready' : `no: ${message}`,
    ]), // why not, the handlers say
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

// A connection of a command to the daemon, over its socket.
import { credentials, type ServiceError } from '@grpc/grpc-js';
import { connect } from 'node:net';
import type { ImageServiceClient } from '../cri/generated/runtime/v1/ImageService.js';
import type { RuntimeServiceClient } from '../cri/generated/runtime/v1/RuntimeService.js';
import { loadProto } from '../cri/proto.js';
import { CrispError } from '../errors.js';

const timeoutMs = 5_000;

export interface DaemonClient {
  readonly runtime: RuntimeServiceClient;
  readonly images: ImageServiceClient;
  /** Makes a call with a single answer. @throws DaemonUnreachable */
  readonly ask: <T>(call: (options: { deadline: number }, done: Answer<T>) => unknown) => Promise<T>;
}
type Answer<T> = (error: ServiceError | null, response?: T) => void;

/** Connects to the daemon for the duration of `work`. @throws DaemonUnreachable, PermissionDenied */
export async function withDaemon<T>(listen: string, work: (daemon: DaemonClient) => Promise<T>): Promise<T> {
  await checkSocket(listen.replace('unix://', ''));
  const { v1 } = loadProto().runtime;
  const runtime: RuntimeServiceClient = new v1.RuntimeService(listen, credentials.createInsecure());
  const images: ImageServiceClient = new v1.ImageService(listen, credentials.createInsecure());
  try {
    return await work({
      runtime,
      images,
      ask: (call) =>
        new Promise((resolve, reject) => {
          call({ deadline: Date.now() + timeoutMs }, (error, response) => {
            if (error || response === undefined) reject(unreachable(listen, error?.details ?? 'no answer'));
            else resolve(response);
          });
        }),
    });
  } finally {
    runtime.close();
    images.close();
  }
}

/** Finds the problem of the socket; the error of gRPC is only that it is unavailable. */
function checkSocket(path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve();
    });
    socket.once('error', ({ code, message }: NodeJS.ErrnoException) => {
      if (code === 'EACCES')
        reject(
          new CrispError('PermissionDenied', `only root can use the socket ${path}`, {
            hint: 'run it with sudo',
          }),
        );
      else
        reject(
          unreachable(
            path,
            code === 'ENOENT'
              ? 'the socket does not exist'
              : code === 'ECONNREFUSED'
                ? 'no process listens on the socket'
                : message,
          ),
        );
    });
  });
}

function unreachable(listen: string, why: string): CrispError {
  return new CrispError('DaemonUnreachable', `the daemon does not answer at ${listen}: ${why}`);
}

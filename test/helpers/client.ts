// The two services of a daemon as promises.  Used by the integration tests.
import * as grpc from '@grpc/grpc-js';
import type { ImageServiceClient } from '../../src/cri/generated/runtime/v1/ImageService.js';
import type { RuntimeServiceClient } from '../../src/cri/generated/runtime/v1/RuntimeService.js';
import { loadProto } from '../../src/cri/proto.js';
import { patience } from './patience.js';

type Unary<Q, A> = (argument: Q, callback: grpc.requestCallback<A>) => grpc.ClientUnaryCall;
/** The generated client has each method twice, and in four overloads; the one with the CRI's name is ours. */
type Promised<C> = {
  readonly [
    Method in keyof C as Method extends Capitalize<Method & string>
      ? C[Method] extends Unary<infer _Q, infer _A>
        ? Method
        : never
      : never
  ]: C[Method] extends Unary<infer Q, infer A> ? (request: Q, options?: CallOptions) => Promise<A> : never;
};

export interface CallOptions {
  /** After it the client gives up, as the kubelet does. */
  readonly deadlineMs?: number;
  /** Goes away in the middle of the call. */
  readonly signal?: AbortSignal;
}

export interface Client {
  readonly runtime: Promised<RuntimeServiceClient>;
  readonly image: Promised<ImageServiceClient>;
  /** For the calls that stream. */
  readonly streams: RuntimeServiceClient;
  readonly imageStreams: ImageServiceClient;
  close(): void;
}

const proto = loadProto();

/** @param socket a path */
export function connectTo(socket: string): Client {
  const options = {
    'grpc.max_receive_message_length': 64 << 20,
    'grpc.initial_reconnect_backoff_ms': 50,
    'grpc.max_reconnect_backoff_ms': 200,
  };
  const address = `unix:${socket}`;
  const runtime = new proto.runtime.v1.RuntimeService(address, grpc.credentials.createInsecure(), options);
  const image = new proto.runtime.v1.ImageService(address, grpc.credentials.createInsecure(), options);
  return {
    runtime: promised<RuntimeServiceClient>(runtime),
    image: promised<ImageServiceClient>(image),
    streams: runtime,
    imageStreams: image,
    close: () => {
      runtime.close();
      image.close();
    },
  };
}

function promised<C>(client: grpc.Client): Promised<C> {
  type Method = (
    request: unknown,
    metadata: grpc.Metadata,
    options: grpc.CallOptions,
    callback: grpc.requestCallback<unknown>,
  ) => grpc.ClientUnaryCall;
  return new Proxy(
    {},
    {
      get:
        (_, name: string) =>
        (request: unknown, { deadlineMs = 60_000 * patience, signal }: CallOptions = {}) =>
          new Promise((resolve, reject) => {
            const method = (client as unknown as Record<string, Method>)[name] as Method;
            const call = method.call(
              client,
              request,
              new grpc.Metadata(),
              { deadline: Date.now() + deadlineMs },
              (error, answer) => (error ? reject(error) : resolve(answer)),
            );
            signal?.addEventListener('abort', () => call.cancel(), { once: true });
          }),
    },
  ) as Promised<C>;
}

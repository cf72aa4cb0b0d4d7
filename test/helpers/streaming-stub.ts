// A RuntimeService that only hands out streaming URLs, for tests of the
// streaming server with the real crictl: its containers are local processes.
import * as grpc from '@grpc/grpc-js';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadProto } from '../../src/cri/proto.js';
import {
  StreamingServer,
  type StreamingHandlers,
  type StreamingOptions,
} from '../../src/streaming/server.js';

export interface StreamingStub {
  /** For crictl's -r. */
  readonly endpoint: string;
  readonly streaming: StreamingServer;
  close(): Promise<void>;
}

interface CommandMessage {
  container_id: string;
  cmd: string[];
  tty: boolean;
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
}

export async function startStreamingStub(
  handlers: StreamingHandlers,
  tls?: StreamingOptions['tls'],
): Promise<StreamingStub> {
  const folder = await mkdtemp(join(tmpdir(), 'crisp-streaming-'));
  const streaming = new StreamingServer({ address: '127.0.0.1', port: 0, handlers, ...(tls ? { tls } : {}) });
  await streaming.start();
  const answer =
    <Q, A>(reply: (request: Q) => A): grpc.handleUnaryCall<Q, A> =>
    (call, done) =>
      done(null, reply(call.request));
  const { RuntimeService, ImageService } = loadProto().runtime.v1;
  const server = new grpc.Server();
  server.addService(ImageService.service, { ImageFsInfo: answer(() => ({})) }); // the first call of crictl
  server.addService(RuntimeService.service, {
    Version: answer(() => ({
      version: '0.1.0',
      runtime_name: 'stub',
      runtime_version: '0',
      runtime_api_version: 'v1',
    })),
    Exec: answer(({ container_id: containerId, cmd, tty, stdin, stdout, stderr }: CommandMessage) => ({
      url: streaming.url({ kind: 'exec', sandboxId: 'pod', containerId, cmd, tty, stdin, stdout, stderr }),
    })),
    Attach: answer(({ container_id: containerId, tty, stdin, stdout, stderr }: CommandMessage) => ({
      url: streaming.url({ kind: 'attach', sandboxId: 'pod', containerId, tty, stdin, stdout, stderr }),
    })),
    PortForward: answer(
      ({ pod_sandbox_id: sandboxId, port: ports }: { pod_sandbox_id: string; port: number[] }) => ({
        url: streaming.url({ kind: 'portforward', sandboxId, ports }),
      }),
    ),
  });
  const endpoint = `unix://${folder}/stub.sock`;
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${folder}/stub.sock`, grpc.ServerCredentials.createInsecure(), (error) =>
      error ? reject(error) : resolve(),
    ),
  );
  return {
    endpoint,
    streaming,
    close: async () => {
      server.forceShutdown();
      await streaming.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

// The gRPC server.  Every handler is wrapped once, here: request id, log line,
// time, cancellation, and errors to status.
import * as grpc from '@grpc/grpc-js';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { chmod } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { CrispError, toCrispError, toStatus } from '../errors.js';
import { within } from '../host/wait.js';
import { log, logContext, withLogContext, type LogContext } from '../log.js';
import { metrics } from '../metrics.js';
import { serializerOf } from './encoded.js';
import type { Call, Services } from './services.js';
import { loadProto } from './proto.js';
import { RequestChecks, type MessageType } from './request-check.js';
import { imageService, runtimeService, type CallKind } from './service.js';

/** Both ways: a list of a full node, and the output of an exec, exceed gRPC's default of 4 MiB. */
const maxMessageBytes = 32 << 20;

/** How long cancelled calls may take to end the programs that they have started. */
const cancelledCallMs = 3_000;

/** The gRPC server of the RuntimeService and the ImageService. */
export class CriServer {
  /** Running calls, also after their answer or the disconnection of their client. */
  private readonly atWork = new Set<Promise<void>>();
  private readonly server = new grpc.Server({
    'grpc.max_receive_message_length': maxMessageBytes,
    'grpc.max_send_message_length': maxMessageBytes,
    'grpc.enable_channelz': 0, // counters of each call for a service that crisp does not offer
  });

  constructor(services: Services) {
    const {
      runtime: { v1 },
    } = loadProto();
    const types = v1 as unknown as Readonly<Record<string, { readonly type: MessageType }>>;
    const checks = new RequestChecks((name) => {
      const found = types[name];
      if (!found) throw new Error(`the proto has no message ${name}`);
      return found.type;
    });
    for (const [service, calls] of [
      [v1.RuntimeService.service, runtimeService],
      [v1.ImageService.service, imageService],
    ] as const)
      this.server.addService(
        tolerant(service),
        wrapAll(services, checks, service, calls, (call) => this.track(call)),
      );
  }

  /** Listens on this path, for root only. @throws InvalidConfigFile if it cannot be bound */
  async listen(path: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.server.bindAsync(`unix:${path}`, grpc.ServerCredentials.createInsecure(), (error) =>
        error
          ? reject(new CrispError('InvalidConfigFile', `listen: ${error.message}`, { cause: error }))
          : resolve(),
      );
    });
    await chmod(path, 0o660);
  }

  /** Waits for calls in flight for at most `graceMs`, then cancels them; after 3 s more it stops waiting. */
  async close(graceMs: number): Promise<void> {
    await within(new Promise<void>((resolve) => this.server.tryShutdown(() => resolve())), graceMs);
    this.server.forceShutdown();
    await within(Promise.all(this.atWork), cancelledCallMs);
  }

  private track(call: Promise<void>): void {
    this.atWork.add(call);
    void call.then(() => this.atWork.delete(call));
  }
}

/** A function of service.ts; its types are checked there. */
type Story = (services: Services, request: never, call: Call) => Promise<object> | AsyncIterable<object>;

/** A request that cannot be decoded. */
class Malformed {
  constructor(readonly why: string) {}
}

/**
 * A service that accepts any bytes as a request, since gRPC would report undecodable
 * requests as INTERNAL, and that encodes unchanged data only once.
 */
function tolerant(service: grpc.ServiceDefinition): grpc.ServiceDefinition {
  return Object.fromEntries(
    Object.entries(service).map(([method, definition]) => [
      method,
      {
        ...definition,
        responseSerialize: serializerOf(definition.responseSerialize),
        requestDeserialize: (bytes: Buffer): unknown => {
          try {
            return definition.requestDeserialize(bytes) as unknown;
          } catch (error) {
            return new Malformed((error as Error).message);
          }
        },
      },
    ]),
  );
}

/** @throws InvalidArgument */
function checkRequest(
  checks: RequestChecks,
  definition: grpc.MethodDefinition<unknown, unknown>,
  request: object,
): void {
  const { type } = (definition as unknown as { requestType: { type: MessageType } }).requestType;
  if (request instanceof Malformed)
    throw new CrispError('InvalidArgument', `the request is not a ${type.name}: ${request.why}`);
  checks.check(type, request);
}

type Track = (call: Promise<void>) => void;

function wrapAll(
  services: Services,
  checks: RequestChecks,
  service: grpc.ServiceDefinition,
  calls: object,
  track: Track,
): grpc.UntypedServiceImplementation {
  return Object.fromEntries(
    Object.entries(service).map(([method, definition]) => {
      const listed = (calls as Record<string, readonly [Story, CallKind]>)[method];
      if (!listed) throw new Error(`${method} has no story`);
      const [story, kind] = listed;
      const check = (request: object): void => checkRequest(checks, definition, request);
      return [
        method,
        definition.responseStream
          ? wrapStream(services, method, kind, story, check, track)
          : wrapUnary(services, method, kind, story, check, track),
      ];
    }),
  );
}

function wrapUnary(
  services: Services,
  method: string,
  kind: CallKind,
  story: Story,
  check: (request: object) => void,
  track: Track,
): grpc.handleUnaryCall<object, object> {
  return (call, callback) =>
    track(
      inCall(
        method,
        kind,
        call,
        async (context) => {
          check(call.request);
          callback(null, await (story(services, call.request as never, context) as Promise<object>));
        },
        (status) => callback(status),
      ),
    );
}

function wrapStream(
  services: Services,
  method: string,
  kind: CallKind,
  story: Story,
  check: (request: object) => void,
  track: Track,
): grpc.handleServerStreamingCall<object, object> {
  return (call) =>
    track(
      inCall(
        method,
        kind,
        call,
        async (context) => {
          check(call.request);
          for await (const message of story(
            services,
            call.request as never,
            context,
          ) as AsyncIterable<object>) {
            if (context.signal.aborted) return;
            // Without a turn of the event loop in between, many large messages would block all other calls.
            if (call.write(message)) await nextTurn();
            else await once(call, 'drain', { signal: context.signal }).catch(() => undefined);
          }
          call.end();
        },
        (status) => call.emit('error', status),
      ),
    );
}

async function inCall(
  method: string,
  kind: CallKind,
  call: grpc.ServerUnaryCall<object, object> | grpc.ServerWritableStream<object, object>,
  work: (context: Call) => Promise<void>,
  fail: (status: { code: grpc.status; details: string }) => void,
): Promise<void> {
  const context = new CallContext();
  let isOver = false;
  call.on('cancelled', () => {
    if (!isOver) context.cancel(); // gRPC emits this for every call, also after its answer
  });
  const started = performance.now();
  await withLogContext({ requestId: context.requestId }, async () => {
    const underWay = { method, started, ids: logContext() };
    inFlight.add(underWay);
    let code = grpc.status.OK;
    try {
      await work(context);
      log[kind === 'read' ? 'debug' : 'info']({ method, ms: ms(started) }, 'call');
    } catch (error) {
      const known = toCrispError(error);
      const status = toStatus(known);
      code = status.code;
      // Routine queries of the kubelet (does this exist?) are not logged as failures.
      const level =
        known.id === 'Internal'
          ? 'error'
          : kind === 'read' && status.code === grpc.status.NOT_FOUND
            ? 'debug'
            : 'warn';
      log[level](
        {
          method,
          ms: ms(started),
          code: grpc.status[code],
          error: known.report,
          ...(known.id === 'Internal' ? { err: known.cause } : {}),
        },
        'call failed',
      );
      fail(status);
    } finally {
      isOver = true;
      inFlight.delete(underWay);
      metrics.calls.observe({ method, code: grpc.status[code] }, (performance.now() - started) / 1000);
    }
  });
}

const inFlight = new Set<{
  readonly method: string;
  readonly started: number;
  readonly ids: LogContext | undefined;
}>();

/** The calls without an answer yet, the oldest first, with the ids in their log context. */
export function callsInFlight(): (LogContext & { readonly method: string; readonly seconds: number })[] {
  return [...inFlight].map(({ method, started, ids }) => ({
    method,
    seconds: Math.round((performance.now() - started) / 100) / 10,
    ...ids,
  }));
}

/** The signal is made on first use: a read does not need it, and making it takes as long as the read. */
class CallContext implements Call {
  readonly requestId = (lastRequest = (lastRequest + 1) >>> 0).toString(16).padStart(8, '0');
  private controller: AbortController | undefined;
  private isCancelled = false;

  get signal(): AbortSignal {
    this.controller ??= new AbortController();
    if (this.isCancelled) this.controller.abort();
    return this.controller.signal;
  }

  cancel(): void {
    this.isCancelled = true;
    this.controller?.abort();
  }
}
/** A random prefix distinguishes the calls of two runs. */
let lastRequest = randomInt(2 ** 32);

function ms(started: number): number {
  return Math.round((performance.now() - started) * 10) / 10;
}

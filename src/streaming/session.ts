// One exec or attach, from its streams to its exit status, over any transport. Called by
// server.ts.
//
//   streams open ──► handler runs ──► output flushed ──► status on the error stream ──► goodbye
//   client disconnects at any point ──► the handler's signal aborts
import type { Duplex, Readable, Writable } from 'node:stream';
import type { WebSocket } from 'ws';
import type { Io, TerminalSize } from '../shapes/io.js';
import { toCrispError } from '../errors.js';
import { log } from '../log.js';
import type { CommandRequest, StreamingHandlers } from './requests.js';
import { SpdyConnection } from './spdy.js';
import type { ChannelFormat, CommandProtocol } from './subprotocols.js';
import { ChannelSocket } from './websocket.js';
import { untilTaken, type Taken, type WireStream } from './wire-stream.js';

/** How long a client may take to open its streams, or the second one of a pair. */
export const streamCreationTimeoutMs = 30_000;

const streamTypes = ['error', 'stdin', 'stdout', 'stderr', 'resize'] as const;
type StreamType = (typeof streamTypes)[number];
type CommandStreams = Partial<Record<StreamType, WireStream>> & { error: WireStream };

interface Connection extends Taken {
  readonly closed: Promise<void>;
  close(): Promise<void>;
}

/** Serves one exec or attach on a socket that has been switched to SPDY. */
export async function serveCommandOverSpdy(
  socket: Duplex,
  protocol: CommandProtocol,
  request: CommandRequest,
  handlers: StreamingHandlers,
  timeoutMs = streamCreationTimeoutMs,
): Promise<void> {
  // Not resize: the client may omit it if it has no terminal, even if the container has one.
  const wanted = (['error', 'stdin', 'stdout', 'stderr'] as const).filter(
    (type) => type === 'error' || request[type],
  );
  const streams: Partial<CommandStreams> = {};
  const sizes = new TerminalSizes();
  let complete = (): void => undefined;
  const allThere = new Promise<'all there'>((resolve) => {
    complete = () => resolve('all there');
  });
  const connection = new SpdyConnection(socket, (stream) => {
    const type = streamTypes.find((name) => name === stream.headers.get('streamtype'));
    if (!type || streams[type]) {
      stream.destroy();
      return;
    }
    streams[type] = stream;
    takeInput(type, stream, request, sizes);
    if (wanted.every((name) => streams[name])) complete();
  });
  const timer = setTimeout(() => {
    const missing = wanted.filter((name) => !streams[name]).join(', ');
    log.info({ missing }, 'streaming client did not open its streams in time');
    if (streams.error)
      writeStatus(
        streams.error,
        protocol,
        failure(`timed out waiting for the client to open its streams: ${missing}`),
      );
    void connection.close();
  }, timeoutMs);
  const outcome = await Promise.race([allThere, connection.closed]);
  clearTimeout(timer);
  if (outcome) await runCommand(request, streams as CommandStreams, sizes, protocol, connection, handlers);
}

/** Serves one exec or attach on a WebSocket with channels. */
export async function serveCommandOverWebSocket(
  socket: WebSocket,
  protocol: CommandProtocol & ChannelFormat,
  request: CommandRequest,
  handlers: StreamingHandlers,
): Promise<void> {
  const connection = new ChannelSocket(socket, protocol, 5);
  const [stdin, stdout, stderr, error, resize] = connection.channels as [
    WireStream,
    WireStream,
    WireStream,
    WireStream,
    WireStream,
  ];
  const streams: CommandStreams = { stdin, stdout, stderr, error, resize };
  const sizes = new TerminalSizes();
  for (const type of streamTypes) takeInput(type, streams[type] as WireStream, request, sizes);
  // An empty message tells the client that the session is ready; some clients wait for it.
  connection.send(
    (request.stdout ? stdout : request.stderr ? stderr : error).id,
    Buffer.alloc(0),
    () => undefined,
  );
  await runCommand(request, streams, sizes, protocol, connection, handlers);
}

/** Passes the client's data on a stream to the program or its terminal, or drops it. */
function takeInput(
  type: StreamType,
  stream: WireStream,
  request: CommandRequest,
  sizes: TerminalSizes,
): void {
  if (type === 'resize') sizes.follow(stream);
  else if (type !== 'stdin' || !request.stdin) stream.discardInput();
}

async function runCommand(
  request: CommandRequest,
  streams: CommandStreams,
  sizes: TerminalSizes,
  protocol: CommandProtocol,
  connection: Connection,
  handlers: StreamingHandlers,
): Promise<void> {
  const vanished = new AbortController();
  void connection.closed.then(() => vanished.abort());
  const io: Io = {
    terminal: request.tty,
    stdin: request.stdin ? streams.stdin : undefined,
    stdout: request.stdout ? streams.stdout : undefined,
    stderr: request.stderr ? streams.stderr : undefined,
    onResize: request.tty ? (listener) => sizes.tell(listener) : undefined,
  };
  const status = await statusOf(request, io, vanished.signal, handlers);
  const goodbye = async (): Promise<void> => {
    await Promise.all([streams.stdout, streams.stderr].map(async (stream) => stream?.flush()));
    writeStatus(streams.error, protocol, status);
    await Promise.all(streamTypes.map(async (type) => streams[type]?.flush()));
    await connection.close();
  };
  await untilTaken(connection, goodbye());
}

/** The fields of metav1.Status that clients read. */
interface Status {
  readonly status: 'Success' | 'Failure';
  readonly message?: string;
  readonly reason?: string;
  readonly details?: { readonly causes: readonly { readonly reason: string; readonly message: string }[] };
  readonly code?: number;
}

async function statusOf(
  request: CommandRequest,
  io: Io,
  signal: AbortSignal,
  handlers: StreamingHandlers,
): Promise<Status> {
  try {
    if (request.kind === 'attach') {
      await handlers.attach(request, io, signal);
      return { status: 'Success' };
    }
    const { exitCode } = await handlers.exec(request, io, signal);
    return exitCode === 0
      ? { status: 'Success' }
      : {
          status: 'Failure',
          reason: 'NonZeroExitCode',
          message: `command terminated with exit code ${exitCode}`,
          details: { causes: [{ reason: 'ExitCode', message: String(exitCode) }] },
        };
  } catch (error) {
    const { report } = toCrispError(error);
    log.info({ err: error, clientGone: signal.aborted }, `${request.kind} session failed`);
    return failure(
      `error ${request.kind === 'exec' ? 'executing command in' : 'attaching to'} container: ${report}`,
    );
  }
}

function failure(message: string): Status {
  return { status: 'Failure', reason: 'InternalError', message, code: 500 };
}

function writeStatus(stream: Writable, protocol: CommandProtocol, status: Status): void {
  if (protocol.jsonStatus) stream.end(JSON.stringify(status));
  else stream.end(status.message ?? '');
}

/** The sizes of the client's terminal: JSON objects, one after the other. */
class TerminalSizes {
  private latest: TerminalSize | undefined;
  private readonly listeners: ((size: TerminalSize) => void)[] = [];

  follow(stream: Readable): void {
    let text = '';
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString('utf8');
      for (const [object] of text.matchAll(/\{[^{}]*\}/g)) this.take(parseSize(object));
      text = text.slice(text.lastIndexOf('}') + 1).slice(-maxSizeCharacters);
    });
  }

  /** The listener is called with the current size, if there is one, and with each new size. */
  tell(listener: (size: TerminalSize) => void): void {
    this.listeners.push(listener);
    if (this.latest) listener(this.latest);
  }

  private take(size: TerminalSize | undefined): void {
    if (!size) return;
    this.latest = size;
    for (const listener of this.listeners) listener(size);
  }
}
const maxSizeCharacters = 100;

function parseSize(json: string): TerminalSize | undefined {
  try {
    const { Width: width, Height: height } = JSON.parse(json) as Record<string, unknown>;
    if (isCells(width) && isCells(height)) return { width, height };
  } catch {
    /* not a size: the terminal keeps its size */
  }
  return undefined;
}

function isCells(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) > 0 && (value as number) <= 0xffff;
}

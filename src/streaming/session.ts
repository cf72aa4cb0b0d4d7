// One exec or attach, from its streams to its exit status, whatever the
// transport. Called by server.ts.
//
//   streams there ──► handler runs ──► output flushed ──► status on the error stream ──► goodbye
//   client gone at any point ──► the handler's signal aborts
import type { Duplex, Readable, Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import type { WebSocket } from 'ws';
import type { Io, TerminalSize } from '../backends/backend.js';
import { toCrispError } from '../errors.js';
import { log } from '../log.js';
import type { CommandRequest, StreamingHandlers } from './requests.js';
import { SpdyConnection, type SpdyStream } from './spdy.js';
import type { ChannelFormat, CommandProtocol } from './subprotocols.js';
import { ChannelSocket } from './websocket.js';
import type { WireStream } from './wire-stream.js';

/** How long a client may take to open its streams, or the second one of a pair. */
export const streamCreationTimeoutMs = 30_000;

const streamTypes = ['error', 'stdin', 'stdout', 'stderr', 'resize'] as const;
type StreamType = (typeof streamTypes)[number];
type CommandStreams = Partial<Record<StreamType, WireStream>> & { error: WireStream };

interface Connection { readonly closed: Promise<void>; close(): Promise<void> }

/** Serves one exec or attach on a socket that has been switched to SPDY. */
export async function serveCommandOverSpdy(socket: Duplex, protocol: CommandProtocol, request: CommandRequest, handlers: StreamingHandlers, timeoutMs = streamCreationTimeoutMs): Promise<void> {
  const wanted = streamTypes.filter((type) => type === 'error' || (type === 'resize' ? request.tty && protocol.resize : request[type]));
  const streams: Partial<Record<StreamType, SpdyStream>> = {};
  let complete = (): void => undefined;
  const allThere = new Promise<'all there'>((resolve) => { complete = () => resolve('all there'); });
  const connection = new SpdyConnection(socket, (stream) => {
    const type = streamTypes.find((name) => name === stream.headers.get('streamtype'));
    if (!type || streams[type]) { stream.destroy(); return; }
    streams[type] = stream;
    if (wanted.every((name) => streams[name])) complete();
  });
  const timer = setTimeout(() => {
    const missing = wanted.filter((name) => !streams[name]).join(', ');
    log.info({ missing }, 'streaming client did not open its streams in time');
    if (streams.error) writeStatus(streams.error, protocol, failure(`timed out waiting for the client to open its streams: ${missing}`));
    void connection.close();
  }, timeoutMs);
  const outcome = await Promise.race([allThere, connection.closed]);
  clearTimeout(timer);
  if (outcome) await runCommand(request, streams as CommandStreams, protocol, connection, handlers);
}

/** Serves one exec or attach on a WebSocket with channels. */
export async function serveCommandOverWebSocket(socket: WebSocket, format: ChannelFormat, protocol: CommandProtocol, request: CommandRequest, handlers: StreamingHandlers): Promise<void> {
  const connection = new ChannelSocket(socket, format, 5);
  const [stdin, stdout, stderr, error, resize] = connection.channels as [WireStream, WireStream, WireStream, WireStream, WireStream];
  // An empty message tells the client that the session stands; some wait for it.
  connection.send((request.stdout ? stdout : request.stderr ? stderr : error).id, Buffer.alloc(0), () => undefined);
  await runCommand(request, { stdin, stdout, stderr, error, resize }, protocol, connection, handlers);
}

async function runCommand(request: CommandRequest, streams: CommandStreams, protocol: CommandProtocol, connection: Connection, handlers: StreamingHandlers): Promise<void> {
  const vanished = new AbortController();
  void connection.closed.then(() => vanished.abort());
  const io: Io = {
    terminal: request.tty,
    stdin: request.stdin ? streams.stdin : undefined,
    stdout: request.stdout ? streams.stdout : undefined,
    stderr: request.stderr ? streams.stderr : undefined,
    onResize: request.tty && streams.resize ? followResize(streams.resize) : undefined,
  };
  for (const type of streamTypes) if (streams[type] !== io.stdin && !(type === 'resize' && io.onResize)) streams[type]?.discardInput();
  const status = await statusOf(request, io, vanished.signal, handlers);
  await Promise.all([flush(io.stdout), flush(io.stderr)]);
  writeStatus(streams.error, protocol, status);
  for (const type of streamTypes) streams[type]?.end();
  await flush(streams.error);
  await connection.close();
}

/** Ends a stream and waits until all of it is with the kernel, or the client has gone. */
async function flush(stream: Writable | undefined): Promise<void> {
  if (!stream) return;
  stream.end();
  await finished(stream, { readable: false }).catch(() => undefined);
}

/** metav1.Status, as much of it as the clients look at. */
interface Status {
  readonly status: 'Success' | 'Failure';
  readonly message?: string;
  readonly reason?: string;
  readonly details?: { readonly causes: readonly { readonly reason: string; readonly message: string }[] };
  readonly code?: number;
}

async function statusOf(request: CommandRequest, io: Io, signal: AbortSignal, handlers: StreamingHandlers): Promise<Status> {
  try {
    if (request.kind === 'attach') {
      await handlers.attach(request, io, signal);
      return { status: 'Success' };
    }
    const { exitCode } = await handlers.exec(request, io, signal);
    return exitCode === 0 ? { status: 'Success' } : {
      status: 'Failure', reason: 'NonZeroExitCode', message: `command terminated with exit code ${exitCode}`,
      details: { causes: [{ reason: 'ExitCode', message: String(exitCode) }] },
    };
  } catch (error) {
    const { report } = toCrispError(error);
    log.info({ err: error, clientGone: signal.aborted }, `${request.kind} session failed`);
    return failure(`error ${request.kind === 'exec' ? 'executing command in' : 'attaching to'} container: ${report}`);
  }
}

function failure(message: string): Status {
  return { status: 'Failure', reason: 'InternalError', message, code: 500 };
}

function writeStatus(stream: Writable, protocol: CommandProtocol, status: Status): void {
  if (protocol.jsonStatus) stream.end(JSON.stringify(status));
  else stream.end(status.message ?? '');
}

/** Reads the sizes that the client sends, JSON objects one after the other; the latest one is kept for who comes late. */
function followResize(stream: Readable): NonNullable<Io['onResize']> {
  let latest: TerminalSize | undefined;
  let text = '';
  const listeners: ((size: TerminalSize) => void)[] = [];
  stream.on('data', (chunk: Buffer) => {
    text += chunk.toString('utf8');
    for (const [object] of text.matchAll(/\{[^{}]*\}/g)) {
      const size = parseSize(object);
      if (!size) continue;
      latest = size;
      for (const listener of listeners) listener(size);
    }
    text = text.slice(text.lastIndexOf('}') + 1).slice(-maxSizeCharacters);
  });
  return (listener) => {
    listeners.push(listener);
    if (latest) listener(latest);
  };
}
const maxSizeCharacters = 100;

function parseSize(json: string): TerminalSize | undefined {
  try {
    const { Width: width, Height: height } = JSON.parse(json) as Record<string, unknown>;
    if (isCells(width) && isCells(height)) return { width, height };
  } catch { /* not a size: the terminal keeps the one it has */ }
  return undefined;
}

function isCells(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) > 0 && (value as number) <= 0xffff;
}

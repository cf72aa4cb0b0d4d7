// Port-forward sessions: any number of connections to ports of a pod, over one
// SPDY connection or one WebSocket. Called by server.ts.
//
//   SPDY: a pair of streams per connection, "data" and "error", joined by the
//         header requestID; the client may open more pairs at any time
//   WebSocket: the ports of the request, two channels each (data 2n, error
//         2n+1), both beginning with the port's number, little endian
import type { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { toCrispError } from '../errors.js';
import { log } from '../log.js';
import type { PortForwardRequest, StreamingHandlers } from './requests.js';
import { streamCreationTimeoutMs } from './session.js';
import { SpdyConnection, type SpdyStream } from './spdy.js';
import type { ChannelFormat } from './subprotocols.js';
import { ChannelSocket } from './websocket.js';
import type { WireStream } from './wire-stream.js';

/**
 * Serves a port-forward on a socket, or a tunnel, that has been switched to SPDY. Ends when the client
 * disconnects.
 */
export async function servePortForwardOverSpdy(
  socket: Duplex,
  request: PortForwardRequest,
  handlers: StreamingHandlers,
  timeoutMs = streamCreationTimeoutMs,
): Promise<void> {
  const vanished = new AbortController();
  const half = new Map<string, { stream: SpdyStream; timer: NodeJS.Timeout }>();
  const connection = new SpdyConnection(socket, (stream) => {
    const port = Number(stream.headers.get('port'));
    const type = stream.headers.get('streamtype');
    if (!Number.isInteger(port) || port < 1 || port > 65535 || (type !== 'data' && type !== 'error')) {
      stream.destroy();
      return;
    }
    const pair = stream.headers.get('requestid') ?? guessPair(stream.id, type);
    const other = half.get(pair);
    if (!other) {
      half.set(pair, {
        stream,
        timer: setTimeout(() => {
          half.delete(pair);
          abandon(stream, type, pair);
        }, timeoutMs),
      });
      return;
    }
    if (other.stream.headers.get('streamtype') === type) {
      stream.destroy();
      return;
    }
    clearTimeout(other.timer);
    half.delete(pair);
    const [data, error] = type === 'data' ? [stream, other.stream] : [other.stream, stream];
    void forward(request, port, data, error, vanished.signal, handlers);
  });
  await connection.closed;
  for (const { timer } of half.values()) clearTimeout(timer);
  vanished.abort();
}

/** Clients from before 2015 send no requestID; their error stream comes right before its data stream. */
function guessPair(streamId: number, type: 'data' | 'error'): string {
  return `stream ${type === 'error' ? streamId : streamId - 2}`;
}

function abandon(stream: SpdyStream, type: 'data' | 'error', pair: string): void {
  log.info({ pair }, 'streaming client opened only one stream of a pair');
  if (type === 'error') stream.discardInput().end(`timed out waiting for the data stream of request ${pair}`);
  else stream.destroy();
}

/**
 * Serves a port-forward on a WebSocket with channels. Ends when all its ports have ended, or the client
 * disconnects.
 */
export async function servePortForwardOverWebSocket(
  socket: WebSocket,
  format: ChannelFormat,
  request: PortForwardRequest,
  handlers: StreamingHandlers,
): Promise<void> {
  const vanished = new AbortController();
  const connection = new ChannelSocket(socket, format, 2 * request.ports.length);
  void connection.closed.then(() => vanished.abort());
  await Promise.all(
    request.ports.map((port, index) => {
      const data = connection.channels[2 * index] as WireStream;
      const error = connection.channels[2 * index + 1] as WireStream;
      const prefix = Buffer.from([port & 0xff, port >> 8]);
      data.write(prefix);
      error.write(prefix);
      data.once('finish', () => data.receiveEnd()); // there is no half-close: otherwise the client would never end its side
      return forward(request, port, data, error, vanished.signal, handlers);
    }),
  );
  await connection.close();
}

/** Runs one connection. Never rejects: errors are written to the error stream. */
async function forward(
  request: PortForwardRequest,
  port: number,
  data: WireStream,
  error: WireStream,
  vanished: AbortSignal,
  handlers: StreamingHandlers,
): Promise<void> {
  error.discardInput();
  const reset = new AbortController();
  data.onReset = () => reset.abort();
  // Older clients end their side only after the error stream: a connection cannot fail after its other end
  // has ended.
  data.once('finish', () => error.end());
  try {
    await handlers.portForward(request, port, data, AbortSignal.any([vanished, reset.signal]));
  } catch (cause) {
    // A client resets the stream of a finished connection: not an error.
    if (!reset.signal.aborted && !vanished.aborted) {
      log.info({ err: cause, port }, 'port-forward failed');
      error.write(`error forwarding port ${port} to pod ${request.sandboxId}: ${toCrispError(cause).report}`);
    }
    data.destroy();
  }
  await data.flush();
  error.end();
  data.discardInput();
}

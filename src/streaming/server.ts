// The streaming server: exec, attach and port-forward for kubectl and crictl, over
// HTTP. It does not depend on containers: cri/exec.ts requests a URL, the client
// opens it, and the handlers do the work.
//
//   GET or POST /{exec,attach,portforward}/TICKET, upgraded to SPDY/3.1 or WebSocket
//   405 wrong method, 404 unknown ticket, 400 no upgrade, 403 no common subprotocol,
//   503 too many sessions
import { readFile } from 'node:fs/promises';
import { createServer, STATUS_CODES, type IncomingMessage, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocketServer, type WebSocket } from 'ws';
import { CrispError } from '../errors.js';
import { log, withLogContext } from '../log.js';
import {
  idleTimeoutMs,
  keepAliveMs,
  maxConnections,
  maxFragments,
  maxMessageBytes,
  maxRequestHeaderBytes,
  maxSessions,
  maxSessionsPerPod,
  refusalLingerMs,
  requestCheckMs,
  requestTimeoutMs,
} from './limits.js';
import { servePortForwardOverSpdy, servePortForwardOverWebSocket } from './port-forward.js';
import type { StreamingHandlers, StreamingRequest } from './requests.js';
import { serveCommandOverSpdy, serveCommandOverWebSocket } from './session.js';
import {
  agree,
  commandsOverSpdy,
  commandsOverWebSocket,
  listed,
  portForwardsOverSpdy,
  portForwardsOverWebSocket,
} from './subprotocols.js';
import { Tickets } from './tickets.js';
import { Tunnel } from './websocket.js';

export type {
  AttachRequest,
  ExecRequest,
  PortForwardRequest,
  StreamingHandlers,
  StreamingRequest,
} from './requests.js';

export interface StreamingOptions {
  readonly address: string;
  /** 0: any free port. */
  readonly port: number;
  /** PEM files. */
  readonly tls?: { readonly cert: string; readonly key: string };
  readonly handlers: StreamingHandlers;
}

/** How long an aborted handler may take: its program is killed 5 s after SIGTERM. */
const handlerEndMs = 6_000;

/** The HTTP answer to a request that is refused. */
class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message);
  }
}

/** The HTTP server of the URLs that Exec, Attach and PortForward return. */
export class StreamingServer {
  private readonly tickets = new Tickets<StreamingRequest>();
  private readonly sockets = new Set<Socket>();
  /** Each with its pod. */
  private readonly sessions = new Map<Promise<void>, string>();
  private server: Server | undefined;
  private baseUrl = '';

  constructor(private readonly options: StreamingOptions) {}

  /** Listens. @throws InvalidConfigFile if the address cannot be bound or a TLS file cannot be read */
  async start(): Promise<void> {
    const { address, port, tls } = this.options;
    try {
      const limits = {
        maxHeaderSize: maxRequestHeaderBytes,
        headersTimeout: requestTimeoutMs,
        requestTimeout: requestTimeoutMs,
        connectionsCheckingInterval: requestCheckMs,
      };
      const server = tls
        ? createTlsServer({
            ...limits,
            handshakeTimeout: requestTimeoutMs,
            cert: await readFile(tls.cert),
            key: await readFile(tls.key),
          })
        : createServer(limits);
      server.maxConnections = maxConnections;
      server.on('drop', () =>
        log.warn({ maxConnections }, 'streaming connection refused: too many are open'),
      );
      server.on('connection', (socket: Socket) => {
        this.sockets.add(socket);
        socket.once('close', () => this.sockets.delete(socket));
        socket.setKeepAlive(true, keepAliveMs);
      });
      server.on('request', (request, response) => {
        const { status, message, headers } = this.refusalOf(request);
        response
          .writeHead(status, { 'content-type': 'text/plain', connection: 'close', ...headers })
          .end(`${message}\n`);
      });
      server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) =>
        this.upgrade(request, socket, head),
      );
      await new Promise<void>((resolve, reject) =>
        server.once('error', reject).listen(port, address, resolve),
      );
      const bound = server.address() as AddressInfo;
      this.baseUrl = `${tls ? 'https' : 'http'}://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`;
      this.server = server;
    } catch (error) {
      throw new CrispError('InvalidConfigFile', `streaming: ${(error as Error).message}`, { cause: error });
    }
  }

  /** A URL for this request: it can be opened once, within a minute. @throws TooManyTickets */
  url(request: StreamingRequest): string {
    return `${this.baseUrl}/${request.kind}/${this.tickets.issue(request)}`;
  }

  /** The numbers of open connections, of sessions, and of URLs that are not opened yet. */
  counts(): Readonly<Record<'connections' | 'sessions' | 'unopenedUrls', number>> {
    return {
      connections: this.sockets.size,
      sessions: this.sessions.size,
      unopenedUrls: this.tickets.count,
    };
  }

  /**
   * Stops listening and ends all sessions as if their clients had disconnected; resolves when their handlers
   * have ended, or after 6 s.
   */
  async close(): Promise<void> {
    const { server } = this;
    if (!server) return;
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of this.sockets) socket.destroy();
    await closed;
    await Promise.race([Promise.all(this.sessions.keys()), sleep(handlerEndMs, undefined, { ref: false })]);
  }

  /** @throws Refusal */
  private redeem(request: IncomingMessage): StreamingRequest {
    if (request.method !== 'GET' && request.method !== 'POST')
      throw new Refusal(405, `${request.method} is not served here`, { allow: 'GET, POST' });
    const [, kind, ticket = '', ...more] = (request.url ?? '').replace(/\?.*$/, '').split('/');
    const found = more.length === 0 ? this.tickets.redeem(ticket) : undefined;
    if (found?.kind !== kind || !found)
      throw new Refusal(404, 'this URL was never valid, has been used, or is more than a minute old');
    return found;
  }

  /** @throws Refusal */
  private checkRoom({ sandboxId }: StreamingRequest): void {
    const ofPod = [...this.sessions.values()].filter((other) => other === sandboxId).length;
    if (this.sessions.size >= maxSessions)
      throw new Refusal(503, `${maxSessions} sessions are open: end some of them first`);
    if (ofPod >= maxSessionsPerPod)
      throw new Refusal(503, `${maxSessionsPerPod} sessions of this pod are open: end some of them first`);
  }

  /** For a request without an upgrade. */
  private refusalOf(request: IncomingMessage): Refusal {
    try {
      this.redeem(request);
      return new Refusal(400, 'this URL requires an upgrade to SPDY/3.1 or to WebSocket');
    } catch (error) {
      return error as Refusal;
    }
  }

  private upgrade(request: IncomingMessage, socket: Socket, head: Buffer): void {
    socket.on('error', (error) => log.debug({ err: error }, 'streaming connection failed'));
    socket.setTimeout(idleTimeoutMs, () => {
      log.info({ idleTimeoutMs }, 'streaming connection was idle for too long');
      socket.destroy();
    });
    try {
      const target = this.redeem(request);
      this.checkRoom(target);
      const ids =
        target.kind === 'portforward' ? { podId: target.sandboxId } : { containerId: target.containerId };
      withLogContext(ids, () => {
        const { protocol, ended } = this.switchTo(request, socket, head, target);
        const started = performance.now();
        log.info({ kind: target.kind, protocol }, 'streaming session');
        this.sessions.set(ended, target.sandboxId);
        void ended.then(() => {
          this.sessions.delete(ended);
          log.info(
            { kind: target.kind, ms: Math.round(performance.now() - started) },
            'streaming session ended',
          );
        });
      });
    } catch (error) {
      if (!(error instanceof Refusal)) log.error({ err: error }, 'streaming session not started'); // a bug, which must not end the other sessions
      const { status, message, headers } =
        error instanceof Refusal ? error : new Refusal(500, 'the session could not be started');
      const lines = Object.entries({
        connection: 'close',
        'content-type': 'text/plain',
        'content-length': String(message.length + 1),
        ...headers,
      });
      // For a client that does not disconnect after its answer.
      const linger = setTimeout(() => socket.destroy(), refusalLingerMs);
      socket.once('close', () => clearTimeout(linger));
      socket
        .resume()
        .end(
          `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${message}\n`,
        );
    }
  }

  /** Agrees on transport and subprotocol, and starts the session. @throws Refusal */
  private switchTo(
    request: IncomingMessage,
    socket: Socket,
    head: Buffer,
    target: StreamingRequest,
  ): { protocol: string; ended: Promise<void> } {
    const transports = listed(request.headers, 'upgrade').map((name) => name.toLowerCase());
    if (transports.includes('websocket')) return this.switchToWebSocket(request, socket, head, target);
    if (transports.includes('spdy/3.1')) return this.switchToSpdy(request, socket, head, target);
    throw new Refusal(400, `no upgrade to ${transports.join(', ')} here, only to SPDY/3.1 or to WebSocket`);
  }

  private switchToSpdy(
    request: IncomingMessage,
    socket: Socket,
    head: Buffer,
    target: StreamingRequest,
  ): { protocol: string; ended: Promise<void> } {
    const offered = listed(request.headers, 'x-stream-protocol-version');
    if (offered.length === 0) throw new Refusal(400, 'the header X-Stream-Protocol-Version is missing');
    const serve = <P>(known: ReadonlyMap<string, P>, start: (protocol: P) => Promise<void>) => {
      const agreed = agree(offered, known);
      if (!agreed)
        throw new Refusal(403, `none of ${offered.join(', ')} is served here`, {
          'x-accepted-stream-protocol-versions': [...known.keys()].join(', '),
        });
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: ${agreed.name}\r\n\r\n`,
      );
      socket.unshift(head);
      return { protocol: `SPDY ${agreed.name}`, ended: start(agreed.protocol) };
    };
    const { handlers } = this.options;
    return target.kind === 'portforward'
      ? serve(portForwardsOverSpdy, () => servePortForwardOverSpdy(socket, target, handlers))
      : serve(commandsOverSpdy, (protocol) => serveCommandOverSpdy(socket, protocol, target, handlers));
  }

  private switchToWebSocket(
    request: IncomingMessage,
    socket: Socket,
    head: Buffer,
    target: StreamingRequest,
  ): { protocol: string; ended: Promise<void> } {
    const offered = listed(request.headers, 'sec-websocket-protocol');
    const serve = <P>(
      known: ReadonlyMap<string, P>,
      start: (webSocket: WebSocket, protocol: P) => Promise<void>,
    ) => {
      const agreed = agree(offered.length ? offered : [''], known);
      if (!agreed) throw new Refusal(403, `none of ${offered.join(', ')} is served here`);
      // ws treats the tunnel's name as malformed (a token has no slash), so the header is removed before.
      delete request.headers['sec-websocket-protocol'];
      const server = new WebSocketServer({
        noServer: true,
        perMessageDeflate: false,
        maxPayload: maxMessageBytes,
        maxFragments,
        autoPong: false, // websocket.ts answers, with a limit
      });
      if (agreed.name)
        server.on('headers', (headers) => headers.push(`Sec-WebSocket-Protocol: ${agreed.name}`));
      let session: Promise<void> | undefined; // undefined if ws refuses the handshake
      const ended = new Promise<void>((resolve) => socket.once('close', () => resolve(session)));
      server.handleUpgrade(request, socket, head, (webSocket) => {
        session = start(webSocket, agreed.protocol);
      });
      return { protocol: `WebSocket ${agreed.name}`, ended };
    };
    const { handlers } = this.options;
    return target.kind === 'portforward'
      ? serve(portForwardsOverWebSocket, (webSocket, protocol) =>
          protocol === 'tunnel'
            ? servePortForwardOverSpdy(new Tunnel(webSocket), target, handlers)
            : servePortForwardOverWebSocket(webSocket, protocol, target, handlers),
        )
      : serve(commandsOverWebSocket, (webSocket, protocol) =>
          serveCommandOverWebSocket(webSocket, protocol, target, handlers),
        );
  }
}

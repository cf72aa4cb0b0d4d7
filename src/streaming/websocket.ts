// The protocols over one WebSocket: numbered channels, one message per write
// with the channel's number before it, or a tunnel for the bytes of a SPDY
// connection. Used by server.ts.
import { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { log } from '../log.js';
import type { ChannelFormat } from './subprotocols.js';
import { maxUnsentReplyBytes, readAheadBytes, writeAheadBytes } from './limits.js';
import { pulseMs, WireStream, type Taken, type Wire } from './wire-stream.js';

const closeSignal = 255;
const normalClosure = 1000;
const protocolErrorClosure = 1002;

/**
 * Answers PINGs, except those of a peer that sends and does not read (RFC 6455, 5.5.3, requires an answer
 * only to the latest).
 */
function answerPings(socket: WebSocket): void {
  socket.on('ping', (data: Buffer) => {
    if (socket.bufferedAmount <= maxUnsentReplyBytes) socket.pong(data, undefined, () => undefined);
  });
}

/** The server's side of a WebSocket connection with channels (v5.channel.k8s.io and older). */
export class ChannelSocket implements Wire, Taken {
  /** Resolves when the connection has ended, for any reason. Never rejects. */
  readonly closed: Promise<void>;
  readonly channels: readonly WireStream[];
  readonly readAhead = { bytes: 0 };
  /** The number of channels with a slow reader. */
  private busy = 0;
  private pulse: NodeJS.Timeout | undefined;

  constructor(
    private readonly socket: WebSocket,
    private readonly format: ChannelFormat,
    count: number,
  ) {
    this.channels = Array.from({ length: count }, (_, id) => new WireStream(this, id));
    socket.on('error', (error) =>
      log.info({ err: error }, 'streaming client broke the WebSocket protocol, or its limits'),
    ); // close always follows
    answerPings(socket);
    socket.on('message', (message: Buffer) => this.take(message));
    this.closed = new Promise((resolve) =>
      socket.once('close', () => {
        clearInterval(this.pulse);
        for (const channel of this.channels) channel.destroy();
        resolve();
      }),
    );
  }

  /**
   * Closes the connection after all pending writes, and waits until the peer has disconnected; data that it
   * still sends is dropped.
   */
  async close(): Promise<void> {
    for (const channel of this.channels) channel.discardInput();
    this.socket.close(normalClosure);
    await this.closed; // ws itself allows the peer 30 s for this
  }

  /** The bytes that the socket has not sent yet. */
  get unsentBytes(): number {
    return this.socket.bufferedAmount;
  }

  /** Closes the connection at once, without a closing handshake. */
  destroy(): void {
    this.socket.terminate();
  }

  /** Sends a message: the number of the channel, then the data. */
  send(channel: number, data: Buffer, done: (error?: Error | null) => void): void {
    if (this.format.base64) this.socket.send(`${channel}${data.toString('base64')}`, done);
    else this.socket.send(Buffer.concat([Buffer.from([channel]), data]), done);
  }

  /** In the protocols the server cannot end a single channel: all end with the connection. */
  sendEnd(_channel: number, done: (error?: Error | null) => void): void {
    done();
  }
  /** No effect, for the same reason. */
  sendReset(): void {
    /* likewise */
  }

  private take(message: Buffer): void {
    const first = message[0];
    if (first === undefined) return;
    if (this.format.closeSignal && first === closeSignal) {
      const ended = message.length === 2 ? this.channels[message[1] ?? closeSignal] : undefined;
      if (ended) ended.receiveEnd();
      else this.socket.close(protocolErrorClosure);
      return;
    }
    const channel = this.channels[this.format.base64 ? first - 0x30 : first];
    const data = message.subarray(1);
    const busy = channel?.receive(this.format.base64 ? Buffer.from(data.toString('latin1'), 'base64') : data);
    if (busy) void this.pauseWhile(busy);
  }

  private async pauseWhile(busy: Promise<void>): Promise<void> {
    if (this.busy++ === 0) {
      this.socket.pause();
      this.pulse = setInterval(() => {
        if (this.socket.bufferedAmount === 0) this.socket.pong(); // an unsolicited PONG needs no answer
      }, pulseMs);
    }
    await busy;
    if (--this.busy > 0) return;
    clearInterval(this.pulse);
    this.socket.resume();
  }
}

/** The bytes of the messages, in both directions, as one stream. */
export class Tunnel extends Duplex {
  constructor(private readonly socket: WebSocket) {
    super({ readableHighWaterMark: readAheadBytes, writableHighWaterMark: writeAheadBytes });
    socket.on('error', () => undefined);
    answerPings(socket);
    socket.on('message', (message: Buffer) => {
      if (!this.push(message)) socket.pause();
    });
    socket.once('close', () => {
      this.push(null);
      this.destroy();
    });
  }

  override _read(): void {
    if (this.socket.isPaused) this.socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.socket.send(chunk, done);
  }

  override _writev(chunks: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.socket.send(Buffer.concat(chunks.map(({ chunk }) => chunk)), done);
  }

  override _final(done: () => void): void {
    this.socket.close(normalClosure);
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.socket.terminate();
    done(error);
  }
}

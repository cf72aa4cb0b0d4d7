// The server side of one SPDY/3.1 connection: the peer opens streams, each side
// half-closes them, GOAWAY ends them all. Used by session.ts and
// port-forward.ts, on a socket or on a tunnel through a WebSocket.
import type { Duplex } from 'node:stream';
import { log } from '../log.js';
import {
  controlFrame,
  dataHeader,
  emptyHeaderBlock,
  flagEnd,
  FrameReader,
  frameTypes,
  goAwayProtocolError,
  HeaderReader,
  ProtocolError,
  resetCancel,
  resetRefused,
  type ControlFrame,
  type DataFrame,
} from './spdy-frames.js';
import { maxStreams, maxUnsentReplyBytes } from './limits.js';
import { pulseMs, untilTaken, WireStream, type Taken, type Wire } from './wire-stream.js';

/** Longer writes are split, so that one stream does not block the others. */
const maxFrameBytes = 256 << 10;
/** How long a peer may take to disconnect after GOAWAY. */
const lingerMs = 10_000;

/** A stream with its headers, opened by the client. */
export class SpdyStream extends WireStream {
  constructor(
    wire: Wire,
    id: number,
    readonly headers: ReadonlyMap<string, string>,
  ) {
    super(wire, id);
  }
}

/** The server's side of a SPDY/3.1 connection. */
export class SpdyConnection implements Wire, Taken {
  /** Resolves when the connection has ended, for any reason. Never rejects. */
  readonly closed: Promise<void>;
  readonly readAhead = { bytes: 0 };
  private readonly streams = new Map<number, SpdyStream>();
  private readonly headerReader = new HeaderReader();
  private lastStreamId = 0;
  /** Whether the zlib stream of the sent header blocks has begun. */
  private replied = false;
  private unsentReplyBytes = 0;
  /** Set while too many answers for the peer are pending. */
  private repliesTaken: (() => void) | undefined;

  /** `onStream` is called with each stream after the peer has its reply; to refuse it, destroy it. */
  constructor(
    private readonly socket: Duplex,
    private readonly onStream: (stream: SpdyStream) => void,
  ) {
    socket.on('error', () => undefined); // an error ends the reading as well
    this.closed = new Promise((resolve) =>
      socket.once('close', () => {
        for (const stream of this.streams.values()) stream.destroy();
        this.headerReader.close();
        resolve();
      }),
    );
    void this.readAll();
  }

  /**
   * Sends GOAWAY after all pending writes, and waits until the peer has disconnected; data that it still
   * sends is dropped.
   */
  async close(): Promise<void> {
    for (const stream of this.streams.values()) stream.discardInput();
    this.socket.write(controlFrame(frameTypes.goAway, [this.lastStreamId, 0]));
    this.socket.end();
    const linger = setTimeout(() => this.socket.destroy(), lingerMs);
    await this.closed;
    clearTimeout(linger);
  }

  /** Sends data of a stream, in frames of limited size. */
  send(streamId: number, data: Buffer, done: (error?: Error | null) => void): void {
    this.socket.cork();
    for (let offset = 0; offset < data.length; offset += maxFrameBytes) {
      const part = data.subarray(offset, offset + maxFrameBytes);
      this.socket.write(dataHeader(streamId, part.length, false));
      if (offset + maxFrameBytes < data.length) this.socket.write(part);
      else this.socket.write(part, done);
    }
    this.socket.uncork();
  }

  /** Sends an empty frame with FLAG_FIN. */
  sendEnd(streamId: number, done: (error?: Error | null) => void): void {
    this.socket.write(dataHeader(streamId, 0, true), done);
  }

  /** Sends RST_STREAM with CANCEL; no effect on a closed connection. */
  sendReset(streamId: number): void {
    if (this.socket.writable) this.reply(controlFrame(frameTypes.reset, [streamId, resetCancel]));
  }

  /** The bytes that the socket has not sent yet. */
  get unsentBytes(): number {
    return this.socket.writableLength;
  }

  /** Closes the connection at once. */
  destroy(): void {
    this.socket.destroy();
  }

  /**
   * Answers frames of the peer. For a peer that sends and does not read, all answers would have to be kept.
   */
  private reply(frame: Buffer): void {
    this.unsentReplyBytes += frame.length;
    this.socket.write(frame, () => {
      this.unsentReplyBytes -= frame.length;
      if (this.unsentReplyBytes <= maxUnsentReplyBytes) this.repliesTaken?.();
    });
  }

  private async untilRepliesTaken(): Promise<void> {
    const taken = new Promise<void>((resolve) => {
      this.repliesTaken = resolve;
    });
    await untilTaken(this, Promise.race([taken, this.closed]));
    this.repliesTaken = undefined;
  }

  private async readAll(): Promise<void> {
    const frames = new FrameReader();
    try {
      for await (const chunk of this.socket) {
        try {
          for (const frame of frames.read(chunk as Buffer)) {
            const busy = frame.kind === 'data' ? this.takeData(frame) : this.takeControl(frame);
            if (busy) await this.pulsing(busy);
            if (this.unsentReplyBytes > maxUnsentReplyBytes) await this.untilRepliesTaken();
          }
        } catch (error) {
          // Now, since leaving the loop destroys the socket.
          this.socket.write(controlFrame(frameTypes.goAway, [this.lastStreamId, goAwayProtocolError]));
          throw error;
        }
      }
    } catch (error) {
      if (error instanceof ProtocolError)
        log.info({ err: error }, 'streaming client broke the SPDY protocol, or its limits');
    }
    // Clients close both directions: a client that has stopped sending is gone as well.
    this.socket.destroy();
  }

  private takeData({ streamId, data, end }: DataFrame): Promise<void> | undefined {
    const stream = this.streams.get(streamId);
    const busy = stream?.receive(data);
    if (end) stream?.receiveEnd();
    return busy;
  }

  private takeControl(frame: ControlFrame): Promise<void> | undefined {
    const { type, payload } = frame;
    switch (type) {
      case frameTypes.synStream:
        return this.openStream(frame);
      case frameTypes.headers:
        return this.headerReader.read(payload.subarray(4)).then(() => undefined);
      case frameTypes.reset:
        if (payload.length < 4) throw new ProtocolError('RST_STREAM too short');
        this.streams.get(payload.readUInt32BE(0))?.receiveReset();
        return undefined;
      case frameTypes.ping:
        if (payload.length !== 4) throw new ProtocolError('PING of a wrong length');
        if (payload.readUInt32BE(0) % 2 === 1)
          this.reply(controlFrame(frameTypes.ping, [payload.readUInt32BE(0)]));
        return undefined;
      case frameTypes.synReply:
        throw new ProtocolError('SYN_REPLY to a stream that was never opened');
      default:
        return undefined; // SETTINGS and WINDOW_UPDATE are about unsupported features; after GOAWAY the peer disconnects
    }
  }

  private async openStream({ flags, payload }: ControlFrame): Promise<void> {
    if (payload.length < 10) throw new ProtocolError('SYN_STREAM too short');
    const id = payload.readUInt32BE(0) & 0x7fffffff;
    const headers = await this.headerReader.read(payload.subarray(10));
    if (id % 2 === 0 || id <= this.lastStreamId)
      throw new ProtocolError(`stream ${id} after ${this.lastStreamId}`);
    if (this.streams.size >= maxStreams) {
      log.info({ maxStreams }, 'streaming client opens more streams than a connection may have');
      this.lastStreamId = id;
      this.reply(controlFrame(frameTypes.reset, [id, resetRefused]));
      return;
    }
    const first = !this.replied;
    this.replied = true;
    this.lastStreamId = id;
    const stream = new SpdyStream(this, id, headers);
    this.streams.set(id, stream);
    stream.once('close', () => this.streams.delete(id));
    this.reply(controlFrame(frameTypes.synReply, [id], emptyHeaderBlock(first)));
    if (flags & flagEnd) stream.receiveEnd();
    this.onStream(stream);
  }

  /**
   * Waits, and periodically writes a frame without an answer: WINDOW_UPDATE, since the answer to a PING could
   * get stuck behind the pending data.
   */
  private async pulsing(busy: Promise<void>): Promise<void> {
    const pulse = setInterval(() => {
      if (this.socket.writableLength === 0) this.socket.write(controlFrame(frameTypes.windowUpdate, [0, 1]));
    }, pulseMs); // pending writes have the same effect
    await busy.finally(() => clearInterval(pulse));
  }
}

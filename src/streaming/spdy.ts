// The server's side of one SPDY/3.1 connection: the peer opens streams, each is
// half-closed by either side, GOAWAY ends them all. Used by session.ts and
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

/** Longer writes are cut, so that one stream does not hold up the others. */
const maxFrameBytes = 256 << 10;
/** How long a peer that was told goodbye may take to hang up. */
const lingerMs = 10_000;

export class SpdyStream extends WireStream {
  constructor(
    wire: Wire,
    id: number,
    readonly headers: ReadonlyMap<string, string>,
  ) {
    super(wire, id);
  }
}

export class SpdyConnection implements Wire, Taken {
  /** Resolves when the connection is over, for whatever reason. Never rejects. */
  readonly closed: Promise<void>;
  readonly readAhead = { bytes: 0 };
  private readonly streams = new Map<number, SpdyStream>();
  private readonly headerReader = new HeaderReader();
  private lastStreamId = 0;
  /** The zlib stream of our header blocks has begun. */
  private replied = false;
  private unsentReplyBytes = 0;
  /** There while more answers wait for the peer than it may let wait. */
  private repliesTaken: (() => void) | undefined;

  /** `onStream` hears of each stream when the peer has its reply; to refuse it, destroy it. */
  constructor(
    private readonly socket: Duplex,
    private readonly onStream: (stream: SpdyStream) => void,
  ) {
    socket.on('error', () => undefined); // what went wrong with it ends the reading as well
    this.closed = new Promise((resolve) =>
      socket.once('close', () => {
        for (const stream of this.streams.values()) stream.destroy();
        this.headerReader.close();
        resolve();
      }),
    );
    void this.readAll();
  }

  /** Says goodbye after all that was written, and waits until the peer has hung up; what it still sends is dropped. */
  async close(): Promise<void> {
    for (const stream of this.streams.values()) stream.discardInput();
    this.socket.write(controlFrame(frameTypes.goAway, [this.lastStreamId, 0]));
    this.socket.end();
    const linger = setTimeout(() => this.socket.destroy(), lingerMs);
    await this.closed;
    clearTimeout(linger);
  }

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

  sendEnd(streamId: number, done: (error?: Error | null) => void): void {
    this.socket.write(dataHeader(streamId, 0, true), done);
  }

  sendReset(streamId: number): void {
    if (this.socket.writable) this.reply(controlFrame(frameTypes.reset, [streamId, resetCancel]));
  }

  get unsentBytes(): number {
    return this.socket.writableLength;
  }

  destroy(): void {
    this.socket.destroy();
  }

  /** Answers what the peer has sent. A peer that sends and does not read would have us keep all of it. */
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
          // Now: the loop destroys the socket on its way out.
          this.socket.write(controlFrame(frameTypes.goAway, [this.lastStreamId, goAwayProtocolError]));
          throw error;
        }
      }
    } catch (error) {
      if (error instanceof ProtocolError)
        log.info({ err: error }, 'streaming client broke the SPDY protocol, or its limits');
    }
    // A client hangs up with all it has: one that only stops sending is gone as well.
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
        return undefined; // SETTINGS and WINDOW_UPDATE govern what we do not do; after GOAWAY the peer hangs up
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

  /** Waits, writing now and then what needs no answer: a WINDOW_UPDATE is one, and a PING's answer could get stuck behind the data that waits. */
  private async pulsing(busy: Promise<void>): Promise<void> {
    const pulse = setInterval(() => {
      if (this.socket.writableLength === 0) this.socket.write(controlFrame(frameTypes.windowUpdate, [0, 1]));
    }, pulseMs); // what waits to be sent tells as much
    await busy.finally(() => clearInterval(pulse));
  }
}

// One stream of a multiplexed connection: a SPDY stream, or a channel of a
// WebSocket. Made by spdy.ts and websocket.ts, passed to the sessions.
//
//   peer ──► receive(), receiveEnd() ──► read side    each side ends separately:
//   peer ◄── Wire.send(), sendEnd() ◄─── write side   the half-close
import { Duplex } from 'node:stream';
import { finished } from 'node:stream/promises';
import { maxReadAheadBytes, readAheadBytes, takePatienceMs, writeAheadBytes } from './limits.js';

/**
 * The connection, for its streams. `done` is called when the socket has accepted the bytes: this is the
 * back-pressure.
 */
export interface Wire {
  send(streamId: number, data: Buffer, done: (error?: Error | null) => void): void;
  sendEnd(streamId: number, done: (error?: Error | null) => void): void;
  /** Both directions have ended; data in transit is dropped. */
  sendReset(streamId: number): void;
  /** The pending bytes for the readers of all streams, updated by the streams. */
  readonly readAhead: { bytes: number };
}

/**
 * While nothing is read, because a stream's reader is slow, only a write can detect that the peer is gone:
 * one per interval.
 */
export const pulseMs = 2_000;

/** The stream as a Node stream, with back-pressure in both directions. */
export class WireStream extends Duplex {
  /** Called when the peer closes the stream in both directions. */
  onReset: (() => void) | undefined;
  private inputOver = false;
  private abandoned = false;
  /** Whether the reader waits for data. */
  private wanted = false;
  private readonly waiting = new Backlog();
  /** Set while the reader is slow. */
  private room: { readonly promise: Promise<void>; readonly made: () => void } | undefined;

  constructor(
    private readonly wire: Wire,
    readonly id: number,
  ) {
    // Pending data is kept in a backlog of its own: Readable would keep each chunk separately, and for a
    // client that sends single bytes this takes a hundred times as much memory.
    super({ readableHighWaterMark: 1, writableHighWaterMark: writeAheadBytes });
    // A lost connection destroys its streams; the session is notified by the connection.
    this.on('error', () => undefined);
  }

  /**
   * Data from the peer. @returns a promise while the reader is slow: nothing more should be read from the
   * connection until it resolves.
   */
  receive(data: Buffer): Promise<void> | undefined {
    if (this.inputOver || data.length === 0) return undefined;
    if (this.wanted) {
      this.wanted = false;
      this.push(data.length < data.buffer.byteLength / 4 ? Buffer.from(data) : data); // a small slice would keep its whole block in memory
      return undefined;
    }
    this.waiting.add(data);
    this.wire.readAhead.bytes += data.length;
    if (this.waiting.bytes < readAheadBytes && this.wire.readAhead.bytes < maxReadAheadBytes)
      return undefined;
    return (this.room ??= whenMade()).promise;
  }

  /** The peer sends no more. */
  receiveEnd(): void {
    if (this.inputOver) return;
    this.inputOver = true;
    if (this.wanted) this._read();
  }

  /** The peer also stops reading: data that is written from now on is dropped. */
  receiveReset(): void {
    this.receiveEnd();
    this.abandoned = true;
    this.onReset?.();
  }

  /** Drops all input, pending and future. */
  discardInput(): this {
    this.unpipe();
    this.dropWaiting();
    this.receiveEnd();
    return this.resume();
  }

  /** Ends the write side; resolves when the kernel has accepted all data, or the connection has ended. */
  async flush(): Promise<void> {
    this.end();
    await finished(this, { readable: false }).catch(() => undefined);
  }

  override _read(): void {
    this.wanted = false;
    const data = this.waiting.take();
    if (data) {
      this.wire.readAhead.bytes -= data.length;
      this.push(data);
      if (this.waiting.bytes < readAheadBytes) this.wake();
    } else if (this.inputOver) this.push(null);
    else this.wanted = true;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.abandoned || chunk.length === 0) done();
    else this.wire.send(this.id, chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    if (this.abandoned) done();
    else this.wire.sendEnd(this.id, done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    const finished = this.readableEnded && this.writableFinished;
    if (!finished && !this.abandoned) this.wire.sendReset(this.id);
    this.inputOver = true;
    this.dropWaiting();
    done(error);
  }

  private dropWaiting(): void {
    this.wire.readAhead.bytes -= this.waiting.bytes;
    this.waiting.clear();
    this.wake();
  }

  private wake(): void {
    this.room?.made();
    this.room = undefined;
  }
}

/** Collects bytes in blocks, even if they arrive in small chunks. */
class Backlog {
  bytes = 0;
  private blocks: { readonly memory: Buffer; used: number }[] = [];

  add(data: Buffer): void {
    this.bytes += data.length;
    const last = this.blocks.at(-1);
    if (last && last.memory.length - last.used >= data.length) {
      data.copy(last.memory, last.used);
      last.used += data.length;
    } else if (data.length >= blockBytes) this.blocks.push({ memory: data, used: data.length });
    else {
      const memory = Buffer.allocUnsafeSlow(blockBytes);
      data.copy(memory);
      this.blocks.push({ memory, used: data.length });
    }
  }

  take(): Buffer | undefined {
    const block = this.blocks.shift();
    if (!block) return undefined;
    this.bytes -= block.used;
    return block.memory.subarray(0, block.used);
  }

  clear(): void {
    this.blocks = [];
    this.bytes = 0;
  }
}
const blockBytes = 16 << 10;

/** The part of a connection that untilTaken() uses. */
export interface Taken {
  /** The bytes that the peer has not read yet. */
  readonly unsentBytes: number;
  destroy(): void;
}

/**
 * Waits until the last output is read; a peer that reads nothing for a while is disconnected, which ends the
 * wait.
 */
export async function untilTaken<T>(
  connection: Taken,
  work: Promise<T>,
  patienceMs = takePatienceMs,
): Promise<T> {
  let [unsent, waitedMs] = [connection.unsentBytes, 0];
  const timer = setInterval(() => {
    const now = connection.unsentBytes;
    waitedMs = now > 0 && now === unsent ? waitedMs + lookMs : 0;
    unsent = now;
    if (waitedMs >= patienceMs) connection.destroy();
  }, lookMs);
  return work.finally(() => clearInterval(timer));
}
const lookMs = 100;

function whenMade(): { promise: Promise<void>; made: () => void } {
  let made = (): void => undefined;
  return {
    promise: new Promise((resolve) => {
      made = resolve;
    }),
    made,
  };
}

// One stream of a connection that carries several: a SPDY stream, or a channel
// of a WebSocket. Made by spdy.ts and websocket.ts, handed to the sessions.
//
//   peer ──► receive(), receiveEnd() ──► read side    each side ends by itself:
//   peer ◄── Wire.send(), sendEnd() ◄─── write side   that is the half-close
import { Duplex } from 'node:stream';
import { finished } from 'node:stream/promises';
import { maxReadAheadBytes, readAheadBytes, takePatienceMs, writeAheadBytes } from './limits.js';

/** The connection, as one of its streams needs it. `done` is called when the socket has taken the bytes: that is the back-pressure. */
export interface Wire {
  send(streamId: number, data: Buffer, done: (error?: Error | null) => void): void;
  sendEnd(streamId: number, done: (error?: Error | null) => void): void;
  /** Both directions are over, whatever was on its way. */
  sendReset(streamId: number): void;
  /** What waits for the readers of all streams, kept by the streams. */
  readonly readAhead: { bytes: number };
}

/** While nothing is read, because a stream's reader lags, only a write can tell that the peer has gone: one every so often. */
export const pulseMs = 2_000;

export class WireStream extends Duplex {
  /** Called when the peer abandons the stream in both directions. */
  onReset: (() => void) | undefined;
  private inputOver = false;
  private abandoned = false;
  /** The reader waits for data, and there is none. */
  private wanted = false;
  private readonly waiting = new Backlog();
  /** There while the reader lags. */
  private room: { readonly promise: Promise<void>; readonly made: () => void } | undefined;

  constructor(
    private readonly wire: Wire,
    readonly id: number,
  ) {
    // What waits for the reader waits in a backlog of our own: Readable would keep each piece by itself, and a
    // client that sends single bytes has a hundred times as much memory taken.
    super({ readableHighWaterMark: 1, writableHighWaterMark: writeAheadBytes });
    // A lost connection destroys its streams; the session hears of it through the connection.
    this.on('error', () => undefined);
  }

  /** Data from the peer. @returns a promise while the reader lags: nothing more should be taken from the connection until it resolves. */
  receive(data: Buffer): Promise<void> | undefined {
    if (this.inputOver || data.length === 0) return undefined;
    if (this.wanted) {
      this.wanted = false;
      this.push(data.length < data.buffer.byteLength / 4 ? Buffer.from(data) : data); // a small piece would keep its whole block
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

  /** The peer takes no more either: what is written from now on is dropped. */
  receiveReset(): void {
    this.receiveEnd();
    this.abandoned = true;
    this.onReset?.();
  }

  /** Drops all input, what waits to be read and what will come. */
  discardInput(): this {
    this.unpipe();
    this.dropWaiting();
    this.receiveEnd();
    return this.resume();
  }

  /** Ends the write side; resolves when the kernel has all of it, or the connection is over. */
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

/** Bytes in blocks, however small the pieces are in which they come. */
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

/** What untilTaken() needs of a connection. */
export interface Taken {
  /** What the peer has not taken yet. */
  readonly unsentBytes: number;
  destroy(): void;
}

/** Waits for the last output to be taken; a peer that takes nothing at all for a while is hung up on, which ends the work. */
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

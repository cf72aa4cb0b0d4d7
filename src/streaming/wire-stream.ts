// One stream of a connection that carries several: a SPDY stream, or a channel
// of a WebSocket. Made by spdy.ts and websocket.ts, handed to the sessions.
//
//   peer ──► receive(), receiveEnd() ──► read side    each side ends by itself:
//   peer ◄── Wire.send(), sendEnd() ◄─── write side   that is the half-close
import { Duplex } from 'node:stream';
import { finished } from 'node:stream/promises';

/** The connection, as one of its streams needs it. `done` is called when the socket has taken the bytes: that is the back-pressure. */
export interface Wire {
  send(streamId: number, data: Buffer, done: (error?: Error | null) => void): void;
  sendEnd(streamId: number, done: (error?: Error | null) => void): void;
  /** Both directions are over, whatever was on its way. */
  sendReset(streamId: number): void;
}

/** While nothing is read, because a stream's reader lags, only a write can tell that the peer has gone: one every so often. */
export const pulseMs = 2_000;

/**
 * What the peer may send ahead of the reader. All streams of a connection share
 * one socket, so a stream that is not read holds up the others when this is full.
 */
export const readAheadBytes = 1 << 20;

/** What a writer may hand over before the socket has taken what came before: the next block is read while one is sent. */
export const writeAheadBytes = 256 << 10;

export class WireStream extends Duplex {
  /** Called when the peer abandons the stream in both directions. */
  onReset: (() => void) | undefined;
  private inputOver = false;
  private abandoned = false;
  /** There while the reader lags. */
  private room: { readonly promise: Promise<void>; readonly made: () => void } | undefined;

  constructor(
    private readonly wire: Wire,
    readonly id: number,
  ) {
    super({ readableHighWaterMark: readAheadBytes, writableHighWaterMark: writeAheadBytes });
    // A lost connection destroys its streams; the session hears of it through the connection.
    this.on('error', () => undefined);
  }

  /** Data from the peer. @returns a promise while the reader lags: nothing more should be taken from the connection until it resolves. */
  receive(data: Buffer): Promise<void> | undefined {
    if (this.inputOver || data.length === 0 || this.push(data)) return undefined;
    return (this.room ??= whenMade()).promise;
  }

  /** The peer sends no more. */
  receiveEnd(): void {
    if (this.inputOver) return;
    this.inputOver = true;
    this.push(null);
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
    this.receiveEnd();
    return this.resume();
  }

  /** Ends the write side; resolves when the kernel has all of it, or the connection is over. */
  async flush(): Promise<void> {
    this.end();
    await finished(this, { readable: false }).catch(() => undefined);
  }

  override _read(): void {
    this.wake();
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
    this.wake();
    done(error);
  }

  private wake(): void {
    this.room?.made();
    this.room = undefined;
  }
}

function whenMade(): { promise: Promise<void>; made: () => void } {
  let made = (): void => undefined;
  return {
    promise: new Promise((resolve) => {
      made = resolve;
    }),
    made,
  };
}

// The streams of an exec or attach, between streaming/ and a backend.
import type { Readable, Writable } from 'node:stream';

export interface TerminalSize {
  readonly width: number;
  readonly height: number;
}

/** The streams of an exec or attach, on the side of streaming or ExecSync. */
export interface Io {
  readonly terminal: boolean;
  readonly stdin?: Readable | undefined;
  /** An attach ends when its stdin ends. */
  readonly endsWithStdin?: boolean | undefined;
  readonly stdout?: Writable | undefined;
  /** Absent with a terminal, which has only one stream. */
  readonly stderr?: Writable | undefined;
  /** Calls back for each new size of the client's terminal, beginning with the current one. */
  readonly onResize?: ((listener: (size: TerminalSize) => void) => void) | undefined;
}

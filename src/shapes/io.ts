// The ends of an exec or attach, between streaming/ and a backend.
import type { Readable, Writable } from 'node:stream';

export interface TerminalSize {
  readonly width: number;
  readonly height: number;
}

/** The ends of an exec or attach, as streaming or ExecSync has them. */
export interface Io {
  readonly terminal: boolean;
  readonly stdin?: Readable | undefined;
  /** An attach is over when its stdin is. */
  readonly endsWithStdin?: boolean | undefined;
  readonly stdout?: Writable | undefined;
  /** Absent with a terminal: it has one stream. */
  readonly stderr?: Writable | undefined;
  /** Calls back for each new size of the client's terminal, the present one first. */
  readonly onResize?: ((listener: (size: TerminalSize) => void) => void) | undefined;
}

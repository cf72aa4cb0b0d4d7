// A container's log in the CRI's format -> the bytes that it wrote, on stdout
// or stderr as it wrote them. For `crisp logs`, and for the output of `crisp
// run`: the log is complete from the first byte on.
//
//   2016-10-06T00:17:09.669794202Z stdout P part of a line, no newline
//   2016-10-06T00:17:10.113242941Z stdout F the rest of it and a newline
import { watch } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import type { Writable } from 'node:stream';
import { isAbsent } from '../host/files.js';
import { refOf } from '../records/standalone.js';
import { exitOf, stateOf } from './container-state.js';
import { type PlaceFlags, withParts } from './services.js';

export interface Outputs {
  readonly stdout: Writable;
  readonly stderr: Writable;
}

/**
 * Writes the content of the log; with `until`, also new lines until it settles.
 * @returns false: the reader has closed its end (`crisp logs -f … | head` ends with head)
 */
export async function replay(path: string, outputs: Outputs, until?: Promise<unknown>): Promise<boolean> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (isAbsent(error)) {
      await until;
      return true;
    }
    throw error;
  }
  const reader = new LogReader(file, outputs);
  try {
    if (until) await follow(path, reader, until);
    await reader.read();
    await reader.finish();
    return !reader.unheard;
  } finally {
    await file.close();
  }
}

async function follow(path: string, reader: LogReader, until: Promise<unknown>): Promise<void> {
  let over = false;
  let wake: () => void = () => undefined;
  const watcher = watch(path, () => wake());
  const done = until.finally(() => {
    over = true;
    wake();
  });
  done.catch(() => undefined);
  try {
    while (!over) {
      const changed = new Promise<void>((resolve) => {
        wake = resolve;
      });
      await reader.read();
      if (reader.unheard) return;
      if (!over) await changed;
    }
    await done;
  } finally {
    watcher.close();
  }
}

/** The lines of a log are far shorter: longer output is split into parts (P). */
const maxLineBytes = 1 << 20;
const newline = 0x0a;
const space = 0x20;

class LogReader {
  /** A write has failed: the reader of stdout has closed its end. */
  unheard = false;
  private rest: Buffer = Buffer.alloc(0);
  private readonly chunk = Buffer.alloc(64 << 10);

  constructor(
    private readonly file: FileHandle,
    private readonly outputs: Outputs,
  ) {}

  /** Reads to the current end, and writes the complete lines. */
  async read(): Promise<void> {
    while (!this.unheard) {
      const { bytesRead } = await this.file.read(this.chunk, 0, this.chunk.length, null);
      if (bytesRead === 0) return;
      this.rest = Buffer.concat([this.rest, this.chunk.subarray(0, bytesRead)]);
      for (
        let end = this.rest.indexOf(newline);
        end >= 0 && !this.unheard;
        end = this.rest.indexOf(newline)
      ) {
        await this.line(this.rest.subarray(0, end));
        this.rest = this.rest.subarray(end + 1);
      }
      if (this.rest.length > maxLineBytes) {
        // It is not a log, and would only fill the memory.
        await this.line(this.rest);
        this.rest = Buffer.alloc(0);
      }
    }
  }

  /** All output must be written before the process exits. */
  async finish(): Promise<void> {
    await Promise.all(
      [this.outputs.stdout, this.outputs.stderr].map((stream) => this.write(stream, Buffer.alloc(0))),
    );
  }

  private async line(line: Buffer): Promise<void> {
    const afterTime = line.indexOf(space);
    const afterStream = line.indexOf(space, afterTime + 1);
    const afterTag = line.indexOf(space, afterStream + 1);
    if (afterTime < 0 || afterStream < 0 || afterTag < 0) return;
    const stream =
      line.toString('latin1', afterTime + 1, afterStream) === 'stderr'
        ? this.outputs.stderr
        : this.outputs.stdout;
    const whole = line[afterStream + 1] === 0x46; // F
    const content = line.subarray(afterTag + 1);
    await this.write(stream, whole ? Buffer.concat([content, Buffer.from([newline])]) : Buffer.from(content));
  }

  private write(stream: Writable, content: Buffer): Promise<void> {
    return new Promise((resolve) => {
      stream.write(content, (error) => {
        this.unheard ||= Boolean(error);
        resolve();
      });
    });
  }
}

export async function logsCommand(
  flags: PlaceFlags & { readonly follow: boolean },
  [id = '']: readonly string[],
): Promise<number> {
  return withParts(flags, async (parts) => {
    const record = await parts.records.find(id);
    const state = await stateOf(parts, record);
    const goesOn = flags.follow && (state.status === 'running' || state.status === 'created');
    await replay(
      record.logPath,
      process,
      goesOn ? exitOf(parts.backendOf(record), refOf(record)).ended : undefined,
    );
    return 0;
  });
}

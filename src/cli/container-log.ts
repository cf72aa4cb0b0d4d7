// A container's log in CRI format -> its output, on stdout and stderr. For `crisp
// logs`, and for `crisp run`, because the log contains the output from the first
// byte on.
//
//   2016-10-06T00:17:09.669794202Z stdout P part of a line, no newline
//   2016-10-06T00:17:10.113242941Z stdout F the rest of it and a newline
import { watch } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import type { Writable } from 'node:stream';
import { isAbsent } from '../host/files.js';
import { refOf } from '../records/standalone.js';
import { exitOf, stateOf } from './container-state.js';
import { UsageError } from './parse.js';
import { type PlaceFlags, withParts } from './services.js';

/** The part of a log to show; absent: all. */
export interface LogView {
  /** Only this number of lines from the end of the existing log. */
  readonly tail?: number | undefined;
  /** Only lines at or after this time, in milliseconds since the epoch. */
  readonly since?: number | undefined;
  /** Shows the time before each line. */
  readonly timestamps?: boolean | undefined;
}

export interface Outputs {
  readonly stdout: Writable;
  readonly stderr: Writable;
}

/**
 * Writes the content of the log; with `until`, also new lines until it settles.
 * @returns false: the reader has closed its end (`crisp logs -f … | head` ends with head)
 */
export async function replay(
  path: string,
  outputs: Outputs,
  until?: Promise<unknown>,
  view: LogView = {},
): Promise<boolean> {
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
  const reader = new LogReader(file, outputs, view);
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

/** A line of a log, or a part of one. */
interface Entry {
  readonly time: string;
  readonly stream: 'stdout' | 'stderr';
  readonly whole: boolean;
  readonly content: Buffer;
}

class LogReader {
  /** A write has failed: the reader of stdout has closed its end. */
  unheard = false;
  private rest: Buffer = Buffer.alloc(0);
  private readonly chunk = Buffer.alloc(64 << 10);

  /** For --tail: the last lines, until the first read has reached the end of the log. */
  private last: Entry[] | undefined;
  private lines = 0;
  /** Whether the next output begins a line. */
  private atStart = { stdout: true, stderr: true };

  constructor(
    private readonly file: FileHandle,
    private readonly outputs: Outputs,
    private readonly view: LogView,
  ) {
    if (view.tail !== undefined) this.last = [];
  }

  /** Reads to the current end, and writes the complete lines. */
  async read(): Promise<void> {
    while (!this.unheard) {
      const { bytesRead } = await this.file.read(this.chunk, 0, this.chunk.length, null);
      if (bytesRead === 0) return this.writeLast();
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
        // Not a log in CRI format; do not buffer it.
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
    const time = line.toString('latin1', 0, afterTime);
    if (this.view.since !== undefined && !(Date.parse(time) >= this.view.since)) return;
    const stream = line.toString('latin1', afterTime + 1, afterStream) === 'stderr' ? 'stderr' : 'stdout';
    const whole = line[afterStream + 1] === 0x46; // F
    const entry = { time, stream, whole, content: Buffer.from(line.subarray(afterTag + 1)) } as const;
    if (this.last) this.keep(this.last, entry);
    else await this.show(entry);
  }

  /** Keeps the last lines, including their parts, up to the number to show. */
  private keep(last: Entry[], entry: Entry): void {
    last.push(entry);
    if (entry.whole) this.lines++;
    while (this.lines > (this.view.tail ?? 0)) if (last.shift()?.whole) this.lines--;
  }

  private async writeLast(): Promise<void> {
    const last = this.last ?? [];
    this.last = undefined;
    for (const entry of last) await this.show(entry);
  }

  private async show({ time, stream, whole, content }: Entry): Promise<void> {
    const before = this.view.timestamps && this.atStart[stream] ? Buffer.from(`${time} `) : Buffer.alloc(0);
    this.atStart[stream] = whole;
    const after = whole ? Buffer.from([newline]) : Buffer.alloc(0);
    await this.write(this.outputs[stream], Buffer.concat([before, content, after]));
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

export interface LogsFlags extends PlaceFlags {
  readonly follow: boolean;
  readonly tail: string | undefined;
  readonly since: string | undefined;
  readonly timestamps: boolean;
}

export async function logsCommand(flags: LogsFlags, [id = '']: readonly string[]): Promise<number> {
  const view: LogView = {
    tail: linesOf(flags.tail),
    since: timeOf(flags.since),
    timestamps: flags.timestamps,
  };
  return withParts(flags, async (parts) => {
    const record = await parts.records.find(id);
    const state = await stateOf(parts, record);
    const goesOn = flags.follow && (state.status === 'running' || state.status === 'created');
    await replay(
      record.logPath,
      process,
      goesOn ? exitOf(parts.backendOf(record), refOf(record)).ended : undefined,
      view,
    );
    return 0;
  });
}

/** @throws UsageError */
function linesOf(text: string | undefined): number | undefined {
  if (text === undefined || text === 'all') return undefined;
  if (!/^\d{1,9}$/.test(text)) throw new UsageError(`--tail must be a number of lines, not "${text}"`);
  return Number(text);
}

/** "90s", "10m", "2h", "1d" ago, or a time. @throws UsageError */
export function timeOf(text: string | undefined, now = Date.now()): number | undefined {
  if (text === undefined) return undefined;
  const parts = /^(?:\d+(?:\.\d+)?[smhd])+$/.test(text) ? [...text.matchAll(/([\d.]+)([smhd])/g)] : [];
  const seconds = { s: 1, m: 60, h: 3600, d: 86_400 };
  const ago = parts.reduce((sum, [, number, unit]) => sum + Number(number) * seconds[unit as 's'], 0);
  const time = parts.length ? now - ago * 1000 : /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text);
  if (Number.isNaN(time))
    throw new UsageError(`--since must be 10m, 2h, or a time such as 2026-01-02T15:04:05Z, not "${text}"`);
  return time;
}

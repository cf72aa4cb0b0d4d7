// A container in the foreground: `crisp run`, `crisp start --attach`, `crisp attach`;
// and the user's terminal, also for `crisp exec`.
import { constants } from 'node:os';
import type { TerminalSize } from '../shapes/io.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import { replay, type LogView } from './container-log.js';
import { removeAll } from './container-remove.js';
import type { exitOf } from './container-state.js';
import { stop } from './container-stop.js';
import { DetachKeys } from './detach-keys.js';
import { UsageError } from './parse.js';
import type { Services } from './services.js';
import type { Signals } from './signals.js';

/** Shown if the exit code of a container is not known. */
const unknownExitCode = 255;

/**
 * Grace period after the reader of stdout has closed its end: a program on the host would end by SIGPIPE,
 * which the first process of a container does not get.
 */
const unreadCode = 128 + constants.signals.SIGPIPE;
const unreadGraceSeconds = 1;

export interface Foreground {
  /** Passes stdin on. */
  readonly interactive: boolean;
  /** The end of the container. */
  readonly ended: ReturnType<typeof exitOf>['ended'];
  readonly signals: Signals;
  /** The part of the output to show; absent: all. */
  readonly view?: LogView;
  /** Stops the container when nobody reads its output any more: otherwise its log would grow unread. */
  readonly stopsUnread: boolean;
  /** Removes the container when it has ended; if it outlives this command, a later one does (removeEnded). */
  readonly removes: boolean;
}

/**
 * Shows the output of a container and passes on input and signals, until it ends or the user detaches.
 * @returns its exit code; 0 after a detach, 141 if nobody reads the output any more
 */
export async function inForeground(
  services: Services,
  record: StandaloneRecord,
  foreground: Foreground,
): Promise<number> {
  let runsOn = false;
  try {
    const result = await accompany(services, record, foreground);
    runsOn = result.runsOn;
    return result.exitCode;
  } finally {
    if (foreground.removes)
      await (runsOn ? services.records.put({ ...record, removeAtEnd: true }) : removeAll(services, record));
  }
}

async function accompany(
  services: Services,
  record: StandaloneRecord,
  { interactive, ended, signals, view, stopsUnread }: Foreground,
): Promise<{ exitCode: number; runsOn: boolean }> {
  const container = refOf(record);
  const backend = services.backendOf(record);
  signals.forward((signal) => backend.kill(container, signal));
  const session = new AbortController();
  const terminal = record.terminal ? ownTerminal(interactive) : undefined;
  let detached = false;
  let detach: (exit: undefined) => void = () => undefined;
  const left = new Promise<undefined>((resolve) => {
    detach = resolve;
  });
  const stdin = !interactive
    ? undefined
    : !terminal
      ? process.stdin
      : process.stdin.pipe(
          new DetachKeys(() => {
            detached = true;
            detach(undefined);
          }),
        );
  // Output comes from the log; the attached session is for input and the terminal's size.
  const attached =
    interactive || record.terminal
      ? backend
          .attach(
            container,
            {
              terminal: record.terminal,
              ...(stdin ? { stdin } : {}),
              ...(terminal ? { onResize: terminal.onResize } : {}),
            },
            session.signal,
          )
          .catch(() => undefined) // it ends with the container
      : undefined;
  try {
    const read = await replay(record.logPath, process, Promise.race([ended, left]), view);
    if (detached) {
      process.stderr.write(
        `\r\ndetached from ${record.name}, which keeps running: \`crisp attach ${record.name}\`\r\n`,
      );
      return { exitCode: 0, runsOn: true };
    }
    if (read) return { exitCode: (await ended)?.exitCode ?? unknownExitCode, runsOn: false };
    if (stopsUnread) await stop(backend, record, ended, unreadGraceSeconds);
    return { exitCode: unreadCode, runsOn: !stopsUnread };
  } finally {
    session.abort();
    await attached;
    terminal?.restore();
    if (interactive) process.stdin.destroy();
  }
}

/** A terminal of a container needs one here: a pipe has no size, and its end ends no session. @throws UsageError */
export function checkTerminal(): void {
  if (!process.stdin.isTTY) throw new UsageError('stdin is not a terminal: drop --tty (-t)');
}

/**
 * The user's terminal: its sizes are passed on, and with `raw` every key, Ctrl-C as well. Without stdin no key
 * would reach the container, and Ctrl-C must stay a signal.
 */
export function ownTerminal(raw: boolean): {
  onResize: (listener: (size: TerminalSize) => void) => void;
  restore(): void;
} {
  const { stdin, stdout } = process;
  let resized: (() => void) | undefined;
  if (raw && stdin.isTTY) stdin.setRawMode(true);
  return {
    onResize(listener) {
      if (!stdout.isTTY) return;
      resized = () => listener({ width: stdout.columns, height: stdout.rows });
      resized();
      stdout.on('resize', resized);
    },
    restore() {
      if (raw && stdin.isTTY) stdin.setRawMode(false);
      if (resized) stdout.off('resize', resized);
    },
  };
}

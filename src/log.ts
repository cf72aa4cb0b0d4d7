// The log: one logger for the process, on stderr.
//
//   a terminal          02:53:11.123 WARN  a message  key=value     coloured, for people
//   the systemd journal <4>{"level":"warn","msg":"a message",…}     the priority is for `journalctl -p`
//   anything else       {"level":"warn","msg":"a message",…}        JSON lines, for machines
//
// Each gRPC call (cri/serve.ts) and each background job runs inside withLogContext(), so that each of
// its log lines has the request id and the pod and container ids without passing them on.
import { AsyncLocalStorage } from 'node:async_hooks';
import { fstatSync } from 'node:fs';
import { isatty } from 'node:tty';
import { pino, type Logger } from 'pino';
import { escapeControls } from './errors.js';

export interface LogContext {
  requestId?: string;
  podId?: string;
  containerId?: string;
}

const storage = new AsyncLocalStorage<LogContext>();
const stderr = 2;

/** Keys whose values are never logged, at any depth. */
const secretKeys = ['auth', 'password', 'identity_token', 'registry_token', 'token', 'secret'];

export const log: Logger = pino(
  {
    level: process.env['CRISP_LOG_LEVEL'] ?? 'info',
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    mixin: () => ({ ...storage.getStore() }), // a copy: pino adds the line's own fields to it
    redact: { paths: secretKeys.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]), censor: '[secret]' },
  },
  destination(),
);

/** Runs `work` with `context` on each of its log lines. */
export function withLogContext<T>(context: LogContext, work: () => T): T {
  return storage.run({ ...storage.getStore(), ...context }, work);
}

/** The context of the current call; ids that are added later appear in it. */
export function logContext(): LogContext | undefined {
  return storage.getStore();
}

/** Adds ids to the context of the current call, once they are known. */
export function addLogContext(context: LogContext): void {
  const current = storage.getStore();
  if (current) Object.assign(current, context);
}

function destination(): pino.DestinationStream {
  const out = pino.destination({ fd: stderr, sync: true });
  if (isatty(stderr)) {
    const coloured = !process.env['NO_COLOR'];
    return { write: (line) => void out.write(textLine(line, coloured)) };
  }
  if (isJournal(stderr, process.env['JOURNAL_STREAM']))
    return { write: (line) => void out.write(`<${syslogPriority(line)}>${line}`) };
  return out;
}

/** Whether a descriptor is the connection to the journal that systemd made. @param stream $JOURNAL_STREAM, "DEVICE:INODE" (systemd.exec(5)) */
export function isJournal(descriptor: number, stream: string | undefined): boolean {
  if (!stream) return false;
  const { dev, ino } = fstatSync(descriptor, { bigint: true });
  return stream === `${dev}:${ino}`;
}

/**
 * The priority of syslog(3), which journald reads from the beginning of a line (sd-daemon(3)), and the colour
 * on a terminal.
 */
const levels: Readonly<Record<string, { readonly priority: number; readonly colour: number }>> = {
  trace: { priority: 7, colour: 90 },
  debug: { priority: 7, colour: 90 },
  info: { priority: 6, colour: 32 },
  warn: { priority: 4, colour: 33 },
  error: { priority: 3, colour: 31 },
  fatal: { priority: 2, colour: 31 },
};

/** @param line JSON, which begins with the level */
export function syslogPriority(line: string): number {
  return levels[/^\{"level":"(\w+)"/.exec(line)?.[1] ?? 'info']?.priority ?? 6;
}

/**
 * Formats a line of JSON as text: "02:53:11.123 WARN message key=value", with the stack of an error below it.
 */
export function textLine(json: string, coloured: boolean): string {
  const { level, time, msg, err, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const paint = (text: string, colour: number): string => (coloured ? `\x1b[${colour}m${text}\x1b[0m` : text);
  const name = String(level);
  const error = err as { message?: string; stack?: string } | undefined;
  const words = [
    paint(new Date(String(time)).toTimeString().slice(0, 8) + String(time).slice(19, 23), 90),
    paint(name.toUpperCase().padEnd(5), levels[name]?.colour ?? 0),
    escapeControls(typeof msg === 'string' ? msg : (error?.message ?? '')),
    ...Object.entries(fields).map(([key, value]) => `${paint(`${key}=`, 36)}${fieldText(value)}`),
    ...(error?.stack
      ? error.stack.split('\n').map((line) => `\n    ${escapeControls(line)}`)
      : error
        ? [escapeControls(JSON.stringify(error))]
        : []),
  ];
  return `${words.slice(0, 3).join(' ')}${words
    .slice(3)
    .map((word) => (word.startsWith('\n') ? word : `  ${word}`))
    .join('')}\n`;
}

/** A string, in quotes only if it contains a space. */
function fieldText(value: unknown): string {
  return escapeControls(
    typeof value === 'string' && /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value),
  );
}

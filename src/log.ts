// The log: JSON lines on stderr, one logger for the process.
//
// Each gRPC call (cri/serve.ts) and each background job runs inside
// withLogContext(), so that every line written on its behalf carries the
// request id and the pod and container ids without anybody passing them on.
import { AsyncLocalStorage } from 'node:async_hooks';
import { pino, type Logger } from 'pino';

export interface LogContext {
  requestId?: string;
  podId?: string;
  containerId?: string;
}

const storage = new AsyncLocalStorage<LogContext>();

/** Keys whose values never reach the log, wherever they stand. */
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
  pino.destination({ fd: 2, sync: true }),
);

/** Runs `work` with `context` on each of its log lines. */
export function withLogContext<T>(context: LogContext, work: () => T): T {
  return storage.run({ ...storage.getStore(), ...context }, work);
}

/** The context of the running call; ids that are added later appear in it. */
export function logContext(): LogContext | undefined {
  return storage.getStore();
}

/** Adds ids to the context of the running call, once they are known. */
export function addLogContext(context: LogContext): void {
  const current = storage.getStore();
  if (current) Object.assign(current, context);
}

// Notifications to systemd (sd_notify(3)), and its watchdog: systemd restarts a
// daemon that has not sent a keep-alive within WatchdogSec. crisp sends it only
// after it has answered a call on its own socket, as from a kubelet, and while no
// step is overdue. A restart does not affect containers.
import { credentials } from '@grpc/grpc-js';
import type { RuntimeServiceClient } from './cri/generated/runtime/v1/RuntimeService.js';
import { loadProto } from './cri/proto.js';
import { toCrispError } from './errors.js';
import { sendDatagram } from './host/syscalls.js';
import { log } from './log.js';
import { overdueSteps } from './steps.js';

/** Sends states such as "READY=1" to systemd; no effect outside of a service. */
export function notifySystemd(...states: string[]): void {
  const socket = process.env['NOTIFY_SOCKET'];
  if (!socket) return;
  try {
    sendDatagram(socket, states.join('\n'));
  } catch (error) {
    log.warn({ err: error }, 'systemd could not be notified');
  }
}

/**
 * Feeds the watchdog of the service, if it has one (sd_watchdog_enabled(3)): twice
 * per WATCHDOG_USEC the daemon calls itself, and notifies systemd if it answers
 * and no step is overdue.
 * @param listen the socket of the daemon, unix:///PATH
 * @returns a function that ends it
 */
export function feedWatchdog(listen: string): () => void {
  const microseconds = Number(process.env['WATCHDOG_USEC'] ?? 0);
  const pid = process.env['WATCHDOG_PID'];
  if (!(microseconds > 0) || (pid !== undefined && Number(pid) !== process.pid)) return () => undefined;
  const intervalMs = microseconds / 2000;
  const feed = (): void =>
    void answers(listen, intervalMs).then(
      () => {
        const stuck = overdueSteps();
        if (stuck.length === 0) notifySystemd('WATCHDOG=1');
        else log.error({ stuck }, 'steps do not end: systemd will restart the daemon, containers run on');
      },
      (error: unknown) =>
        log.error({ error: toCrispError(error).report }, 'the daemon does not answer its own call'),
    );
  feed();
  const timer = setInterval(feed, intervalMs);
  return () => clearInterval(timer);
}

/** Loaded only if there is a watchdog. */
let service: ReturnType<typeof loadProto>['runtime']['v1']['RuntimeService'] | undefined;

/**
 * Resolves when the daemon answers Version, over a new connection: this also tests that it accepts
 * connections.
 */
function answers(listen: string, timeoutMs: number): Promise<void> {
  service ??= loadProto().runtime.v1.RuntimeService;
  const client: RuntimeServiceClient = new service(listen, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
  });
  return new Promise<void>((resolve, reject) => {
    client.Version({}, { deadline: Date.now() + timeoutMs }, (error) => (error ? reject(error) : resolve()));
  }).finally(() => client.close());
}

// What systemd is told of the daemon (sd_notify(3)), and its watchdog: systemd
// restarts a daemon that has not said for WatchdogSec that it is alive. Ours says
// so only after it has answered a call on its own socket, as a kubelet's would be,
// and while no step is overdue: a restart takes up what hangs, and harms no container.
import { credentials } from '@grpc/grpc-js';
import type { RuntimeServiceClient } from './cri/generated/runtime/v1/RuntimeService.js';
import { loadProto } from './cri/proto.js';
import { toCrispError } from './errors.js';
import { sendDatagram } from './host/syscalls.js';
import { log } from './log.js';
import { overdueSteps } from './steps.js';

/** Tells systemd of states such as "READY=1"; nothing happens outside of a service. */
export function notifySystemd(...states: string[]): void {
  const socket = process.env['NOTIFY_SOCKET'];
  if (!socket) return;
  try {
    sendDatagram(socket, states.join('\n'));
  } catch (error) {
    log.warn({ err: error }, 'systemd was not told');
  }
}

/**
 * Feeds the watchdog of the service, if it has one (sd_watchdog_enabled(3)): twice
 * per WATCHDOG_USEC the daemon calls itself, and systemd hears of it if it answers
 * and nothing is stuck.
 * @param listen the socket of the daemon, unix:///PATH
 * @returns ends it
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

/** Loaded when there is a watchdog to feed. */
let service: ReturnType<typeof loadProto>['runtime']['v1']['RuntimeService'] | undefined;

/** Resolves when the daemon answers Version, over a connection of its own: accepting one is part of being alive. */
function answers(listen: string, timeoutMs: number): Promise<void> {
  service ??= loadProto().runtime.v1.RuntimeService;
  const client: RuntimeServiceClient = new service(listen, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
  });
  return new Promise<void>((resolve, reject) => {
    client.Version({}, { deadline: Date.now() + timeoutMs }, (error) => (error ? reject(error) : resolve()));
  }).finally(() => client.close());
}

// `crisp events`: the events of the daemon's pods and containers, one per line.
import type { ContainerEventResponse__Output } from '../cri/generated/runtime/v1/ContainerEventResponse.js';
import { loadConfig } from '../config/config.js';
import { CrispError } from '../errors.js';
import { withDaemon } from './daemon-client.js';
import { time } from './output.js';

export interface EventsFlags {
  readonly config: string | undefined;
  readonly listen: string | undefined;
  readonly json: boolean;
}

/** Until Ctrl-C, the end of the daemon (1), or the end of the reader. */
export async function eventsCommand(flags: EventsFlags): Promise<number> {
  const { listen } = loadConfig(flags.config, { listen: flags.listen });
  return withDaemon(
    listen,
    ({ runtime }) =>
      new Promise<number>((resolve, reject) => {
        const stream = runtime.GetContainerEvents({});
        const end = (): void => {
          stream.cancel();
          resolve(0);
        };
        process.once('SIGINT', end).once('SIGTERM', end);
        process.stdout.once('error', end);
        stream.on('data', (event: ContainerEventResponse__Output) =>
          process.stdout.write(`${flags.json ? JSON.stringify(shown(event)) : inWords(shown(event))}\n`),
        );
        stream.once('error', (error: Error & { details?: string }) =>
          reject(
            new CrispError('DaemonUnreachable', `the events have ended: ${error.details ?? error.message}`, {
              hint: 'see `crisp status`',
            }),
          ),
        );
        stream.once('end', () =>
          reject(new CrispError('DaemonUnreachable', 'the daemon has ended', { hint: 'see `crisp status`' })),
        );
      }),
  );
}

export interface ShownEvent {
  /** RFC 3339. */
  readonly time: string;
  readonly event: 'created' | 'started' | 'stopped' | 'deleted';
  /** "NAMESPACE/NAME" */
  readonly pod: string;
  /** Absent: an event of the pod itself. */
  readonly container?: string;
  readonly id: string;
  readonly exitCode?: number;
  readonly reason?: string;
}

export function shown(event: ContainerEventResponse__Output): ShownEvent {
  const { pod_sandbox_status: pod, containers_statuses: containers, container_id: id } = event;
  const { namespace = '', name = '' } = pod?.metadata ?? {};
  const container = containers.find((one) => one.id === id);
  const stopped = container?.state === 'CONTAINER_EXITED' ? container : undefined;
  return {
    time: time(event.created_at),
    event: event.container_event_type
      .replace(/^CONTAINER_(.*)_EVENT$/, '$1')
      .toLowerCase() as ShownEvent['event'],
    pod: `${namespace}/${name}`,
    ...(container ? { container: container.metadata?.name ?? '' } : {}),
    id,
    ...(stopped ? { exitCode: stopped.exit_code, reason: stopped.reason } : {}),
  };
}

function inWords({ time: at, event, pod, container, id, exitCode, reason }: ShownEvent): string {
  const which = container === undefined ? pod : `${pod}/${container}`;
  const how = exitCode === undefined ? '' : `  exit code ${exitCode}${reason ? ` (${reason})` : ''}`;
  return `${at}  ${event.padEnd(7)}  ${which}  ${id.slice(0, 12)}${how}`;
}

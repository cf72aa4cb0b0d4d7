// The daemon's own metrics, in Prometheus' text format, and the HTTP server that
// shows them with the daemon's health.  Updated where the event happens; like
// the log, there is one set for the process. The numbers of pods and containers
// are computed at each scrape (collect); everything else is counted when it
// happens.
import { readdirSync, readFileSync } from 'node:fs';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { CrispError } from './errors.js';
import { monitorEventLoopDelay } from 'node:perf_hooks';

export type Labels = Readonly<Record<string, string>>;
export interface Sample {
  readonly labels: Labels;
  readonly value: number;
}

abstract class Metric {
  constructor(
    readonly name: string,
    readonly help: string,
    readonly type: 'counter' | 'gauge' | 'histogram',
  ) {
    all.push(this);
  }
  /** The lines under HELP and TYPE. */
  abstract lines(): string[];
}
const all: Metric[] = [];

/** Counts events. */
export class Counter extends Metric {
  private readonly values = new Map<string, Sample>();
  constructor(name: string, help: string) {
    super(name, help, 'counter');
  }

  add(labels: Labels = {}, amount = 1): void {
    const key = keyOf(labels);
    this.values.set(key, { labels, value: (this.values.get(key)?.value ?? 0) + amount });
  }

  override lines(): string[] {
    return [...this.values.values()].map((sample) => line(this.name, sample));
  }
}

/** Shows current values, from a function that is set once and called at each scrape. */
export class Gauge extends Metric {
  private source: () => readonly Sample[] = () => [];
  constructor(name: string, help: string, type: 'gauge' | 'counter' = 'gauge') {
    super(name, help, type);
  }

  collect(source: () => readonly Sample[]): void {
    this.source = source;
  }

  override lines(): string[] {
    return this.source().map((sample) => line(this.name, sample));
  }
}

/** Counts durations, in seconds. */
export class Histogram extends Metric {
  private readonly values = new Map<
    string,
    { labels: Labels; counts: number[]; sum: number; count: number }
  >();
  constructor(
    name: string,
    help: string,
    private readonly bounds: readonly number[],
  ) {
    super(name, help, 'histogram');
  }

  observe(labels: Labels, seconds: number): void {
    const key = keyOf(labels);
    let value = this.values.get(key);
    if (!value)
      this.values.set(key, (value = { labels, counts: this.bounds.map(() => 0), sum: 0, count: 0 }));
    value.sum += seconds;
    value.count++;
    const bucket = this.bounds.findIndex((bound) => seconds <= bound);
    if (bucket >= 0) value.counts[bucket] = (value.counts[bucket] ?? 0) + 1;
  }

  override lines(): string[] {
    return [...this.values.values()].flatMap(({ labels, counts, sum, count }) => {
      let below = 0; // buckets are cumulative
      return [
        ...this.bounds.map((bound, index) =>
          line(`${this.name}_bucket`, {
            labels: { ...labels, le: String(bound) },
            value: (below += counts[index] ?? 0),
          }),
        ),
        line(`${this.name}_bucket`, { labels: { ...labels, le: '+Inf' }, value: count }),
        line(`${this.name}_sum`, { labels, value: sum }),
        line(`${this.name}_count`, { labels, value: count }),
      ];
    });
  }
}

function line(name: string, { labels, value }: Sample): string {
  return `${name}${shown(labels)} ${value}`;
}

/** The key of a sample within its metric; all samples of a metric have the same label names. */
function keyOf(labels: Labels): string {
  return Object.values(labels).join('\0');
}

function shown(labels: Labels): string {
  const pairs = Object.entries(labels).map(
    ([key, value]) => `${key}="${value.replace(/[\\"]/g, '\\$&').replaceAll('\n', '\\n')}"`,
  );
  return pairs.length ? `{${pairs.join(',')}}` : '';
}

const callSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const pullSeconds = [0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600];

export const metrics = {
  /** method, code */
  calls: new Histogram('crisp_call_duration_seconds', 'CRI calls by method and gRPC code', callSeconds),
  /** tool, result: ok, failed, timeout */
  tools: new Histogram(
    'crisp_tool_duration_seconds',
    'Runs of other programs by tool and result',
    callSeconds,
  ),
  /** result: ok, or the id of the error */
  imagePulls: new Histogram('crisp_image_pull_duration_seconds', 'Image pulls by result', pullSeconds),
  /** handler, rule */
  routed: new Counter(
    'crisp_pods_routed_total',
    'Pods made, by the handler that runs them and the rule that chose it',
  ),
  /** from, to: handlers */
  fallbacks: new Counter(
    'crisp_handler_fallbacks_total',
    'Pods that run on a fallback because their handler is not ready',
  ),
  eventsDropped: new Counter(
    'crisp_events_dropped_total',
    'Container events that a slow subscriber did not get',
  ),
  /** handler */
  monitorsLost: new Counter(
    'crisp_monitors_lost_total',
    'Monitors of running containers (conmon, the watcher of a CT) that were found dead',
  ),
  /** handler; 1: ready */
  handlersReady: new Gauge('crisp_handler_ready', 'Whether the probe of a runtime handler succeeded'),
  /** handler, reason */
  handlersBroken: new Gauge(
    'crisp_handler_broken_info',
    'Always 1; a runtime handler whose probe failed, with the reason',
  ),
  /** handler, state */
  pods: new Gauge('crisp_pods', 'Pod sandboxes by backend and state'),
  /** handler, state */
  containers: new Gauge('crisp_containers', 'Containers by backend and state'),
  /** quantile */
  eventLoopDelay: new Gauge(
    'crisp_event_loop_delay_seconds',
    'Delay of the event loop of the daemon, by quantile, since the last scrape',
  ),
  stepsOverdue: new Gauge(
    'crisp_steps_overdue',
    'Steps of calls that take longer than a step may (10 minutes)',
  ),
  /** step; pod, container, request: their ids, empty where there is none */
  stepOverdueSeconds: new Gauge(
    'crisp_step_overdue_seconds',
    'For how long each of them has been under way, by step, pod, container and request',
  ),
  build: new Gauge('crisp_build_info', 'Always 1; the version is in the label'),
};

// The process metrics of Prometheus' own client libraries.
const plain = (value: number): Sample[] => [{ labels: {}, value }];
new Gauge('process_cpu_seconds_total', 'CPU time of the daemon', 'counter').collect(() =>
  plain((({ user, system }) => (user + system) / 1e6)(process.cpuUsage())),
);
new Gauge('process_resident_memory_bytes', 'Resident memory of the daemon').collect(() =>
  plain(process.memoryUsage.rss()),
);
new Gauge('process_open_fds', 'Open files of the daemon').collect(() =>
  plain(readdirSync('/proc/self/fd').length),
);
new Gauge('process_max_fds', 'Maximum number of open files of the daemon').collect(() =>
  plain(Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 0)),
);
new Gauge('process_start_time_seconds', 'Start time of the daemon, in seconds since the epoch').collect(() =>
  plain(Math.round(performance.timeOrigin / 1000)),
);

/** All metrics in text format 0.0.4; a metric without a value has only its heading. */
export function exposition(): string {
  const lines = all.flatMap((metric) => [
    `# HELP ${metric.name} ${metric.help}`,
    `# TYPE ${metric.name} ${metric.type}`,
    ...metric.lines(),
  ]);
  return `${lines.join('\n')}\n`;
}

export interface MetricsServerOptions {
  readonly address: string;
  /** 0: any free port. */
  readonly port: number;
  /** The problem of the daemon, as text; undefined: none. */
  readonly ailment: () => string | undefined;
}

/** Each measurement is a wake-up: at 20 ms it took 0.17 % of a core in an idle daemon, at 50 ms 0.1 %. */
const delayResolutionMs = 100;
const delayQuantiles = [0.5, 0.9, 0.99, 1];

/** GET /metrics, and GET /healthz: 200 "ok", or 503 with the reason. */
export class MetricsServer {
  private readonly server: Server;
  /** Runs only while the server is open. */
  private readonly delays = monitorEventLoopDelay({ resolution: delayResolutionMs });

  constructor(private readonly options: MetricsServerOptions) {
    this.server = createServer((request, response) => {
      if (request.method !== 'GET' && request.method !== 'HEAD') return answer(response, 405, 'only GET\n');
      switch (request.url?.split('?')[0]) {
        case '/metrics':
          return answer(response, 200, exposition(), 'text/plain; version=0.0.4; charset=utf-8');
        case '/healthz': {
          const ailment = options.ailment();
          return answer(response, ailment === undefined ? 200 : 503, `${ailment ?? 'ok'}\n`);
        }
        default:
          return answer(response, 404, 'there are /metrics and /healthz\n');
      }
    });
    this.server.requestTimeout = 10_000;
    metrics.eventLoopDelay.collect(() => {
      // The recorded value is the time from one tick to the next, in nanoseconds.
      const samples = delayQuantiles.map((quantile) => ({
        labels: { quantile: String(quantile) },
        value: Math.max(0, this.delays.percentile(quantile * 100) / 1e9 - delayResolutionMs / 1000),
      }));
      this.delays.reset();
      return samples;
    });
  }

  /** @returns the port @throws InvalidConfigFile if the address cannot be bound */
  start(): Promise<number> {
    this.delays.enable();
    return new Promise((resolve, reject) => {
      this.server.once('error', (error) =>
        reject(new CrispError('InvalidConfigFile', `metrics: ${error.message}`, { cause: error })),
      );
      this.server.listen(this.options.port, this.options.address, () =>
        resolve((this.server.address() as AddressInfo).port),
      );
    });
  }

  close(): Promise<void> {
    this.delays.disable();
    return new Promise((resolve) => {
      this.server.close(() => resolve());
      this.server.closeAllConnections();
    });
  }
}

function answer(
  response: ServerResponse,
  code: number,
  text: string,
  type = 'text/plain; charset=utf-8',
): void {
  response.writeHead(code, { 'content-type': type }).end(text);
}

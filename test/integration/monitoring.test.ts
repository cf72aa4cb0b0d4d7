// deploy/monitoring in a real Prometheus that scrapes a daemon: the metrics and labels
// that the alerts and the dashboard use exist, the panels have data, and the alerts
// fire.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { parse, stringify } from 'yaml';
import { parentOf } from '../../src/host/proc.js';
import { installed } from '../../src/installed.js';
import { waitUntil } from '../../src/host/wait.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { diesWithUs } from '../helpers/machine.js';
import { patience } from '../helpers/patience.js';
import { freePort } from '../helpers/port.js';
import { containerConfig, runPod, startContainer, testImage, untilStopped } from '../helpers/requests.js';

interface Rules {
  readonly groups: readonly { readonly rules: readonly (Rule & { for?: string })[] }[];
}
interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}
interface Panel {
  readonly id: number;
  readonly title: string;
  readonly type: string;
  readonly targets?: readonly { readonly expr: string; readonly legendFormat?: string }[];
}
interface Dashboard {
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly { readonly name: string; readonly query: string }[] };
}
interface Series {
  readonly metric: Readonly<Record<string, string>>;
}

const runFile = promisify(execFile);
const read = (name: string): Promise<string> => readFile(installed(`deploy/monitoring/${name}`), 'utf8');
const rules = parse(await read('crisp.rules.yaml')) as Rules;
const alerts = rules.groups.flatMap((group) => group.rules);
const dashboard = JSON.parse(await read('dashboard.json')) as Dashboard;
const queries = dashboard.panels.flatMap(({ title, targets = [] }) =>
  targets.map(({ expr, legendFormat = '' }) => ({ title, expr, legendFormat })),
);

let daemon: Daemon;
let prometheus: ChildProcess;
let api: string;
/** Of containers, as the kubelet serves them: name -> labels. */
let containerMetrics: Map<string, readonly string[]>;

beforeAll(async () => {
  const port = await freePort();
  daemon = await startDaemon({
    config: { metrics: { port }, handlers: { crun: { path: '/bin/false' } } }, // so its pods fall back to runc
  });
  await daemon.addImage(testImage);
  await startPrometheus(port);
  await until('the first scrape', async () => (await query('up{job="crisp"} == 1')).length > 0);
}, 120_000);
afterAll(async () => {
  prometheus?.kill('SIGKILL');
  await daemon?.destroy();
});

/** With the files as they are, but for the address of the daemon, and without the waits. */
async function startPrometheus(target: number): Promise<void> {
  const folder = join(daemon.folder, 'prometheus');
  await mkdir(folder);
  for (const rule of alerts) delete rule.for;
  await writeFile(join(folder, 'crisp.rules.yaml'), stringify(rules));
  const config = parse(await read('prometheus.yaml')) as {
    global: Record<string, string>;
    scrape_configs: [{ static_configs: [{ targets: string[] }] }];
  };
  config.global = { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' };
  config.scrape_configs[0].static_configs[0].targets = [`127.0.0.1:${target}`];
  await writeFile(join(folder, 'prometheus.yaml'), stringify(config));
  const listen = `127.0.0.1:${await freePort()}`;
  api = `http://${listen}/api/v1`;
  const [tool = '', ...args] = diesWithUs([
    'prometheus',
    `--config.file=${join(folder, 'prometheus.yaml')}`,
    `--storage.tsdb.path=${join(folder, 'data')}`,
    `--web.listen-address=${listen}`,
  ]);
  prometheus = spawn(tool, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  prometheus.stderr?.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-2_000)));
  const ended = once(prometheus, 'close').then(() => {
    throw new Error(`prometheus has ended: ${said}`);
  });
  ended.catch(() => undefined);
  const ready = async () => (await fetch(`http://${listen}/-/ready`).catch(() => undefined))?.ok === true;
  await Promise.race([ended, until('Prometheus', ready)]);
}

async function ask<Answer>(path: string, parameters: Readonly<Record<string, string>> = {}): Promise<Answer> {
  const answer = (await (
    await fetch(`${api}/${path}?${new URLSearchParams(parameters).toString()}`)
  ).json()) as {
    status: string;
    error?: string;
    data: Answer;
  };
  if (answer.status !== 'success')
    throw new Error(`${path} ${JSON.stringify(parameters)}: ${answer.error ?? answer.status}`);
  return answer.data;
}
const query = async (expr: string): Promise<readonly Series[]> =>
  (await ask<{ result: readonly Series[] }>('query', { query: expr })).result;

async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  if (!(await waitUntil(condition, { everyMs: 200, withinMs: 20_000 * patience })))
    throw new Error(`${what}: not in time`);
}

const fires = async (alert: string): Promise<boolean> =>
  (await ask<{ alerts: readonly { state: string; labels: Record<string, string> }[] }>('alerts')).alerts.some(
    ({ state, labels }) => state === 'firing' && labels['alertname'] === alert,
  );

/** A query of the dashboard as Grafana sends it with all nodes chosen. */
const filled = (expr: string): string =>
  expr.replaceAll('$__rate_interval', '1m').replace(/\$(instance|namespace)\b/g, '.*');

/** The metrics that an expression names, with the labels that it asks of each. */
function selectors(expr: string): { name: string; labels: string[] }[] {
  return [...expr.matchAll(/\b((?:crisp|process|container)_\w+|up)\b(?:\{([^}]*)\})?/g)].map(
    ([, name = '', matchers = '']) => ({
      name,
      labels: [...matchers.matchAll(/(\w+)\s*(?:=~|!~|!=|=)\s*"/g)].map(([, label = '']) => label),
    }),
  );
}
/** The labels by which an expression groups or joins. */
const groupings = (expr: string): string[] =>
  [...expr.matchAll(/\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)/g)].flatMap(([, names = '']) =>
    names.split(',').map((name) => name.trim()),
  );
const shown = (text: string, pattern: RegExp): string[] =>
  [...text.matchAll(pattern)].map(([, name = '']) => name);

async function labelsOf(name: string): Promise<readonly string[]> {
  if (name.startsWith('container_')) return containerMetrics.get(name) ?? [];
  const series = await ask<readonly Record<string, string>[]>('series', { 'match[]': name });
  return series.flatMap((labels) => Object.keys(labels));
}

/** A call that fails, for a fault of the node or its network. */
const pullFromNowhere = () =>
  expect(daemon.client.image.PullImage({ image: { image: '127.0.0.1:1/none:1' } })).rejects.toThrow();

test('promtool accepts the files', async () => {
  const { stdout } = await runFile('promtool', ['check', 'config', 'deploy/monitoring/prometheus.yaml'], {
    cwd: installed('.'),
  });
  expect(stdout).toContain(`SUCCESS: ${alerts.length} rules found`);
});

test('docs/monitoring.md lists the alerts with their severity', async () => {
  const table = await readFile(installed('docs/monitoring.md'), 'utf8');
  expect(
    [...table.matchAll(/^\| `(Crisp\w+)` \| (\w+) /gm)].map(([, alert, severity]) => ({ alert, severity })),
  ).toEqual(alerts.map(({ alert, labels }) => ({ alert, severity: labels['severity'] })));
});

test('a daemon with pods serves each metric used in the files, with its labels', async () => {
  const pod = await runPod(daemon);
  await startContainer(daemon, pod, containerConfig(untilStopped()));
  await pullFromNowhere();
  await until(
    'a scrape of what happened',
    async () => (await query('crisp_image_pull_duration_seconds_count')).length > 0,
  );
  const { descriptors } = await daemon.client.runtime.ListMetricDescriptors({});
  const { pod_metrics } = await daemon.client.runtime.ListPodSandboxMetrics({});
  const served = new Set(
    pod_metrics
      .flatMap((one) => [...one.metrics, ...one.container_metrics.flatMap(({ metrics }) => metrics)])
      .map(({ name }) => name),
  );
  containerMetrics = new Map(
    descriptors.filter(({ name }) => served.has(name)).map(({ name, label_keys }) => [name, label_keys]),
  );

  const missing: string[] = [];
  const look = async (where: string, expr: string, more: readonly string[]): Promise<void> => {
    const found = selectors(expr);
    const all = new Set<string>();
    for (const { name, labels } of found) {
      const there = await labelsOf(name);
      for (const label of there) all.add(label);
      if (there.length === 0) missing.push(`${where}: ${name}`);
      else
        missing.push(
          ...labels.filter((label) => !there.includes(label)).map((label) => `${where}: ${name}{${label}}`),
        );
    }
    if (found.length === 0) missing.push(`${where}: names no metric`);
    missing.push(
      ...[...groupings(expr), ...more]
        .filter((label) => !all.has(label))
        .map((label) => `${where}: ${label}`),
    );
  };
  for (const { alert, expr, annotations } of alerts)
    await look(alert, expr, shown(Object.values(annotations).join(' '), /\$labels\.(\w+)/g));
  for (const { title, expr, legendFormat } of queries)
    await look(title, expr, shown(legendFormat, /\{\{(\w+)\}\}/g));
  for (const { query: variable } of dashboard.templating.list) {
    const [, name, label] = /^label_values\((\w+), (\w+)\)$/.exec(variable) ?? [];
    if (name && label) await look(variable, name, [label]);
  }
  expect(missing).toEqual([]);
});

test('each panel has data, with the labels of its legend', async () => {
  const withoutData = async (): Promise<string[]> => {
    const found: string[] = [];
    for (const { title, expr, legendFormat } of queries) {
      const result = await query(filled(expr));
      if (/\bcontainer_/.test(expr)) continue; // skipped: its data comes from the kubelet
      if (result.length === 0) found.push(title);
      const labels = result.flatMap(({ metric }) => Object.keys(metric));
      const legend = shown(legendFormat, /\{\{(\w+)\}\}/g);
      found.push(...legend.filter((label) => !labels.includes(label)).map((label) => `${title}: ${label}`));
    }
    return found;
  };
  let empty: string[] = [];
  // A rate needs two scrapes; calls of each kind go on meanwhile.
  await until('data', async () => {
    await pullFromNowhere();
    empty = await withoutData();
    return empty.length === 0;
  }).catch(() => undefined);
  expect(empty).toEqual([]);
});

test('the rules are evaluated without an error', async () => {
  const { groups } = await ask<{
    groups: readonly { rules: readonly { name: string; health: string; lastError?: string }[] }[];
  }>('rules');
  const loaded = groups.flatMap((group) => group.rules);
  expect(loaded.map(({ name }) => name)).toEqual(alerts.map(({ alert }) => alert));
  for (const { name, health, lastError } of loaded)
    expect({ name, health, lastError }).toEqual({ name, health: 'ok', lastError: undefined });
});

test('alerts fire: a handler that is not ready, a fallback, a lost monitor, failing pulls, a missing daemon', async () => {
  await until('CrispHandlerNotReady', () => fires('CrispHandlerNotReady'));
  for (const alert of ['CrispNoHandlerReady', 'CrispMonitorLost'])
    expect({ alert, fires: await fires(alert) }).toEqual({ alert, fires: false });
  await until('CrispHandlerFallback', () => fires('CrispHandlerFallback'));

  const pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
  const { info } = await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true });
  process.kill(
    (await parentOf((JSON.parse(info['info'] ?? '') as { pid: number }).pid)) as number,
    'SIGKILL',
  );
  await until('CrispMonitorLost', () => fires('CrispMonitorLost'));

  await until('CrispImagePullsFailing', async () => {
    await pullFromNowhere();
    return fires('CrispImagePullsFailing');
  });
  expect({ alert: 'CrispDown', fires: await fires('CrispDown') }).toMatchObject({ fires: false });
  await daemon.stop();
  await until('CrispDown', () => fires('CrispDown'));
  await daemon.start();
});

/** By alert: the samples of a series, one a minute, from the tenth on with its condition. */
const conditions: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  CrispDown: { 'up{job="crisp"}': '1x9 0x50' },
  CrispRestarting: { 'process_start_time_seconds{job="crisp"}': '1x9 2+1x50' },
  CrispNoHandlerReady: {
    'crisp_handler_ready{handler="crun"}': '1x9 0x50',
    'crisp_handler_ready{handler="runc"}': '0x60',
  },
  CrispHandlerNotReady: { 'crisp_handler_ready{handler="crun"}': '1x9 0x50' },
  CrispHandlerFallback: { 'crisp_handler_fallbacks_total{from="crun", to="runc"}': '0x9 0+1x50' },
  CrispCallsFailing: {
    'crisp_call_duration_seconds_count{method="StartContainer", code="OK"}': '0+8x60',
    'crisp_call_duration_seconds_count{method="StartContainer", code="INTERNAL"}': '0x9 0+2x50',
  },
  CrispCallsSlow: {
    'crisp_call_duration_seconds_bucket{method="ListContainers", le="1"}': '0+9x9 81x50',
    'crisp_call_duration_seconds_bucket{method="ListContainers", le="30"}': '0+9x60',
    'crisp_call_duration_seconds_bucket{method="ListContainers", le="+Inf"}': '0+9x60',
  },
  CrispPodStartSlow: {
    'crisp_call_duration_seconds_bucket{method="RunPodSandbox", le="10"}': '0+9x9 81x50',
    'crisp_call_duration_seconds_bucket{method="RunPodSandbox", le="30"}': '0+9x60',
    'crisp_call_duration_seconds_bucket{method="RunPodSandbox", le="+Inf"}': '0+9x60',
  },
  CrispToolTimeouts: { 'crisp_tool_duration_seconds_count{tool="skopeo", result="timeout"}': '0x9 0+1x50' },
  CrispStepOverdue: { crisp_steps_overdue: '0x9 1x50' },
  CrispImagePullsFailing: {
    'crisp_image_pull_duration_seconds_count{result="ok"}': '0+1x60',
    'crisp_image_pull_duration_seconds_count{result="RegistryUnreachable"}': '0x9 0+5x50',
  },
  CrispMonitorLost: { 'crisp_monitors_lost_total{handler="crun"}': '0x9 0+1x50' },
  CrispEventsDropped: { crisp_events_dropped_total: '0x9 0+1x50' },
  CrispEventLoopSlow: { 'crisp_event_loop_delay_seconds{quantile="0.99"}': '0.01x9 2x50' },
  CrispOpenFiles: {
    'process_open_fds{job="crisp"}': '100x9 950x50',
    'process_max_fds{job="crisp"}': '1000x60',
  },
};

test('each alert fires on its condition only', async () => {
  expect(Object.keys(conditions)).toEqual(alerts.map(({ alert }) => alert));
  const file = join(daemon.folder, 'alerts.yaml');
  await writeFile(
    file,
    stringify({
      rule_files: [installed('deploy/monitoring/crisp.rules.yaml')],
      tests: Object.entries(conditions).map(([alert, series]) => ({
        interval: '1m',
        input_series: Object.entries(series).map(([name, values]) => ({ series: name, values })),
        promql_expr_test: [
          { at: '9m', samples: 0 },
          { at: '55m', samples: 1 },
        ].map(({ at, samples }) => ({
          expr: `count(ALERTS{alertname="${alert}", alertstate="firing"})`,
          eval_time: at,
          exp_samples: samples ? [{ labels: '{}', value: 1 }] : [],
        })),
      })),
    }),
  );
  await expect(runFile('promtool', ['test', 'rules', file])).resolves.toMatchObject({ stderr: '' });
});

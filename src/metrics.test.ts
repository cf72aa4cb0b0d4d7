import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { createServer } from 'node:net';
import { Counter, exposition, Gauge, Histogram, metrics, MetricsServer } from './metrics.js';

function linesOf(name: string): string[] {
  return exposition()
    .split('\n')
    .filter((line) => line.replace(/^# (HELP|TYPE) /, '').startsWith(name));
}

describe('the text format', () => {
  test('a counter for each set of labels', () => {
    const counter = new Counter('test_drops_total', 'Drops');
    counter.add({ why: 'slow' });
    counter.add({ why: 'slow' }, 2);
    counter.add({ why: 'a "b"\\\n' });
    expect(linesOf('test_drops_total')).toEqual([
      '# HELP test_drops_total Drops',
      '# TYPE test_drops_total counter',
      'test_drops_total{why="slow"} 3',
      'test_drops_total{why="a \\"b\\"\\\\\\n"} 1',
    ]);
  });

  test('a gauge is evaluated at each scrape', () => {
    const gauge = new Gauge('test_pods', 'Pods');
    let pods = 1;
    gauge.collect(() => [{ labels: {}, value: pods++ }]);
    expect(linesOf('test_pods').at(-1)).toBe('test_pods 1');
    expect(linesOf('test_pods').at(-1)).toBe('test_pods 2');
  });

  test('a histogram counts each value in all buckets above it', () => {
    const histogram = new Histogram('test_seconds', 'Time', [0.1, 1]);
    for (const seconds of [0.05, 0.1, 0.5, 7]) histogram.observe({ method: 'Version' }, seconds);
    expect(linesOf('test_seconds')).toEqual([
      '# HELP test_seconds Time',
      '# TYPE test_seconds histogram',
      'test_seconds_bucket{method="Version",le="0.1"} 2',
      'test_seconds_bucket{method="Version",le="1"} 3',
      'test_seconds_bucket{method="Version",le="+Inf"} 4',
      'test_seconds_sum{method="Version"} 7.65',
      'test_seconds_count{method="Version"} 4',
    ]);
  });

  test('every line is a comment or "name{labels} number", and the process metrics are there', () => {
    metrics.calls.observe({ method: 'Version', code: 'OK' }, 0.001);
    for (const line of exposition().trimEnd().split('\n'))
      expect(line).toMatch(/^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{.*\})? [-+.e\d]+)$/);
    expect(Number(linesOf('process_resident_memory_bytes').at(-1)?.split(' ')[1])).toBeGreaterThan(1e6);
    expect(Number(linesOf('process_open_fds').at(-1)?.split(' ')[1])).toBeGreaterThan(2);
  });
});

describe('the server', () => {
  let ailment: string | undefined;
  let server: MetricsServer;
  let url: string;
  beforeEach(async () => {
    ailment = undefined;
    server = new MetricsServer({ address: '127.0.0.1', port: 0, ailment: () => ailment });
    url = `http://127.0.0.1:${await server.start()}`;
  });
  afterEach(() => server.close());

  test('serves the metrics', async () => {
    const response = await fetch(`${url}/metrics`);
    expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
    expect(await response.text()).toContain('# TYPE crisp_call_duration_seconds histogram');
  });

  test('serves the event loop delay since the last scrape', async () => {
    await new Promise((resolve) => setTimeout(resolve, 150)); // the first tick of the measurement has no value
    for (const end = performance.now() + 200; performance.now() < end;);
    await new Promise((resolve) => setTimeout(resolve, 150));
    const text = await (await fetch(`${url}/metrics`)).text();
    const longest = /^crisp_event_loop_delay_seconds\{quantile="1"\} (.*)$/m.exec(text)?.[1];
    expect(Number(longest)).toBeGreaterThan(0.1);
  });

  test('serves the health of the daemon', async () => {
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
    ailment = 'no handler is ready';
    const response = await fetch(`${url}/healthz`);
    expect([response.status, await response.text()]).toEqual([503, 'no handler is ready\n']);
  });

  test('serves nothing else', async () => {
    expect((await fetch(`${url}/debug`)).status).toBe(404);
    expect((await fetch(`${url}/metrics`, { method: 'POST' })).status).toBe(405);
  });

  test('a port in use is an error', async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port } = other.address() as { port: number };
    await expect(
      new MetricsServer({ address: '127.0.0.1', port, ailment: () => undefined }).start(),
    ).rejects.toMatchObject({
      id: 'InvalidConfigFile',
      message: expect.stringContaining('EADDRINUSE') as unknown,
    });
    await new Promise((resolve) => other.close(resolve));
  });
});

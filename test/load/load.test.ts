// A full node for a long time: pods that run, and clients beside them that make, use and
// remove pods. No call fails; files, memory and rules of iptables are at the end what
// they were after the warm-up; and the one thread of the daemon is never busy for long.
//
// Files and rules are compared at rest, without the pods of the clients, so that they
// count what is left and not what is under way. The memory is the median of a part of the
// run: with the collector of V8 it goes up and down by more than the growth that is looked
// for.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { randomInt } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Churn } from '../helpers/churn.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { makeLayout } from '../helpers/image.js';
import { natRulesOf } from '../helpers/leftovers.js';
import { freePort } from '../helpers/port.js';
import { startRegistry, type Registry } from '../helpers/registry.js';
import { containerConfig, runPod, startContainer, testImage, untilStopped } from '../helpers/requests.js';
import { writeReport, type Sample } from './report.js';

const pods = Number(process.env['LOAD_PODS'] ?? 200);
const minutes = Number(process.env['LOAD_MINUTES'] ?? 30);
const writesDocs = process.env['LOAD_WRITE_DOCS'] === '1';
const seed = randomInt(2 ** 31);
const clients = 4;
/** Of the time: the compilers of V8 and its heap need some of it. */
const warmUp = 0.3;
/** Of the time: the part before the end of the warm-up, and before the end, whose median memory is compared. */
const part = 0.2;
/** Long enough for a p99: the daemon measures the delay every 50 ms. */
const sampleMs = Math.max(10_000, minutes * 500);
/** For what the daemon does after the answer to a call. */
const restMs = 20_000;

const growthAtMost = 0.05;
const delayAtMostMs = 100;

let daemon: Daemon;
let registry: Registry;
let folder: string;
let pulled: string;
let port: number;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-load-'));
  registry = await startRegistry(join(folder, 'registry'));
  pulled = await registry.push(await makeLayout(folder, { layers: [{ file: 'content' }] }), 'load:1');
  port = await freePort();
  daemon = await startDaemon({ config: { log_level: 'info', metrics: { port } } });
  await daemon.addImage(testImage);
});
afterAll(
  async () => {
    await daemon?.destroy();
    await registry?.close();
    await rm(folder, { recursive: true, force: true });
  },
  pods * 3_000 + 60_000,
);

const started = performance.now();
const tell = (words: string): void =>
  void process.stderr.write(`load: ${Math.round((performance.now() - started) / 1000)} s: ${words}\n`);

async function sample(): Promise<Sample> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  const delay = /^crisp_event_loop_delay_seconds\{[^}]*"0\.99"[^}]*\} (\S+)/m.exec(text)?.[1];
  if (delay === undefined) throw new Error('there is no delay of the event loop in the metrics');
  const rollup = readFileSync(`/proc/${daemon.pid}/smaps_rollup`, 'utf8');
  return {
    minute: (performance.now() - started) / 60_000,
    files: readdirSync(`/proc/${daemon.pid}/fd`).length,
    memoryMiB: Number(/^Pss_Anon:\s+(\d+)/m.exec(rollup)?.[1]) / 1024, // the pages of the program are shared with jest
    rules: (await natRulesOf(daemon.network.bridge)).length,
    delayMs: Number(delay) * 1000,
  };
}

/** Churn until `atMinute`, and the samples meanwhile. */
async function churnUntil(atMinute: number, taken: Sample[]): Promise<Churn> {
  const churn = new Churn(daemon, pulled, seed);
  const all = Promise.all(churn.clients(clients));
  all.catch(() => undefined); // awaited below
  while (!churn.over && performance.now() - started < atMinute * 60_000) {
    await sleep(sampleMs);
    const now = await sample();
    taken.push(now);
    if (now.delayMs >= delayAtMostMs)
      tell(`the event loop was late by ${Math.round(now.delayMs)} ms; load of the machine ${loadavg()[0]}`);
  }
  churn.over = true;
  await all;
  return churn;
}

/** Without the pods of the clients; the memory is the median of the part of the run before. */
async function atRest(taken: readonly Sample[]): Promise<Sample> {
  const since = (performance.now() - started) / 60_000 - minutes * part;
  const memory = taken.filter(({ minute }) => minute > since).map(({ memoryMiB }) => memoryMiB);
  await sleep(restMs);
  return { ...(await sample()), memoryMiB: memory.sort((a, b) => a - b)[memory.length >> 1] ?? 0 };
}

test(
  `${pods} pods, and churn for ${minutes} minutes, with the seed ${seed}`,
  async () => {
    for (let made = 0; made < pods; made += 10) {
      const batch = Array.from({ length: Math.min(10, pods - made) }, async () =>
        startContainer(daemon, await runPod(daemon), containerConfig(untilStopped())),
      );
      await Promise.all(batch);
    }
    tell(`${pods} pods run`);
    const begun = (performance.now() - started) / 60_000;
    await sample(); // the delay is counted from here
    const taken: Sample[] = [];
    const warm = await churnUntil(begun + minutes * warmUp, taken);
    const before = await atRest(taken);
    tell(`warm: ${JSON.stringify({ ...before, ...warm.figures })}`);
    const churn = await churnUntil(begun + minutes, taken);
    const after = await atRest(taken);
    tell(`at the end: ${JSON.stringify({ ...after, ...churn.figures })}`);

    const figures = {
      calls: warm.figures.calls + churn.figures.calls,
      failed: warm.figures.cutOff + churn.figures.cutOff,
      delayMs: Math.max(...taken.map(({ delayMs }) => delayMs)),
    };
    const growth = Object.fromEntries(
      (['files', 'memoryMiB', 'rules'] as const).map((key) => [key, after[key] / before[key] - 1]),
    );
    tell(JSON.stringify({ ...figures, growth }));

    expect(figures.failed).toBe(0);
    const { containers } = await daemon.client.runtime.ListContainers({
      filter: { state: { state: 'CONTAINER_RUNNING' } },
    });
    expect(containers).toHaveLength(pods);
    expect(Object.entries(growth).filter(([, share]) => share >= growthAtMost)).toEqual([]);
    expect(figures.delayMs).toBeLessThan(delayAtMostMs);
    if (writesDocs) writeReport({ pods, minutes, ...figures, before, after, samples: taken });
  },
  (pods * 2 + minutes * 60 + 300) * 1_000,
);

// Full nodes: many pods at once, and the calls of a kubelet while many pods run.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { at, median, metricsPort, sleep } from './peers.mjs';
import { newClient, podDown, podUp } from './pods.mjs';
import { atOnce, counted, lasted, note } from './samples.mjs';

/** Rounds of work that is not done for each pod: mass starts, restarts. */
export const massRounds = 5;

/** PSS of a process in KiB (smaps_rollup of proc(5)). */
function pssOf(pid) {
  return Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
}

/** PSS, in KiB, of the daemon and of all its shims and monitors, without the pods' own processes. */
function pssOfAll(who) {
  const own = at(who.name.toLowerCase().replace(/[ -]/, ''));
  let sum = 0;
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      const name = readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
      const helper =
        (name === 'conmon' || name.startsWith('containerd-shim') || argv.startsWith('sleep\u000086400')) &&
        (argv.includes(`${own}-`) || argv.includes(`${own}.`) || argv.startsWith('sleep\u000086400'));
      if (Number(pid) !== who.pid && !helper) continue;
      sum += pssOf(pid);
    } catch {
      /* gone */
    }
  }
  return sum;
}

/** Pods up, ten at a time, with their network; for crisp also the event-loop delay meanwhile. */
export async function massStart(who, mass) {
  if (who.name === 'crisp') await loopDelay(); // begins a new measurement
  let pods;
  note(
    'many pods up, ten at a time',
    who.name,
    await lasted(async () => {
      pods = await atOnce(10, counted(mass), () => podUp(who, false));
    }),
  );
  if (who.name === 'crisp') note('event-loop delay at p99 meanwhile', who.name, await loopDelay());
  await atOnce(10, pods, (pod) => podDown(who, pod));
}

/** The gauge of the daemon, since the last time, in ms. */
async function loopDelay() {
  const text = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
  return 1_000 * Number(/^crisp_event_loop_delay_seconds\{quantile="0.99"\} (.*)$/m.exec(text)?.[1]);
}

/** The calls of a kubelet on a full node, on all peers in turns. */
export async function fullNode(peers, scale) {
  for (const who of peers) note('start to socket, no pods', who.name, await medianStart(who));
  const pods = new Map();
  await sleep(settleMs);
  for (const who of peers) note('daemon without pods, MiB', who.name, pssOfAll(who) / 1024);
  for (const who of peers) {
    const before = pssOfAll(who);
    pods.set(who, await atOnce(10, counted(scale), () => podUp(who, true)));
    await sleep(settleMs);
    note('each pod, MiB', who.name, (pssOfAll(who) - before) / 1024 / scale);
  }
  for (let round = -warmRounds; round < 50; round++)
    for (const [who, made] of pods) {
      const { pod, id } = made[(round + warmRounds) % made.length];
      for (const [method, request] of [
        ['ListContainers', {}],
        ['ListPodSandbox', {}],
        ['ContainerStatus', { container_id: id }],
        ['PodSandboxStatus', { pod_sandbox_id: pod }],
        ...(round % 10 === 0 ? [['ListContainerStats', {}]] : []),
      ]) {
        const ms = await lasted(() => who.call(method, request));
        if (round >= 0) note(`${method} of ${scale}`, who.name, ms);
      }
    }
  for (let round = 0; round < massRounds; round++)
    for (const [who, made] of pods) {
      const times = 64;
      const ms = await lasted(() =>
        atOnce(8, counted(times), (index) =>
          who.call('ExecSync', { container_id: made[index % made.length].id, cmd: ['true'], timeout: 10 }),
        ),
      );
      note('ExecSync, eight at a time, each', who.name, ms / times);
    }
  await relists(peers, scale);
  await twiceAsMany(peers[0], scale);
  for (const who of peers) note(`start to socket, ${scale} pods`, who.name, await medianStart(who));
  for (const [who, made] of pods) {
    if (who.name === 'crisp') await history(who, made[0], scale);
    await atOnce(10, made, (pod) => podDown(who, pod));
  }
}
/** The collectors of Node and Go give memory back when a daemon has been idle for some seconds. */
const settleMs = 30_000;

/** So many calls of each kind a kubelet makes in a few minutes; the compilers of V8 need some of them. */
const warmRounds = 400;

/** The CPU time of the daemon while two clients list everything each second, and while none calls. */
async function relists(peers, scale) {
  const callers = peers.flatMap((who) => [who, newClient(who)]);
  const seconds = 20;
  const measured = async (row, eachSecond) => {
    const before = peers.map(({ pid }) => cpuMs(pid));
    for (let second = 0; second < seconds; second++) {
      const next = sleep(1_000);
      await eachSecond(second);
      await next;
    }
    peers.forEach(({ name, pid }, index) => note(row, name, (cpuMs(pid) - before[index]) / seconds / 10));
  };
  await measured(`relists and stats of ${scale}, % of a core`, (second) =>
    Promise.all(
      callers.map(async ({ call }) => {
        await call('ListPodSandbox', {});
        await call('ListContainers', {});
        if (second % 10 === 0) await call('ListContainerStats', {});
      }),
    ),
  );
  await sleep(settleMs);
  await measured(`no calls, ${scale} pods, % of a core`, () => undefined);
}

/** The time of all threads of a process on a CPU, in ms (schedstat of the kernel's sched-stats.rst). */
function cpuMs(pid) {
  const threads = readdirSync(`/proc/${pid}/task`).map((thread) =>
    Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]),
  );
  return threads.reduce((sum, ns) => sum + ns) / 1e6;
}

/** The memory and the start of crisp's daemon with more pods, and the growth of its memory over their number again. */
async function twiceAsMany(crisp, scale) {
  const pods = await atOnce(10, counted(scale), () => podUp(crisp, true));
  const settled = async () => {
    await sleep(settleMs);
    return pssOf(crisp.pid) / 1024;
  };
  const before = await settled();
  note(`daemon with ${2 * scale} pods, MiB`, crisp.name, before);
  await atOnce(10, counted(2 * scale), async () => podDown(crisp, await podUp(crisp, true)));
  note(`daemon after ${2 * scale} more have gone, MiB`, crisp.name, await settled());
  note(`start to socket, ${2 * scale} pods`, crisp.name, await medianStart(crisp));
  await atOnce(10, pods, (pod) => podDown(crisp, pod));
}

/**
 * The lists of crisp with a thousand containers, most of them ended: copies of the records of one. The other
 * peers keep theirs in databases.
 */
async function history(who, { pod, id }, scale) {
  await who.call('StopPodSandbox', { pod_sandbox_id: pod });
  const record = (kind, name) => at('crisp-state', kind, `${name}.json`);
  const texts = [
    ['sandboxes', pod],
    ['containers', id],
  ].map(([kind, name]) => [kind, readFileSync(record(kind, name), 'utf8')]);
  const { name } = JSON.parse(texts[0][1]).config.metadata;
  for (const index of counted(historySize - scale)) {
    const [itsPod, itsId] = ['a', 'b'].map((digit) => digit + String(index).padStart(63, '0'));
    for (const [kind, text] of texts)
      writeFileSync(
        record(kind, kind === 'sandboxes' ? itsPod : itsId),
        text.replaceAll(pod, itsPod).replaceAll(id, itsId).replaceAll(name, `old-${index}`),
      );
  }
  note(`start to socket, ${historySize} containers`, who.name, await medianStart(who));
  for (let round = -10; round < 50; round++)
    for (const method of ['ListContainers', 'ListPodSandbox', 'ListContainerStats']) {
      const ms = await lasted(() => who.call(method, {}));
      if (round >= 0) note(`${method} of ${historySize}`, who.name, ms);
    }
}
export const historySize = 1_000;

async function medianStart(who) {
  const all = [];
  for (let round = 0; round < massRounds; round++) all.push(await who.restart());
  return median(all);
}

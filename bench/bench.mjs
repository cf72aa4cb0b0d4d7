// The benchmark: the same work in turns on crisp, on containerd with crun, and by
// bare commands.  Run by run.sh in a mount namespace of its own.
//
//   --rounds N      pods of each kind on each of them                (15)
//   --mass N        pods that are started at once, ten at a time     (30)
//   --scale N       running pods while lists and memory are measured (100)
//   --write-docs    writes the table and the plot of docs/performance.md
//   --containerd2 PATH, --crio PATH   newer versions, built from source
//   --peer-crun PATH                  the crun for those two         (/usr/bin/crun)
import * as grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import {
  at,
  conflist,
  image,
  makeArchives,
  median,
  metricsPort,
  run,
  sleep,
  startContainerd,
  startCrio,
  startCrisp,
} from './peers.mjs';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '15' },
    mass: { type: 'string', default: '30' },
    scale: { type: 'string', default: '100' },
    'write-docs': { type: 'boolean', default: false },
    containerd2: { type: 'string' },
    crio: { type: 'string' },
    'peer-crun': { type: 'string', default: '/usr/bin/crun' },
  },
});
const rounds = Number(values.rounds);
const mass = Number(values.mass);
const scale = Number(values.scale);
/** Rounds of work that is not done for each pod: mass starts, restarts. */
const massRounds = 3;
const runFile = promisify(execFile);
const samples = {}; // row -> peer -> [ms, or the unit of the row]
const note = (what, who, ms) => {
  ((samples[what] ??= {})[who] ??= []).push(ms);
};

/** Not from dist/, since the bundle has its own copy of gRPC. */
const definition = loadSync(new URL('../proto/runtime/v1/api.proto', import.meta.url).pathname, {
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  arrays: true,
  oneofs: true,
});

/** A peer and its client. */
function withCalls(peer) {
  const {
    runtime: { v1 },
  } = grpc.loadPackageDefinition(definition);
  const client = new v1.RuntimeService(`unix:${peer.socket}`, grpc.credentials.createInsecure(), {
    'grpc.default_authority': 'localhost',
  });
  return Object.assign(peer, {
    call: (method, request) =>
      new Promise((resolve, reject) => {
        client[method](request, { deadline: Date.now() + 60_000 }, (error, answer) =>
          error ? reject(new Error(`${method}: ${error.message}`)) : resolve(answer),
        );
      }),
  });
}

// ------------------------------------------------------------------ the work

let counter = 0;
const command = ['sh', '-c', 'trap "exit 0" TERM; sleep 86399 & wait'];
const security = (host) => ({
  namespace_options: { network: host ? 'NODE' : 'POD', pid: 'CONTAINER', ipc: 'POD' },
  seccomp: { profile_type: 'RuntimeDefault' },
});

async function podUp({ call }, host) {
  const name = `bench-${counter++}`;
  const config = {
    metadata: { name, uid: name, namespace: 'bench', attempt: 0 },
    hostname: host ? '' : name,
    log_directory: at('logs', name),
    linux: { cgroup_parent: '/crisp-bench', security_context: security(host) },
  };
  mkdirSync(at('logs', name), { recursive: true });
  const { pod_sandbox_id: pod } = await call('RunPodSandbox', { config });
  const { container_id: id } = await call('CreateContainer', {
    pod_sandbox_id: pod,
    sandbox_config: config,
    config: {
      metadata: { name: 'main', attempt: 0 },
      image: { image },
      command,
      log_path: 'main.log',
      linux: { security_context: security(host) },
    },
  });
  await call('StartContainer', { container_id: id });
  return { pod, id };
}

async function podDown({ call }, { pod, id }) {
  const stop = await lasted(() => call('StopContainer', { container_id: id, timeout: 10 }));
  await call('RemoveContainer', { container_id: id });
  const stopPod = await lasted(() => call('StopPodSandbox', { pod_sandbox_id: pod }));
  await call('RemovePodSandbox', { pod_sandbox_id: pod });
  return { stop, stopPod };
}

/** Runs `work` for each of them, several at a time. */
async function atOnce(width, items, work) {
  const left = [...items];
  const results = [];
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (let item = left.shift(); item !== undefined; item = left.shift()) results.push(await work(item));
    }),
  );
  return results;
}
const counted = (count) => Array.from({ length: count }, (_, index) => index);

/** @returns the duration in ms; a whole life is the sum of its parts, without the pauses between execs */
async function lasted(work) {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/**
 * A probe comes after a pause, and the kernel then delays it by a random time (see
 * expectCgroupMove in src/host/cgroup-move.ts): so there are several, each after a pause.
 */
async function execs(run) {
  const all = [];
  for (let index = 0; index < execsPerPod; index++) {
    await sleep(execPauseMs);
    all.push(await lasted(run));
  }
  return all;
}
const execsPerPod = 3;
const execPauseMs = 50;

function noteLife(who, host, { up, exec, down }) {
  note(host ? 'pod up, host network' : 'pod up, CNI', who, up);
  for (const ms of exec) note('ExecSync', who, ms);
  note(host ? 'whole life, host network' : 'whole life, CNI', who, up + exec[0] + down);
}

async function life(who, host, counted) {
  let made;
  const up = await lasted(async () => {
    made = await podUp(who, host);
  });
  const exec = await execs(() => who.call('ExecSync', { container_id: made.id, cmd: ['true'], timeout: 10 }));
  let stops;
  const down = await lasted(async () => {
    stops = await podDown(who, made);
  });
  if (!counted) return;
  noteLife(who.name, host, { up, exec, down });
  note('StopContainer', who.name, stops.stop);
  if (!host) note('StopPodSandbox, CNI', who.name, stops.stopPod);
}

/** The commands alone, one after the other, as a pod needs them. */
async function floorLife(host, counted) {
  const id = `floor-${counter++}`;
  const folder = at('floor', id);
  const pin = (name) => join(folder, name);
  const tool = (file, args, options = {}) => runFile(file, args, options);
  mkdirSync(join(folder, 'bundle', 'rootfs'), { recursive: true });
  for (const name of ['diff', 'work']) mkdirSync(pin(name));
  for (const name of ['net', 'ipc', 'uts']) writeFileSync(pin(name), '');
  writeFileSync(join(folder, 'bundle', 'config.json'), JSON.stringify(floorSpec(host, id, folder)));
  const start = performance.now();
  await tool(
    'unshare',
    host
      ? [`--ipc=${pin('ipc')}`, 'true']
      : [`--net=${pin('net')}`, `--ipc=${pin('ipc')}`, `--uts=${pin('uts')}`, 'hostname', id],
  );
  let result;
  if (!host)
    for (const plugin of conflist('floor').plugins) result = await cni('ADD', id, pin('net'), plugin, result);
  await tool('mount', [
    '-t',
    'overlay',
    'overlay',
    '-o',
    `lowerdir=${at('floor-rootfs')},upperdir=${pin('diff')},workdir=${pin('work')}`,
    join(folder, 'bundle', 'rootfs'),
  ]);
  await conmon(id, join(folder, 'bundle'));
  const crun = (...args) => tool('crun', [`--root=${at('floor-crun')}`, ...args]);
  await crun('start', id);
  const up = performance.now() - start;
  const exec = await execs(() => crun('exec', '--process', at('floor-process.json'), id));
  const downStart = performance.now();
  await crun('kill', id, 'KILL');
  while (!readdirSync(at('floor-exits')).includes(id)) await sleep(1);
  const stop = performance.now() - downStart;
  await crun('delete', id);
  await tool('umount', [join(folder, 'bundle', 'rootfs')]);
  if (!host)
    for (const plugin of conflist('floor').plugins.reverse())
      await cni('DEL', id, pin('net'), plugin, result);
  await tool('umount', host ? [pin('ipc')] : [pin('net'), pin('ipc'), pin('uts')]);
  if (counted) {
    noteLife('floor', host, { up, exec, down: performance.now() - downStart });
    note('StopContainer', 'floor', stop);
  }
  rmSync(folder, { recursive: true });
}

function cni(verb, id, netns, plugin, prevResult) {
  const child = spawn(`/usr/lib/cni/${plugin.type}`, {
    env: {
      PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
      CNI_COMMAND: verb,
      CNI_CONTAINERID: id,
      CNI_NETNS: netns,
      CNI_IFNAME: 'eth0',
      CNI_PATH: '/usr/lib/cni',
    },
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  child.stdin.end(
    JSON.stringify({ cniVersion: '1.0.0', name: 'floor', ...plugin, ...(prevResult ? { prevResult } : {}) }),
  );
  return new Promise((resolve, reject) => {
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    child.once('close', (code) =>
      code === 0
        ? resolve(output ? JSON.parse(output) : prevResult)
        : reject(new Error(`${plugin.type} ${verb}: ${output}`)),
    );
  });
}

function conmon(id, bundle) {
  const child = spawn(
    'conmon',
    [
      '--cid',
      id,
      '--cuuid',
      id,
      '--name',
      id,
      '--runtime',
      '/usr/bin/crun',
      '--runtime-arg',
      `--root=${at('floor-crun')}`,
      '--bundle',
      bundle,
      '--persist-dir',
      bundle,
      '--container-pidfile',
      join(bundle, 'pid'),
      '--exit-dir',
      at('floor-exits'),
      '--log-path',
      `k8s-file:${bundle}/log`,
      '--full-attach',
      '--no-sync-log',
    ],
    { env: { PATH: process.env.PATH, _OCI_SYNCPIPE: '3' }, stdio: ['ignore', 'ignore', 'ignore', 'pipe'] },
  );
  return new Promise((resolve, reject) => {
    child.stdio[3].once('data', (line) => {
      child.stdio[3].destroy();
      if (JSON.parse(line).pid > 0) resolve();
      else reject(new Error(String(line)));
    });
  });
}

/** The same container as crisp's, without the pod's files: so the bare commands do the same work. */
function floorSpec(host, id, folder) {
  return {
    ...pattern,
    root: { path: 'rootfs' },
    mounts: pattern.mounts.filter(({ type }) => type !== 'bind'),
    linux: {
      ...pattern.linux,
      cgroupsPath: `/crisp-bench/${id}`,
      namespaces: [
        { type: 'pid' },
        { type: 'mount' },
        { type: 'ipc', path: join(folder, 'ipc') },
        ...(host
          ? []
          : [
              { type: 'network', path: join(folder, 'net') },
              { type: 'uts', path: join(folder, 'uts') },
            ]),
      ],
    },
  };
}
let pattern;
async function takePattern(crisp) {
  const made = await podUp(crisp, false);
  pattern = JSON.parse(readFileSync(at('crisp-state', 'bundles', made.id, 'config.json'), 'utf8'));
  await podDown(crisp, made);
  writeFileSync(
    at('floor-process.json'),
    JSON.stringify({ ...pattern.process, args: ['true'], terminal: false }),
  );
}

// ------------------------------------------------------------------ memory

/**
 * PSS (KiB, smaps_rollup of proc(5)) of the daemon's tree and of all shims and monitors, without the pods'
 * own processes.
 */
function pssOf(who) {
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
      sum += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
    } catch {
      /* gone */
    }
  }
  return sum;
}

// ------------------------------------------------------- many pods at once

/** Pods up, ten at a time, with their network; for crisp also the event-loop delay meanwhile. */
async function massStart(who) {
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
async function fullNode(peers) {
  for (const who of peers) note('start to socket, no pods', who.name, await medianStart(who));
  const pods = new Map();
  await sleep(2_000);
  for (const who of peers) note('daemon without pods, MiB', who.name, pssOf(who) / 1024);
  for (const who of peers) {
    const before = pssOf(who);
    pods.set(who, await atOnce(10, counted(scale), () => podUp(who, true)));
    await sleep(5_000);
    note('each pod, MiB', who.name, (pssOf(who) - before) / 1024 / scale);
  }
  for (let round = -5; round < 50; round++)
    for (const [who, made] of pods) {
      const { pod, id } = made[(round + 5) % made.length];
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
  for (const who of peers) note(`start to socket, ${scale} pods`, who.name, await medianStart(who));
  for (const [who, made] of pods) await atOnce(10, made, (pod) => podDown(who, pod));
}

async function medianStart(who) {
  const all = [];
  for (let round = 0; round < massRounds; round++) all.push(await who.restart());
  return median(all);
}

// ------------------------------------------------------------------ the run

/**
 * The targets: row, compared with (undefined: the value itself), maximum. docs/performance.md explains them.
 */
const bars = [
  ['pod up, CNI', 'floor', 1],
  ['pod up, host network', 'floor', 1],
  ['ExecSync', 'floor', 1.25],
  ['StopContainer', 'floor', 1.5],
  ['whole life, CNI', 'floor', 1],
  ['pod up, CNI', 'containerd', 0.5],
  ['pod up, host network', 'containerd', 0.35],
  ['ExecSync', 'containerd', 0.5],
  ['whole life, CNI', 'containerd', 0.5],
  ['many pods up, ten at a time', 'containerd', 0.5],
  ['ExecSync, eight at a time, each', 'containerd', 0.5],
  [`ListContainers of ${scale}`, 'containerd', 1],
  [`ListPodSandbox of ${scale}`, 'containerd', 1],
  [`ContainerStatus of ${scale}`, 'containerd', 1],
  [`PodSandboxStatus of ${scale}`, 'containerd', 1],
  [`ListContainerStats of ${scale}`, 'containerd', 0.1],
  ['pod up, CNI', 'CRI-O', 0.6],
  ['pod up, host network', 'CRI-O', 0.6],
  ['ExecSync', 'CRI-O', 0.6],
  ['many pods up, ten at a time', 'CRI-O', 0.6],
  ['event-loop delay at p99 meanwhile', undefined, 20],
  ['daemon without pods, MiB', undefined, 55],
  ['each pod, MiB', undefined, 0.45],
  ['start to socket, no pods', undefined, 800],
];

async function main() {
  for (const name of ['floor-exits', 'floor-rootfs']) mkdirSync(at(name));
  makeArchives();
  cpSync('/bin/busybox', at('floor-rootfs', 'bin', 'busybox'), { recursive: true });
  for (const name of ['sh', 'sleep', 'true'])
    execFileSync('ln', ['-s', 'busybox', at('floor-rootfs', 'bin', name)]);
  for (const name of ['proc', 'dev', 'sys']) mkdirSync(at('floor-rootfs', name));
  const crisp = withCalls(await startCrisp());
  const peers = [crisp, withCalls(await startContainerd())];
  if (values.containerd2)
    peers.push(withCalls(await startContainerd('containerd 2', values.containerd2, values['peer-crun'])));
  if (values.crio) peers.push(withCalls(await startCrio(values.crio, values['peer-crun'])));
  await takePattern(crisp);
  console.log(
    `${rounds} rounds, each on ${peers.map(({ name }) => name).join(', ')} and the floor in turns; ` +
      `${mass} pods at once; ${scale} pods for lists and memory`,
  );
  for (let round = -2; round < rounds; round++) {
    for (const host of [false, true]) {
      for (const who of peers) await life(who, host, round >= 0);
      await floorLife(host, round >= 0);
    }
  }
  for (let round = 0; round < massRounds; round++) for (const who of peers) await massStart(who);
  await fullNode(peers);
  const table = tableOf([...peers.map(({ name }) => name), 'floor']);
  console.log(`\n${table}\n`);
  const judged = bars.flatMap(([what, against, most]) => {
    const mine = median(samples[what]?.crisp ?? []);
    const theirs = against === undefined ? 1 : median(samples[what]?.[against] ?? []);
    if (mine === undefined || theirs === undefined) return [];
    const words = against === undefined ? what : `${what}, against ${against}`;
    return [{ words, value: mine / theirs, most, isMet: mine / theirs <= most }];
  });
  for (const { words, value, most, isMet } of judged)
    console.log(`${isMet ? 'met   ' : 'MISSED'} ${words}: ${value.toFixed(2)} (at most ${most})`);
  if (values['write-docs']) writeDocs(table, judged);
  return judged.every(({ isMet }) => isMet);
}

/** Medians, and the ratios of crisp to the others. As Markdown in the format of prettier. */
function tableOf(names) {
  const others = names.filter((name) => name !== 'crisp');
  const rows = Object.entries(samples).map(([what, by]) => {
    const values = names.map((name) => median(by[name] ?? []));
    const shares = others.map((name) => ratio(values[0], median(by[name] ?? [])));
    return [what, ...values.map((value) => value?.toFixed(value < 10 ? 2 : 0) ?? ''), ...shares];
  });
  const head = ['p50, in ms unless stated otherwise', ...names, ...others.map((name) => `crisp / ${name}`)];
  const widths = head.map((word, column) => Math.max(word.length, ...rows.map((row) => row[column].length)));
  const line = (cells) =>
    `| ${cells.map((cell, index) => (index ? cell.padStart(widths[index]) : cell.padEnd(widths[index]))).join(' | ')} |`;
  const rule = `| ${widths.map((width, index) => (index ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width))).join(' | ')} |`;
  return [line(head), rule, ...rows.map(line)].join('\n');
}

function ratio(mine, theirs) {
  return mine === undefined || theirs === undefined ? '' : (mine / theirs).toFixed(2);
}

/** The part of docs/performance.md between its two marks, and the plot beside it. */
function writeDocs(table, judged) {
  const [page, plot] = ['performance.md', 'performance.svg'].map(
    (name) => new URL(`../docs/${name}`, import.meta.url).pathname,
  );
  const [begin, end] = ['<!-- bench: begin -->', '<!-- bench: end -->'];
  const text = readFileSync(page, 'utf8');
  const bar = ({ words, value, most, isMet }) =>
    `- ${isMet ? 'met' : 'missed'}: ${words}: ${value.toFixed(2)}, at most ${most}`;
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const block = [
    begin,
    `\nOne run of ${rounds} rounds on commit ${commit}, Node ${process.versions.node}, ${cpus().length} cores.\n`,
    table,
    '\n![crisp against containerd and the bare commands](performance.svg)\n',
    ...judged.map(bar),
    `\n${end}`,
  ].join('\n');
  writeFileSync(
    page,
    text.slice(0, text.indexOf(begin)) + block + text.slice(text.indexOf(end) + end.length),
  );
  writeFileSync(plot, plotOf());
}

/** The ratio of crisp to containerd in each row, as bars; the line is containerd. */
function plotOf() {
  const rows = Object.entries(samples).flatMap(([what, { crisp, containerd }]) =>
    crisp && containerd ? [[what, median(crisp) / median(containerd)]] : [],
  );
  const [left, width, height] = [260, 360, 22];
  const x = (share) => left + Math.min(share, 1.5) * (width / 1.5);
  const drawn = rows.map(([what, share], index) => {
    const y = index * height + 8;
    return [
      `<text x="${left - 8}" y="${y + 12}" text-anchor="end">${what}</text>`,
      `<rect x="${left}" y="${y}" width="${(x(share) - left).toFixed(1)}" height="14" fill="${share <= 1 ? '#4a7' : '#c54'}"/>`,
      `<text x="${(x(share) + 4).toFixed(1)}" y="${y + 12}">${share.toFixed(2)}</text>`,
    ].join('\n');
  });
  const bottom = rows.length * height + 12;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${left + width + 60} ${bottom + 20}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
${drawn.join('\n')}
<line x1="${x(1)}" y1="0" x2="${x(1)}" y2="${bottom}" stroke="black"/>
<text x="${x(1)}" y="${bottom + 14}" text-anchor="middle">containerd = 1</text>
</svg>
`;
}

await run(main);

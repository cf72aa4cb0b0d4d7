// The benchmark: the same work on crisp, on containerd with crun, and by bare
// commands, in turns.  Run by run.sh in a mount namespace of its own.
//
//   --rounds N   pods of each kind on each of the three   (15)
//   --pods N     pods that stand while memory is measured (20)
import * as grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import {
  at,
  conflist,
  image,
  makeArchives,
  median,
  run,
  sleep,
  startContainerd,
  startCrisp,
} from './peers.mjs';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '15' }, pods: { type: 'string', default: '20' } },
});
const rounds = Number(values.rounds);
const memoryPods = Number(values.pods);
const runFile = promisify(execFile);
const samples = {}; // what -> who -> [ms]
const note = (what, who, ms) => {
  ((samples[what] ??= {})[who] ??= []).push(ms);
};

/** Not from dist/, whose bundle has a gRPC of its own. */
const definition = loadSync(new URL('../proto/runtime/v1/api.proto', import.meta.url).pathname, {
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  arrays: true,
  oneofs: true,
});

/** A peer, and how it is called. */
function withCalls(peer) {
  const {
    runtime: { v1 },
  } = grpc.loadPackageDefinition(definition);
  const client = new v1.RuntimeService(`unix:${peer.socket}`, grpc.credentials.createInsecure(), {
    'grpc.default_authority': 'localhost',
  });
  return {
    ...peer,
    call: (method, request) =>
      new Promise((resolve, reject) => {
        client[method](request, { deadline: Date.now() + 60_000 }, (error, answer) =>
          error ? reject(new Error(`${method}: ${error.message}`)) : resolve(answer),
        );
      }),
  };
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
  await call('StopContainer', { container_id: id, timeout: 10 });
  await call('RemoveContainer', { container_id: id });
  await call('StopPodSandbox', { pod_sandbox_id: pod });
  await call('RemovePodSandbox', { pod_sandbox_id: pod });
}

/** @returns how long it took, in ms; a whole life is the sum of its parts, without the pauses between execs */
async function lasted(work) {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/**
 * A probe comes after a pause, and the kernel then lets it wait a random while
 * (expectCgroupMove in src/host/cgroup-move.ts tells why): so there are some, each after one.
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
  const down = await lasted(() => podDown(who, made));
  if (counted) noteLife(who.name, host, { up, exec, down });
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
  await crun('delete', id);
  await tool('umount', [join(folder, 'bundle', 'rootfs')]);
  if (!host)
    for (const plugin of conflist('floor').plugins.reverse())
      await cni('DEL', id, pin('net'), plugin, result);
  await tool('umount', host ? [pin('ipc')] : [pin('net'), pin('ipc'), pin('uts')]);
  if (counted) noteLife('floor', host, { up, exec, down: performance.now() - downStart });
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

/** The very container that crisp makes, less the pod's files: the bare commands have the same to do. */
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

/** PSS (KiB, smaps_rollup of proc(5)) of the daemon's tree and of all shims and monitors, less the pods' own processes. */
function pssOf(who) {
  let sum = 0;
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      const name = readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
      const helper =
        (name === 'conmon' || name.startsWith('containerd-shim') || argv.startsWith('sleep\u000086400')) &&
        (argv.includes(at(who.name)) || argv.startsWith('sleep\u000086400'));
      if (Number(pid) !== who.pid && !helper) continue;
      sum += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
    } catch {
      /* gone */
    }
  }
  return sum;
}

async function memoryOf(who) {
  const before = pssOf(who);
  const pods = [];
  for (let i = 0; i < memoryPods; i++) pods.push(await podUp(who, false));
  await sleep(2_000);
  const perPod = (pssOf(who) - before) / 1024 / memoryPods;
  for (const pod of pods) await podDown(who, pod);
  return { daemonMiB: before / 1024, perPod };
}

// ------------------------------------------------------------------ the run

async function main() {
  for (const name of ['floor-exits', 'floor-rootfs']) mkdirSync(at(name));
  makeArchives();
  cpSync('/bin/busybox', at('floor-rootfs', 'bin', 'busybox'), { recursive: true });
  for (const name of ['sh', 'sleep', 'true'])
    execFileSync('ln', ['-s', 'busybox', at('floor-rootfs', 'bin', name)]);
  for (const name of ['proc', 'dev', 'sys']) mkdirSync(at('floor-rootfs', name));
  const [crisp, containerd] = [withCalls(await startCrisp()), withCalls(await startContainerd())];
  const all = [crisp, containerd];
  await takePattern(crisp);
  console.log(
    `${rounds} rounds, each on crisp, containerd (crun) and the floor in turns; then ${memoryPods} pods for memory`,
  );
  for (let round = -2; round < rounds; round++) {
    for (const host of [false, true]) {
      for (const who of all) await life(who, host, round >= 0);
      await floorLife(host, round >= 0);
    }
  }
  report();
  const memory = { crisp: await memoryOf(crisp), containerd: await memoryOf(containerd) };
  for (const [name, { daemonMiB, perPod }] of Object.entries(memory))
    console.log(
      `${name.padEnd(12)} daemon ${daemonMiB.toFixed(1)} MiB, each pod ${perPod.toFixed(2)} MiB (PSS)`,
    );
  const {
    crisp: mine,
    containerd: theirs,
    floor,
  } = Object.fromEntries(
    ['crisp', 'containerd', 'floor'].map((who) => [who, (what) => median(samples[what][who])]),
  );
  const bars = [
    ['pod up, CNI, against containerd', mine('pod up, CNI') / theirs('pod up, CNI'), 0.75],
    ['pod up, CNI, against the floor', mine('pod up, CNI') / floor('pod up, CNI'), 1.5],
    ['ExecSync, against containerd', mine('ExecSync') / theirs('ExecSync'), 0.75],
    ['MiB per pod', memory.crisp.perPod, 0.7],
  ];
  console.log('');
  for (const [what, value, bar] of bars)
    console.log(`${value <= bar ? 'met   ' : 'MISSED'} ${what}: ${value.toFixed(2)} (at most ${bar})`);
  return bars.every(([, value, bar]) => value <= bar);
}

function report() {
  console.log(
    `\n${'p50, ms'.padEnd(28)}${['crisp', 'containerd', 'floor', '/containerd', '/floor'].map((head) => head.padStart(12)).join('')}`,
  );
  for (const [what, by] of Object.entries(samples)) {
    const [crisp, containerd, floor] = ['crisp', 'containerd', 'floor'].map((who) => median(by[who]));
    console.log(
      what.padEnd(28) +
        [
          crisp.toFixed(1),
          containerd.toFixed(1),
          floor.toFixed(1),
          (crisp / containerd).toFixed(2),
          (crisp / floor).toFixed(2),
        ]
          .map((cell) => cell.padStart(12))
          .join(''),
    );
  }
  console.log('');
}

await run(main);

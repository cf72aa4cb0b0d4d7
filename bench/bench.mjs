// The benchmark: the same work on crisp, on containerd with crun, and by bare
// commands, in turns.  Run by run.sh in a mount namespace of its own.
//
//   --rounds N   pods of each kind on each of the three   (15)
//   --pods N     pods that stand while memory is measured (20)
import * as grpc from '@grpc/grpc-js';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { makeArchive } from '../deploy/busybox-archive.mjs';
import { loadProto } from '../dist/cri/proto.js';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '15' }, pods: { type: 'string', default: '20' } } });
const rounds = Number(values.rounds);
const memoryPods = Number(values.pods);
const image = 'localhost/bench/busybox:1';
const pause = 'localhost/bench/pause:1';
const root = mkdtempSync(join(tmpdir(), 'crisp-bench-'));
const at = (...parts) => join(root, ...parts);
const runFile = promisify(execFile);
const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
const samples = {}; // what -> who -> [ms]
const note = (what, who, ms) => { ((samples[what] ??= {})[who] ??= []).push(ms); };
const median = (list) => [...list].sort((one, other) => one - other)[Math.floor(list.length / 2)];
const children = [];

// ------------------------------------------------------------------ the three

const bridges = { crisp: 'bench-crisp0', containerd: 'bench-contd0', floor: 'bench-floor0' };

function conflist(name) {
  return {
    cniVersion: '1.0.0', name, plugins: [
      { type: 'bridge', bridge: bridges[name], isGateway: true, ipMasq: true, ipam: { type: 'host-local', dataDir: at('leases', name), ranges: [[{ subnet: { crisp: '10.214.0.0/24', containerd: '10.214.1.0/24', floor: '10.214.2.0/24' }[name] }]], routes: [{ dst: '0.0.0.0/0' }] } },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}

async function start(name, argv, ready) {
  const child = spawn(argv[0], argv.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
  children.push(child);
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => { log += chunk; });
  for (let waited = 0; !log.includes(ready); waited += 50) {
    if (child.exitCode !== null || waited > 60_000) throw new Error(`${name} did not start:\n${log.slice(-2000)}`);
    await sleep(50);
  }
  return child;
}

function connect(socket) {
  const { runtime: { v1 } } = loadProto();
  const client = new v1.RuntimeService(`unix:${socket}`, grpc.credentials.createInsecure(), { 'grpc.default_authority': 'localhost' });
  return (method, request) => new Promise((resolve, reject) => {
    client[method](request, { deadline: Date.now() + 60_000 }, (error, answer) => (error ? reject(new Error(`${method}: ${error.message}`)) : resolve(answer)));
  });
}

async function startCrisp() {
  writeFileSync(at('cni-crisp', '10.conflist'), JSON.stringify(conflist('crisp')));
  writeFileSync(at('crisp.yaml'), JSON.stringify({
    listen: `unix://${at('crisp.sock')}`, root: at('crisp-root'), state: at('crisp-state'), network: { conf_dir: at('cni-crisp') }, images: { preload_dir: at('archives') },
  }));
  const child = await start('crisp', ['bin/crisp', 'serve', '--config', at('crisp.yaml')], 'crisp is ready');
  return { name: 'crisp', pid: child.pid, call: connect(at('crisp.sock')) };
}

async function startContainerd() {
  writeFileSync(at('cni-containerd', '10.conflist'), JSON.stringify(conflist('containerd')));
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  writeFileSync(at('containerd.toml'), `version = 2
root = "${at('containerd-root')}"
state = "${at('containerd-state')}"
[grpc]
address = "${at('containerd.sock')}"
[${cri}]
sandbox_image = "${pause}"
restrict_oom_score_adj = true
[${cri}.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "${at('cni-containerd')}"
[${cri}.containerd]
default_runtime_name = "crun"
[${cri}.containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
[${cri}.containerd.runtimes.crun.options]
BinaryName = "/usr/bin/crun"
`);
  const child = await start('containerd', ['containerd', '--config', at('containerd.toml')], 'containerd successfully booted');
  for (const file of ['busybox.tar', 'pause.tar']) execFileSync('ctr', ['-a', at('containerd.sock'), '-n', 'k8s.io', 'images', 'import', at('archives', file)], { stdio: 'ignore' });
  return { name: 'containerd', pid: child.pid, call: connect(at('containerd.sock')) };
}

// ------------------------------------------------------------------ the work

let counter = 0;
const command = ['sh', '-c', 'trap "exit 0" TERM; sleep 86399 & wait'];
const security = (host) => ({ namespace_options: { network: host ? 'NODE' : 'POD', pid: 'CONTAINER', ipc: 'POD' }, seccomp: { profile_type: 'RuntimeDefault' } });

async function podUp({ call }, host) {
  const name = `bench-${counter++}`;
  const config = { metadata: { name, uid: name, namespace: 'bench', attempt: 0 }, hostname: host ? '' : name, log_directory: at('logs', name), linux: { cgroup_parent: '/crisp-bench', security_context: security(host) } };
  mkdirSync(at('logs', name), { recursive: true });
  const { pod_sandbox_id: pod } = await call('RunPodSandbox', { config });
  const { container_id: id } = await call('CreateContainer', { pod_sandbox_id: pod, sandbox_config: config, config: { metadata: { name: 'main', attempt: 0 }, image: { image }, command, log_path: 'main.log', linux: { security_context: security(host) } } });
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
  const up = await lasted(async () => { made = await podUp(who, host); });
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
  await tool('unshare', host ? [`--ipc=${pin('ipc')}`, 'true'] : [`--net=${pin('net')}`, `--ipc=${pin('ipc')}`, `--uts=${pin('uts')}`, 'hostname', id]);
  let result;
  if (!host) for (const plugin of conflist('floor').plugins) result = await cni('ADD', id, pin('net'), plugin, result);
  await tool('mount', ['-t', 'overlay', 'overlay', '-o', `lowerdir=${at('floor-rootfs')},upperdir=${pin('diff')},workdir=${pin('work')}`, join(folder, 'bundle', 'rootfs')]);
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
  if (!host) for (const plugin of conflist('floor').plugins.reverse()) await cni('DEL', id, pin('net'), plugin, result);
  await tool('umount', host ? [pin('ipc')] : [pin('net'), pin('ipc'), pin('uts')]);
  if (counted) noteLife('floor', host, { up, exec, down: performance.now() - downStart });
  rmSync(folder, { recursive: true });
}

function cni(verb, id, netns, plugin, prevResult) {
  const child = spawn(`/usr/lib/cni/${plugin.type}`, { env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', CNI_COMMAND: verb, CNI_CONTAINERID: id, CNI_NETNS: netns, CNI_IFNAME: 'eth0', CNI_PATH: '/usr/lib/cni' }, stdio: ['pipe', 'pipe', 'ignore'] });
  child.stdin.end(JSON.stringify({ cniVersion: '1.0.0', name: 'floor', ...plugin, ...(prevResult ? { prevResult } : {}) }));
  return new Promise((resolve, reject) => {
    let output = '';
    child.stdout.on('data', (chunk) => { output += chunk; });
    child.once('close', (code) => (code === 0 ? resolve(output ? JSON.parse(output) : prevResult) : reject(new Error(`${plugin.type} ${verb}: ${output}`))));
  });
}

function conmon(id, bundle) {
  const child = spawn('conmon', ['--cid', id, '--cuuid', id, '--name', id, '--runtime', '/usr/bin/crun', '--runtime-arg', `--root=${at('floor-crun')}`, '--bundle', bundle, '--persist-dir', bundle, '--container-pidfile', join(bundle, 'pid'), '--exit-dir', at('floor-exits'), '--log-path', `k8s-file:${bundle}/log`, '--full-attach', '--no-sync-log'], { env: { PATH: process.env.PATH, _OCI_SYNCPIPE: '3' }, stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
  return new Promise((resolve, reject) => {
    child.stdio[3].once('data', (line) => { child.stdio[3].destroy(); if (JSON.parse(line).pid > 0) resolve(); else reject(new Error(String(line))); });
  });
}

/** The very container that crisp makes, less the pod's files: the bare commands have the same to do. */
function floorSpec(host, id, folder) {
  return {
    ...pattern, root: { path: 'rootfs' }, mounts: pattern.mounts.filter(({ type }) => type !== 'bind'),
    linux: { ...pattern.linux, cgroupsPath: `/crisp-bench/${id}`, namespaces: [{ type: 'pid' }, { type: 'mount' }, { type: 'ipc', path: join(folder, 'ipc') }, ...(host ? [] : [{ type: 'network', path: join(folder, 'net') }, { type: 'uts', path: join(folder, 'uts') }])] },
  };
}
let pattern;
async function takePattern(crisp) {
  const made = await podUp(crisp, false);
  pattern = JSON.parse(readFileSync(at('crisp-state', 'bundles', made.id, 'config.json'), 'utf8'));
  await podDown(crisp, made);
  writeFileSync(at('floor-process.json'), JSON.stringify({ ...pattern.process, args: ['true'], terminal: false }));
}

// ------------------------------------------------------------------ memory

/** PSS (KiB, smaps_rollup of proc(5)) of the daemon's tree and of all shims and monitors, less the pods' own processes. */
function pssOf(who) {
  let sum = 0;
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      const name = readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
      const helper = (name === 'conmon' || name.startsWith('containerd-shim') || argv.startsWith('sleep\u000086400')) && (argv.includes(at(who.name)) || argv.startsWith('sleep\u000086400'));
      if (Number(pid) !== who.pid && !helper) continue;
      sum += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
    } catch { /* gone */ }
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
  for (const name of ['archives', 'cni-crisp', 'cni-containerd', 'floor-exits', 'floor-rootfs', 'crisp-state']) mkdirSync(at(name), { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=0711', 'tmpfs', at('crisp-state')]);
  makeArchive(at('archives', 'busybox.tar'), image, ['sh']);
  makeArchive(at('archives', 'pause.tar'), pause, ['sleep', '86400']);
  cpSync('/bin/busybox', at('floor-rootfs', 'bin', 'busybox'), { recursive: true });
  for (const name of ['sh', 'sleep', 'true']) execFileSync('ln', ['-s', 'busybox', at('floor-rootfs', 'bin', name)]);
  for (const name of ['proc', 'dev', 'sys']) mkdirSync(at('floor-rootfs', name));
  const crisp = await startCrisp();
  const containerd = await startContainerd();
  const all = [crisp, containerd];
  await takePattern(crisp);
  console.log(`${rounds} rounds, each on crisp, containerd (crun) and the floor in turns; then ${memoryPods} pods for memory`);
  for (let round = -2; round < rounds; round++) {
    for (const host of [false, true]) {
      for (const who of all) await life(who, host, round >= 0);
      await floorLife(host, round >= 0);
    }
  }
  report();
  const memory = { crisp: await memoryOf(crisp), containerd: await memoryOf(containerd) };
  for (const [name, { daemonMiB, perPod }] of Object.entries(memory)) console.log(`${name.padEnd(12)} daemon ${daemonMiB.toFixed(1)} MiB, each pod ${perPod.toFixed(2)} MiB (PSS)`);
  const { crisp: mine, containerd: theirs, floor } = Object.fromEntries(['crisp', 'containerd', 'floor'].map((who) => [who, (what) => median(samples[what][who])]));
  const bars = [
    ['pod up, CNI, against containerd', mine('pod up, CNI') / theirs('pod up, CNI'), 0.75], ['pod up, CNI, against the floor', mine('pod up, CNI') / floor('pod up, CNI'), 1.5],
    ['ExecSync, against containerd', mine('ExecSync') / theirs('ExecSync'), 0.75], ['MiB per pod', memory.crisp.perPod, 0.7],
  ];
  console.log('');
  for (const [what, value, bar] of bars) console.log(`${value <= bar ? 'met   ' : 'MISSED'} ${what}: ${value.toFixed(2)} (at most ${bar})`);
  return bars.every(([, value, bar]) => value <= bar);
}

function report() {
  console.log(`\n${'p50, ms'.padEnd(28)}${['crisp', 'containerd', 'floor', '/containerd', '/floor'].map((head) => head.padStart(12)).join('')}`);
  for (const [what, by] of Object.entries(samples)) {
    const [crisp, containerd, floor] = ['crisp', 'containerd', 'floor'].map((who) => median(by[who]));
    console.log(what.padEnd(28) + [crisp.toFixed(1), containerd.toFixed(1), floor.toFixed(1), (crisp / containerd).toFixed(2), (crisp / floor).toFixed(2)].map((cell) => cell.padStart(12)).join(''));
  }
  console.log('');
}

async function cleanUp() {
  for (const child of children) {
    if (child.exitCode !== null) continue;
    child.kill('SIGTERM');
    await Promise.race([new Promise((resolve) => { child.once('exit', resolve); }), sleep(10_000)]);
  }
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try { if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(root)) process.kill(Number(pid), 'SIGKILL'); } catch { /* gone, or ourselves */ }
  }
  const targets = readFileSync('/proc/self/mountinfo', 'utf8').split('\n').map((line) => line.split(' ')[4]).filter((target) => target?.startsWith(root)).reverse();
  for (const target of targets) try { execFileSync('umount', ['--lazy', target], { stdio: 'ignore' }); } catch { /* gone with its parent */ }
  for (const bridge of Object.values(bridges)) try { execFileSync('ip', ['link', 'delete', bridge], { stdio: 'ignore' }); } catch { /* was never made */ }
  rmSync(root, { recursive: true, force: true });
}

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => void cleanUp().then(() => process.exit(130)));
let ok = false;
try { ok = await main(); } catch (error) { console.error(`bench failed: ${error.message}`); }
await cleanUp();
process.exit(ok ? 0 : 1);

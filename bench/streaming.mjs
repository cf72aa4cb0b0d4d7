// The speed of exec and port-forward, on crisp and on containerd with crun in
// turns: 100 MB in, out, and both at once, through the real crictl.  Run by
// run.sh (npm run bench -- streaming) in a mount namespace of its own.
//
//   --rounds N   transfers of each kind on each of the two   (5)
//
// Debian's containerd speaks SPDY alone, so WebSocket is held against its SPDY.
import { execFile, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { makeArchive } from '../deploy/busybox-archive.mjs';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '5' } } });
const rounds = Number(values.rounds);
const bytes = 100_000_000;
const image = 'localhost/bench/busybox:1';
const pause = 'localhost/bench/pause:1';
const root = mkdtempSync(join(tmpdir(), 'crisp-bench-'));
const at = (...parts) => join(root, ...parts);
const runFile = promisify(execFile);
const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
const crictl = process.env.CRICTL ?? 'crictl';
const bridges = { crisp: 'bench-crisp0', containerd: 'bench-contd0' };
const children = [];
const pods = [];
const samples = {}; // what -> who -> [ms]

// -------------------------------------------------------------------- the two

function writeConflist(name) {
  const subnet = { crisp: '10.214.0.0/24', containerd: '10.214.1.0/24' }[name];
  mkdirSync(at('cni', name), { recursive: true });
  writeFileSync(at('cni', name, '10.conflist'), JSON.stringify({
    cniVersion: '1.0.0', name, plugins: [{ type: 'bridge', bridge: bridges[name], isGateway: true, ipam: { type: 'host-local', dataDir: at('leases', name), ranges: [[{ subnet }]] } }],
  }));
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
}

async function startCrisp() {
  writeConflist('crisp');
  mkdirSync(at('crisp'));
  writeFileSync(at('crisp.yaml'), JSON.stringify({
    listen: `unix://${at('crisp.sock')}`, root: at('crisp', 'root'), state: at('crisp', 'state'), network: { conf_dir: at('cni', 'crisp') }, images: { preload_dir: at('archives') },
  }));
  await start('crisp', ['bin/crisp', 'serve', '--config', at('crisp.yaml')], 'crisp is ready');
  return serving('crisp', ['spdy', 'websocket']);
}

async function startContainerd() {
  writeConflist('containerd');
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  writeFileSync(at('containerd.toml'), `version = 2
root = "${at('containerd', 'root')}"
state = "${at('containerd', 'state')}"
[grpc]
address = "${at('containerd.sock')}"
[${cri}]
sandbox_image = "${pause}"
restrict_oom_score_adj = true
[${cri}.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "${at('cni', 'containerd')}"
[${cri}.containerd]
default_runtime_name = "crun"
[${cri}.containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
[${cri}.containerd.runtimes.crun.options]
BinaryName = "/usr/bin/crun"
`);
  await start('containerd', ['containerd', '--config', at('containerd.toml')], 'containerd successfully booted');
  for (const file of ['busybox.tar', 'pause.tar']) execFileSync('ctr', ['-a', at('containerd.sock'), '-n', 'k8s.io', 'images', 'import', at('archives', file)], { stdio: 'ignore' });
  return serving('containerd', ['spdy']);
}

const ports = { out: 9001, in: 9002, both: 9003 };
const servers = `
busybox nc -ll -p ${ports.out} -e busybox head -c ${bytes} /dev/zero &
busybox nc -ll -p ${ports.in} -e sh -c 'busybox head -c ${bytes} | busybox wc -c' &
exec busybox nc -ll -p ${ports.both} -e busybox cat`;

/** A pod with a server for each direction. */
async function serving(name, transports) {
  const words = (...args) => [crictl, '--config', '/dev/null', '--runtime-endpoint', `unix://${at(`${name}.sock`)}`, '--image-endpoint', `unix://${at(`${name}.sock`)}`, ...args];
  const run = async (...args) => (await runFile(...split(words(...args)))).stdout.trim();
  const write = (file, content) => { writeFileSync(at(file), JSON.stringify(content)); return at(file); };
  mkdirSync(at('logs', name), { recursive: true });
  const pod = write('pod.json', { metadata: { name, uid: name, namespace: 'bench', attempt: 0 }, log_directory: at('logs', name), linux: {} });
  const container = write('container.json', { metadata: { name: 'main' }, image: { image }, command: ['sh', '-c', servers], log_path: 'main.log', linux: {} });
  const podId = await run('runp', pod);
  const id = await run('create', podId, container, pod);
  await run('start', id);
  await sleep(500);
  return { name, transports, words, podId, id, remove: () => run('rmp', '--force', podId) };
}

const split = ([file, ...args]) => [file, args];

// ------------------------------------------------------------------- the work

async function note(what, who, transport, work) {
  const begin = performance.now();
  await work();
  const by = (samples[what] ??= {});
  (by[`${who.name} ${transport}`] ??= []).push(performance.now() - begin);
}

/** Runs a shell's line, in which "$@" is the exec; it must print what is expected. */
async function exec(who, transport, line, expected, ...args) {
  const { stdout } = await runFile('sh', ['-c', line, at('data'), ...who.words('exec', '--transport', transport, ...args)], { env: process.env });
  if (stdout.trim() !== expected) throw new Error(`${who.name}, ${transport}: ${line} printed ${stdout.slice(0, 200)}`);
}

async function forwarded(who, transport, port, work) {
  const [file, args] = split(who.words('port-forward', '--transport', transport, who.podId, `0:${port}`));
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  let said = '';
  for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) if ((said += chunk).includes('127.0.0.1:')) break;
  child.stdout.resume();
  const socket = connect({ host: '127.0.0.1', port: Number(/127\.0\.0\.1:(\d+)/.exec(said)[1]), allowHalfOpen: true });
  await once(socket, 'connect');
  await work(socket);
  socket.destroy();
  child.kill();
}

async function received(socket, count) {
  let got = 0;
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) if ((got += chunk.length) >= count) return;
  throw new Error(`the connection ended after ${got} bytes`);
}

async function sent(socket) {
  const block = readFileSync(at('data')).subarray(0, 1_000_000);
  for (let count = 0; count < bytes; count += block.length) if (!socket.write(block)) await once(socket, 'drain');
}

async function round(who, counted) {
  for (const transport of who.transports) {
    const take = (what, work) => (counted ? note(what, who, transport, work) : work());
    await take('exec, out', () => exec(who, transport, '"$@" | wc -c', String(bytes), who.id, 'busybox', 'head', '-c', String(bytes), '/dev/zero'));
    await take('exec, in', () => exec(who, transport, '"$@" <"$0"', String(bytes), '-i', who.id, 'busybox', 'wc', '-c'));
    await take('exec, both', () => exec(who, transport, '"$@" <"$0" | cmp - "$0" && echo same', 'same', '-i', who.id, 'busybox', 'cat'));
    for (const [direction, port] of Object.entries(ports)) {
      await forwarded(who, transport, port, (socket) => take(`port-forward, ${direction}`, async () => {
        if (direction === 'out') return received(socket, bytes);
        await Promise.all([sent(socket), received(socket, direction === 'in' ? String(bytes).length : bytes)]);
      }));
    }
  }
}

const median = (list) => [...list].sort((one, other) => one - other)[Math.floor(list.length / 2)];

function report() {
  const heads = ['crisp spdy', 'crisp websocket', 'containerd spdy'];
  console.log(`\n${'MB/s, median'.padEnd(20)}${[...heads, 'spdy, ratio', 'websocket, ratio'].map((head) => head.padStart(18)).join('')}`);
  let met = true;
  for (const [what, by] of Object.entries(samples)) {
    const [spdy, webSocket, containerd] = heads.map((head) => bytes / 1_000 / median(by[head]));
    console.log(what.padEnd(20) + [spdy, webSocket, containerd].map((speed) => speed.toFixed(0).padStart(18)).join('') + [spdy, webSocket].map((speed) => (speed / containerd).toFixed(2).padStart(18)).join(''));
    met &&= spdy >= containerd && webSocket >= containerd;
  }
  console.log(`\n${met ? 'met   ' : 'MISSED'} no transfer slower than containerd's`);
  return met;
}

async function main() {
  mkdirSync(at('archives'));
  writeFileSync(at('data'), randomBytes(bytes));
  makeArchive(at('archives', 'busybox.tar'), image, ['sh']);
  makeArchive(at('archives', 'pause.tar'), pause, ['sleep', '86400']);
  for (const start of [startCrisp, startContainerd]) pods.push(await start());
  console.log(`${rounds} rounds of ${bytes / 1e6} MB, on crisp and on containerd (crun) in turns`);
  for (let index = -1; index < rounds; index++) for (const who of pods) await round(who, index >= 0);
  return report();
}

async function cleanUp() {
  for (const pod of pods.splice(0)) await pod.remove().catch((error) => console.error(error.message));
  for (const child of children.reverse()) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGTERM');
    await Promise.race([once(child, 'exit'), sleep(10_000)]);
  }
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)) {
    try { if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(root)) process.kill(Number(pid), 'SIGKILL'); } catch { /* gone */ }
  }
  await sleep(500);
  const targets = readFileSync('/proc/self/mountinfo', 'utf8').split('\n').map((line) => line.split(' ')[4]).filter((target) => target?.startsWith(root)).reverse();
  for (const target of targets) try { execFileSync('umount', ['--lazy', target], { stdio: 'ignore' }); } catch { /* gone with its parent */ }
  for (const bridge of Object.values(bridges)) try { execFileSync('ip', ['link', 'delete', bridge], { stdio: 'ignore' }); } catch { /* was never made */ }
  rmSync(root, { recursive: true, force: true });
}

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => void cleanUp().then(() => process.exit(130)));
let ok = false;
try { ok = await main(); } catch (error) { console.error(`bench failed: ${error.stack}`); }
await cleanUp();
process.exit(ok ? 0 : 1);

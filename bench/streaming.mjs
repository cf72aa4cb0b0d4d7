// The speed of exec and port-forward, on crisp and on containerd with crun in
// turns: 100 MB in, out, and both at once, through the real crictl.  Run by
// run.sh (npm run bench -- streaming) in a mount namespace of its own.
//
//   --rounds N   transfers of each kind on each of the two   (5)
//
// Debian's containerd supports only SPDY, so WebSocket is compared with its
// SPDY.
import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { parseArgs, promisify } from 'node:util';
import {
  at,
  image,
  makeArchives,
  median,
  run,
  sleep,
  startContainerd,
  startCrisp,
  started,
} from './peers.mjs';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '5' } } });
const rounds = Number(values.rounds);
const bytes = 100_000_000;
const runFile = promisify(execFile);
const crictl = process.env.CRICTL ?? 'crictl';
const samples = {}; // row -> peer -> [ms]

// -------------------------------------------------------------------- the two

const ports = { out: 9001, in: 9002, both: 9003 };
const servers = `
busybox nc -ll -p ${ports.out} -e busybox head -c ${bytes} /dev/zero &
busybox nc -ll -p ${ports.in} -e sh -c 'busybox head -c ${bytes} | busybox wc -c' &
exec busybox nc -ll -p ${ports.both} -e busybox cat`;

/** A pod with a server for each direction. */
async function serving({ name, socket }, transports) {
  const words = (...args) => [
    crictl,
    '--config',
    '/dev/null',
    '--runtime-endpoint',
    `unix://${socket}`,
    '--image-endpoint',
    `unix://${socket}`,
    ...args,
  ];
  const run = async (...args) => (await runFile(...split(words(...args)))).stdout.trim();
  const write = (file, content) => {
    writeFileSync(at(file), JSON.stringify(content));
    return at(file);
  };
  mkdirSync(at('logs', name), { recursive: true });
  const pod = write('pod.json', {
    metadata: { name, uid: name, namespace: 'bench', attempt: 0 },
    log_directory: at('logs', name),
    linux: {},
  });
  const container = write('container.json', {
    metadata: { name: 'main' },
    image: { image },
    command: ['sh', '-c', servers],
    log_path: 'main.log',
    linux: {},
  });
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

/** Runs a shell command, in which "$@" is the exec; its output must be as expected. */
async function exec(who, transport, line, expected, ...args) {
  const { stdout } = await runFile(
    'sh',
    ['-c', line, at('data'), ...who.words('exec', '--transport', transport, ...args)],
    { env: process.env },
  );
  if (stdout.trim() !== expected)
    throw new Error(`${who.name}, ${transport}: ${line} printed ${stdout.slice(0, 200)}`);
}

async function forwarded(who, transport, port, work) {
  const [file, args] = split(who.words('port-forward', '--transport', transport, who.podId, `0:${port}`));
  const child = started(spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] }));
  let said = '';
  for await (const chunk of child.stdout.iterator({ destroyOnReturn: false }))
    if ((said += chunk).includes('127.0.0.1:')) break;
  child.stdout.resume();
  const socket = connect({
    host: '127.0.0.1',
    port: Number(/127\.0\.0\.1:(\d+)/.exec(said)[1]),
    allowHalfOpen: true,
  });
  await once(socket, 'connect');
  await work(socket);
  socket.destroy();
  child.kill();
}

async function received(socket, count) {
  let got = 0;
  for await (const chunk of socket.iterator({ destroyOnReturn: false }))
    if ((got += chunk.length) >= count) return;
  throw new Error(`the connection ended after ${got} bytes`);
}

async function sent(socket) {
  const block = readFileSync(at('data')).subarray(0, 1_000_000);
  for (let count = 0; count < bytes; count += block.length)
    if (!socket.write(block)) await once(socket, 'drain');
}

async function round(who, counted) {
  for (const transport of who.transports) {
    const take = (what, work) => (counted ? note(what, who, transport, work) : work());
    await take('exec, out', () =>
      exec(
        who,
        transport,
        '"$@" | wc -c',
        String(bytes),
        who.id,
        'busybox',
        'head',
        '-c',
        String(bytes),
        '/dev/zero',
      ),
    );
    await take('exec, in', () =>
      exec(who, transport, '"$@" <"$0"', String(bytes), '-i', who.id, 'busybox', 'wc', '-c'),
    );
    await take('exec, both', () =>
      exec(who, transport, '"$@" <"$0" | cmp - "$0" && echo same', 'same', '-i', who.id, 'busybox', 'cat'),
    );
    for (const [direction, port] of Object.entries(ports)) {
      await forwarded(who, transport, port, (socket) =>
        take(`port-forward, ${direction}`, async () => {
          if (direction === 'out') return received(socket, bytes);
          await Promise.all([
            sent(socket),
            received(socket, direction === 'in' ? String(bytes).length : bytes),
          ]);
        }),
      );
    }
  }
}

function report() {
  const heads = ['crisp spdy', 'crisp websocket', 'containerd spdy'];
  console.log(
    `\n${'MB/s, median'.padEnd(20)}${[...heads, 'spdy, ratio', 'websocket, ratio'].map((head) => head.padStart(18)).join('')}`,
  );
  let met = true;
  for (const [what, by] of Object.entries(samples)) {
    const [spdy, webSocket, containerd] = heads.map((head) => bytes / 1_000 / median(by[head]));
    console.log(
      what.padEnd(20) +
        [spdy, webSocket, containerd].map((speed) => speed.toFixed(0).padStart(18)).join('') +
        [spdy, webSocket].map((speed) => (speed / containerd).toFixed(2).padStart(18)).join(''),
    );
    met &&= spdy >= containerd && webSocket >= containerd;
  }
  console.log(`\n${met ? 'met   ' : 'MISSED'} no transfer slower than containerd's`);
  return met;
}

async function main() {
  writeFileSync(at('data'), randomBytes(bytes));
  makeArchives();
  const pods = [
    await serving(await startCrisp(), ['spdy', 'websocket']),
    await serving(await startContainerd(), ['spdy']),
  ];
  console.log(`${rounds} rounds of ${bytes / 1e6} MB, on crisp and on containerd (crun) in turns`);
  for (let index = -1; index < rounds; index++) for (const who of pods) await round(who, index >= 0);
  const met = report();
  for (const pod of pods) await pod.remove();
  return met;
}

await run(main);

// The main job, step by step: an image, a pod, a request to it, a command in it,
// its log, its resources, its end.  Run by demo.sh in a mount namespace.
import { execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials, loadProto } from '../dist/cri/proto.js';
import { makeArchive } from './busybox-archive.mjs';

const bridge = `crispdemo${process.pid % 1000}`;
const subnet = `10.213.${process.pid % 250}`;
const imageName = 'localhost/demo/busybox:1';
const root = mkdtempSync(join(tmpdir(), 'crisp-demo-'));
const at = (...parts) => join(root, ...parts);
const socket = at('crisp.sock');
let daemon;
let failed = false;
let stopped = false;
const made = []; // ids; another crisp on this machine may have cgroups in the same place
const pending = new Set(); // calls in progress: a Ctrl-C waits for them, so that everything that they make is cleaned up

const step = (text) => {
  if (!stopped) console.log(`\x1b[1m${text}\x1b[0m`);
};
const say = (text) =>
  stopped ||
  console.log(
    text
      .trimEnd()
      .split('\n')
      .map((line) => `   ${line}`)
      .join('\n'),
  );
const sleep = (ms) =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
const run = (tool, ...args) =>
  execFileSync(tool, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

// ------------------------------------------------------------------ the steps

async function main() {
  removeEarlier();
  const before = left();

  step('2. An image, made on the spot from busybox-static');
  mkdirSync(at('archives'), { recursive: true });
  makeArchive(at('archives', 'busybox.tar'), imageName, ['sh']);
  say(`${imageName}, in an OCI archive; crisp imports it at the start`);

  step('3. crisp starts');
  writeConfig();
  const startedAt = performance.now();
  await startDaemon();
  const cri = connect();
  const { runtime_name, runtime_version } = await cri('Version', {});
  say(
    `${runtime_name} ${runtime_version}, ready after ${Math.round(performance.now() - startedAt)} ms, listening on ${socket}`,
  );

  step('4. A pod');
  const config = {
    metadata: { name: 'web', namespace: 'demo', uid: 'demo-web', attempt: 0 },
    hostname: 'web',
    log_directory: at('logs'),
    linux: { security_context: { seccomp: { profile_type: 'RuntimeDefault' } } },
  };
  let clock = performance.now();
  const { pod_sandbox_id: pod } = await cri('RunPodSandbox', { config });
  made.push(pod);
  const { container_id: id } = await cri('CreateContainer', {
    pod_sandbox_id: pod,
    sandbox_config: config,
    config: {
      metadata: { name: 'httpd', attempt: 0 },
      image: { image: imageName },
      log_path: 'httpd.log',
      command: [
        'sh',
        '-c',
        'trap "echo told to stop; exit 7" TERM; mkdir -p /tmp/www; echo "hello from $(hostname)" >/tmp/www/index.html; echo serving; httpd -f -p 80 -h /tmp/www & wait',
      ],
      linux: {
        resources: { memory_limit_in_bytes: 64 << 20, cpu_quota: 50_000, cpu_period: 100_000 },
        security_context: { seccomp: { profile_type: 'RuntimeDefault' } },
      },
    },
  });
  made.push(id);
  await cri('StartContainer', { container_id: id });
  const {
    status: {
      network: { ip },
    },
  } = await cri('PodSandboxStatus', { pod_sandbox_id: pod });
  say(
    `pod ${pod.slice(0, 13)} with container ${id.slice(0, 13)}, up after ${Math.round(performance.now() - clock)} ms, address ${ip}`,
  );

  step('5. An HTTP request to the pod');
  say(`GET http://${ip}/ -> ${await fetchText(`http://${ip}/`)}`);

  step('6. A command in it');
  const { stdout, exit_code } = await cri('ExecSync', {
    container_id: id,
    cmd: ['sh', '-c', 'hostname; id; ls /'],
    timeout: 10,
  });
  say(`hostname; id; ls /  (exit code ${exit_code})`);
  say(stdout.toString().replaceAll('\n', ' '));

  step('7. Its log, in the CRI format');
  say(readFileSync(at('logs', 'httpd.log'), 'utf8'));

  step('8. Its CPU and memory');
  const { stats } = await cri('ContainerStats', { container_id: id });
  say(
    `CPU ${(Number(stats.cpu.usage_core_nano_seconds.value) / 1e6).toFixed(1)} ms, memory ${(Number(stats.memory.working_set_bytes.value) / 2 ** 20).toFixed(2)} MiB of 64`,
  );

  step('9. Its end');
  clock = performance.now();
  await cri('StopContainer', { container_id: id, timeout: 10 });
  const { status } = await cri('ContainerStatus', { container_id: id });
  say(
    `stopped in ${Math.round(performance.now() - clock)} ms: exit code ${status.exit_code}, ${status.reason}; its last words: ${readFileSync(at('logs', 'httpd.log'), 'utf8').trim().split('\n').at(-1)?.split(' ').slice(3).join(' ')}`,
  );
  await cri('StopPodSandbox', { pod_sandbox_id: pod });
  await cri('RemovePodSandbox', { pod_sandbox_id: pod });

  step('10. What is left');
  const found = left().filter((thing) => !before.includes(thing));
  if (found.length > 0) {
    failed = true;
    say(`left behind:\n${found.join('\n')}`);
  } else say('nothing left behind (mounts, namespaces, leases, cgroups, processes, folders)');
}

/** Everything that a pod could leave behind, as text. */
function left() {
  const processes = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
        return argv.includes(root) && Number(pid) !== daemon?.pid && Number(pid) !== process.pid
          ? [`process ${pid}: ${argv}`]
          : [];
      } catch {
        return [];
      }
    });
  const entries = (folder, what) =>
    existsSync(folder) ? readdirSync(folder).map((name) => `${what}: ${join(folder, name)}`) : [];
  const trees = existsSync('/sys/fs/cgroup/cgroup.controllers')
    ? ['/sys/fs/cgroup']
    : readdirSync('/sys/fs/cgroup').map((name) => `/sys/fs/cgroup/${name}`);
  return [
    ...readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[4])
      .filter((target) => target?.startsWith(root))
      .map((target) => `mount or namespace: ${target}`),
    ...trees.flatMap((tree) =>
      entries(join(tree, 'crisp'), 'cgroup').filter((line) => made.some((id) => line.endsWith(id))),
    ),
    ...entries(at('leases', 'demo'), 'address').filter((line) => /\d+\.\d+\.\d+\.\d+$/.test(line)),
    ...['pods', 'bundles', 'rootfs', 'sandboxes', 'containers'].flatMap((name) =>
      entries(at('state', name), 'state'),
    ),
    ...entries(at('root', 'containers'), 'writable layer'),
    ...processes,
  ];
}

// ------------------------------------------------------------------ the parts

function writeConfig() {
  mkdirSync(at('cni'));
  writeFileSync(
    at('cni', '10-demo.conflist'),
    JSON.stringify({
      cniVersion: '1.0.0',
      name: 'demo',
      plugins: [
        {
          type: 'bridge',
          bridge,
          isGateway: true,
          ipMasq: false,
          ipam: {
            type: 'host-local',
            dataDir: at('leases'),
            ranges: [[{ subnet: `${subnet}.0/24` }]],
            routes: [{ dst: '0.0.0.0/0' }],
          },
        },
        { type: 'portmap', capabilities: { portMappings: true } },
      ],
    }),
  );
  writeFileSync(
    at('config.yaml'),
    JSON.stringify({
      listen: `unix://${socket}`,
      root: at('root'),
      state: at('state'),
      network: { conf_dir: at('cni') },
      images: { preload_dir: at('archives') },
    }),
  );
}

async function startDaemon() {
  daemon = spawn('bin/crisp', ['serve', '--config', at('config.yaml')], {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  }); // a Ctrl-C must not end the daemon: it is needed for the clean-up
  let log = '';
  for (const stream of [daemon.stdout, daemon.stderr])
    stream.on('data', (chunk) => {
      log += chunk;
    });
  const ended = new Promise((resolve) => {
    daemon.once('exit', (code) => resolve(code ?? 1));
  });
  for (let waited = 0; !/crisp is ready|cannot run pods/.test(log); waited += 50) {
    const code = await Promise.race([ended, sleep(50)]);
    if (code !== undefined || waited > 60_000) throw new Error(`crisp did not start:\n${log}`);
  }
  daemon.log = () => log;
}

function connect() {
  const {
    runtime: { v1 },
  } = loadProto();
  const client = new v1.RuntimeService(`unix:${socket}`, credentials.createInsecure());
  return (method, request) => {
    if (stopped && !method.startsWith('List') && !method.startsWith('Remove')) throw new Error('stopped');
    const call = new Promise((resolve, reject) => {
      client[method](request, { deadline: Date.now() + 60_000 }, (error, answer) =>
        error ? reject(new Error(`${method}: ${error.message}`)) : resolve(answer),
      );
    });
    pending.add(call);
    return call.finally(() => pending.delete(call));
  };
}

/** The server in the pod needs a moment to listen. */
async function fetchText(url) {
  for (let tries = 0; ; tries++) {
    try {
      return await new Promise((resolve, reject) => {
        get(url, (response) => {
          let body = '';
          response
            .on('data', (chunk) => {
              body += chunk;
            })
            .on('end', () => resolve(body.trim()));
        }).on('error', reject);
      });
    } catch (error) {
      if (tries > 50) throw error;
      await sleep(50);
    }
  }
}

/** The leftovers of a killed demo: its mounts ended with its namespace, its processes and folders did not. */
function removeEarlier() {
  for (const name of readdirSync(tmpdir()).filter(
    (entry) => entry.startsWith('crisp-demo-') && join(tmpdir(), entry) !== root,
  )) {
    const folder = join(tmpdir(), name);
    for (const pid of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
      try {
        if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(folder))
          process.kill(Number(pid), 'SIGKILL');
      } catch {
        /* gone */
      }
    }
    rmSync(folder, { recursive: true, force: true });
  }
}

async function cleanUp() {
  await Promise.allSettled([...pending]);
  try {
    const cri = connect();
    const { items } = await cri('ListPodSandbox', {});
    for (const { id } of items) await cri('RemovePodSandbox', { pod_sandbox_id: id });
  } catch {
    /* the daemon is not running */
  }
  if (daemon && daemon.exitCode === null) {
    daemon.kill('SIGTERM');
    await Promise.race([
      new Promise((resolve) => {
        daemon.once('exit', resolve);
      }),
      sleep(10_000),
    ]);
  }
  try {
    run('ip', 'link', 'delete', bridge);
  } catch {
    /* was never made */
  }
  try {
    for (const target of readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[4])
      .filter((path) => path?.startsWith(root))
      .reverse())
      run('umount', '--lazy', target);
  } catch {
    /* removed with the namespace */
  }
  rmSync(root, { recursive: true, force: true });
}

const interrupted = new Promise((_resolve, reject) => {
  for (const signal of ['SIGINT', 'SIGTERM'])
    process.once(signal, () => {
      stopped = true;
      reject(new Error('stopped'));
    });
});
try {
  await Promise.race([main(), interrupted]);
} catch (error) {
  if (stopped) {
    console.log('\nStopped; cleaning up.');
    await cleanUp();
    process.exit(130);
  }
  failed = true;
  console.error(`\ndemo failed: ${error.message}`);
  if (daemon?.log) console.error(daemon.log().split('\n').slice(-10).join('\n'));
}
await cleanUp();
console.log(failed ? '\nThe demo failed.' : '\nDone.');
process.exit(failed ? 1 : 0);

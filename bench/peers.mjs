// Shared by the benchmarks: a private folder, with crisp and Debian's
// containerd (with crun) on private networks, and the clean-up.
import { execFileSync, spawn } from 'node:child_process';
import { connect } from 'node:net';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { makeArchive } from '../deploy/busybox-archive.mjs';

export const image = 'localhost/bench/busybox:1';
const pause = 'localhost/bench/pause:1';
const root = mkdtempSync(join(tmpdir(), 'crisp-bench-'));
export const at = (...parts) => join(root, ...parts);
export const sleep = (ms) =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
export const median = (list) => [...list].sort((one, other) => one - other)[Math.floor(list.length / 2)];

const children = [];
/** Ended by cleanUp() at the latest. */
export function started(child) {
  children.push(child);
  return child;
}

const networks = {
  crisp: { bridge: 'bench-crisp0', subnet: '10.214.0.0/24' },
  containerd: { bridge: 'bench-contd0', subnet: '10.214.1.0/24' },
  floor: { bridge: 'bench-floor0', subnet: '10.214.2.0/24' },
  'containerd 2': { bridge: 'bench-contd2', subnet: '10.214.3.0/24' },
  'CRI-O': { bridge: 'bench-crio0', subnet: '10.214.4.0/24' },
};

export function conflist(name) {
  return {
    cniVersion: '1.0.0',
    name: name.replace(' ', '-'),
    plugins: [
      {
        type: 'bridge',
        bridge: networks[name].bridge,
        isGateway: true,
        ipMasq: true,
        ipam: {
          type: 'host-local',
          dataDir: at('leases', name),
          ranges: [[{ subnet: networks[name].subnet }]],
          routes: [{ dst: '0.0.0.0/0' }],
        },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}

/** The programs beside a daemon, such as its shim, before those of the distribution. */
const beside = (program) => ({ ...process.env, PATH: `${dirname(program)}:${process.env.PATH}` });

/** Starts a daemon. @returns the child, and the ms from exec until the socket accepts connections */
async function start(name, argv, socket, env) {
  rmSync(socket, { force: true });
  const begin = performance.now();
  const child = started(spawn(argv[0], argv.slice(1), { stdio: ['ignore', 'pipe', 'pipe'], env }));
  let log = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk) => {
      log = (log + chunk).slice(-4000);
    });
  while (!(await listens(socket))) {
    if (child.exitCode !== null || performance.now() - begin > 60_000)
      throw new Error(`${name} did not start:\n${log.slice(-2000)}`);
    await sleep(2);
  }
  return { child, startMs: performance.now() - begin };
}

function listens(socket) {
  return new Promise((resolve) => {
    const client = connect(socket, () => {
      client.destroy();
      resolve(true);
    }).once('error', () => resolve(false));
  });
}

/** A peer: `restart()` restarts its daemon and returns the duration of the start. */
async function peer(name, argv, socket, env = process.env) {
  let { child } = await start(name, argv, socket, env);
  return {
    name,
    socket,
    get pid() {
      return child.pid;
    },
    async restart() {
      const ended = new Promise((resolve) => {
        child.once('exit', resolve);
      });
      child.kill('SIGTERM');
      await ended;
      const again = await start(name, argv, socket, env);
      child = again.child;
      return again.startMs;
    },
  };
}

/** The images of the pods, for all. */
export function makeArchives() {
  mkdirSync(at('archives'));
  makeArchive(at('archives', 'busybox.tar'), image, ['sh']);
  makeArchive(at('archives', 'pause.tar'), pause, ['sleep', '86400']);
}

export const metricsPort = 10_251 + (process.pid % 1_000);
export const registryAddress = `127.0.0.1:${metricsPort + 1_000}`;

/** @param more sections of its configuration */
export async function startCrisp(more = {}) {
  mkdirSync(at('cni-crisp'));
  mkdirSync(at('crisp-state'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=0711', 'tmpfs', at('crisp-state')]);
  writeFileSync(at('cni-crisp', '10.conflist'), JSON.stringify(conflist('crisp')));
  writeFileSync(
    at('crisp.yaml'),
    JSON.stringify({
      listen: `unix://${at('crisp.sock')}`,
      root: at('crisp-root'),
      state: at('crisp-state'),
      network: { conf_dir: at('cni-crisp') },
      images: { preload_dir: at('archives') },
      metrics: { port: metricsPort },
      ...more,
    }),
  );
  return peer('crisp', ['bin/crisp', 'serve', '--config', at('crisp.yaml')], at('crisp.sock'));
}

/** @param program containerd, of any version @param runtime crun: 2.x needs a newer one than Debian 12's */
export async function startContainerd(
  name = 'containerd',
  program = 'containerd',
  runtime = '/usr/bin/crun',
) {
  const own = (part) => at(`${name.replace(' ', '')}${part}`);
  mkdirSync(own('-cni'));
  writeFileSync(own('-cni/10.conflist'), JSON.stringify(conflist(name)));
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  writeFileSync(
    own('.toml'),
    `version = 2
root = "${own('-root')}"
state = "${own('-state')}"
[grpc]
address = "${own('.sock')}"
[${cri}]
sandbox_image = "${pause}"
restrict_oom_score_adj = true
[${cri}.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "${own('-cni')}"
[${cri}.containerd]
default_runtime_name = "crun"
[${cri}.containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
[${cri}.containerd.runtimes.crun.options]
BinaryName = "${runtime}"
`,
  );
  const env = program.includes('/') ? beside(program) : process.env;
  const started = await peer(name, [program, '--config', own('.toml')], own('.sock'), env);
  for (const file of ['busybox.tar', 'pause.tar'])
    execFileSync('ctr', ['-a', own('.sock'), '-n', 'k8s.io', 'images', 'import', at('archives', file)], {
      stdio: 'ignore',
      env,
    });
  return started;
}

/** CRI-O, built from source if it is requested. */
export async function startCrio(program, runtime = '/usr/bin/crun') {
  mkdirSync(at('crio-cni'));
  writeFileSync(at('crio-cni', '10.conflist'), JSON.stringify(conflist('CRI-O')));
  const settings = at('crio-home', '.config', 'containers');
  mkdirSync(settings, { recursive: true });
  writeFileSync(
    join(settings, 'registries.conf'),
    `[[registry]]\nlocation = "${registryAddress}"\ninsecure = true\n`,
  );
  writeFileSync(at('policy.json'), JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }));
  writeFileSync(
    at('crio.toml'),
    `[crio]
root = "${at('crio-root')}"
runroot = "${at('crio-run')}"
storage_driver = "overlay"
log_dir = "${at('crio-log')}"
version_file = "${at('crio-version')}"
[crio.api]
listen = "${at('crio.sock')}"
stream_port = "0"
[crio.runtime]
default_runtime = "crun"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
namespaces_dir = "${at('crio-ns')}"
container_exits_dir = "${at('crio-exits')}"
[crio.runtime.runtimes.crun]
runtime_path = "${runtime}"
runtime_root = "${at('crio-crun')}"
monitor_path = "/usr/bin/conmon"
[crio.image]
pause_image = "${pause}"
pause_command = "/bin/sleep 86400"
signature_policy = "${at('policy.json')}"
[crio.network]
network_dir = "${at('crio-cni')}"
plugin_dirs = ["/usr/lib/cni"]
`,
  );
  const store = `overlay@${at('crio-root')}+${at('crio-run')}`;
  for (const [file, name] of [
    ['busybox.tar', image],
    ['pause.tar', pause],
  ])
    execFileSync(
      'skopeo',
      [
        '--policy',
        at('policy.json'),
        'copy',
        `oci-archive:${at('archives', file)}`,
        `containers-storage:[${store}]${name}`,
      ],
      { stdio: 'ignore' },
    );
  return peer('CRI-O', [program, '--config', at('crio.toml'), '--config-dir', ''], at('crio.sock'), {
    ...beside(program),
    HOME: at('crio-home'),
  });
}

async function cleanUp() {
  for (const child of children) {
    if (child.exitCode !== null) continue;
    child.kill('SIGTERM');
    await Promise.race([
      new Promise((resolve) => {
        child.once('exit', resolve);
      }),
      sleep(10_000),
    ]);
  }
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(root)) process.kill(Number(pid), 'SIGKILL');
    } catch {
      /* gone, or ourselves */
    }
  }
  const targets = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4])
    .filter((target) => target?.startsWith(root))
    .reverse();
  for (const target of targets)
    try {
      execFileSync('umount', ['--lazy', target], { stdio: 'ignore' });
    } catch {
      /* gone with its parent */
    }
  for (const bridge of Object.values(networks).map((network) => network.bridge))
    try {
      execFileSync('ip', ['link', 'delete', bridge], { stdio: 'ignore' });
    } catch {
      /* was never made */
    }
  for (const tree of ['', ...readdirSync('/sys/fs/cgroup')])
    try {
      rmdirSync(join('/sys/fs/cgroup', tree, 'crisp-bench'));
    } catch {
      /* not in this tree */
    }
  rmSync(root, { recursive: true, force: true });
}

/** Runs a benchmark, which returns whether its targets are met, and cleans up; exits the process. */
export async function run(main) {
  for (const signal of ['SIGINT', 'SIGTERM'])
    process.once(signal, () => void cleanUp().then(() => process.exit(130)));
  let ok = false;
  try {
    ok = await main();
  } catch (error) {
    console.error(`bench failed: ${error.stack}`);
  }
  await cleanUp();
  process.exit(ok ? 0 : 1);
}

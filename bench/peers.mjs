// What the benchmarks have in common: a private folder, crisp and Debian's
// containerd (with crun) on private networks in it, and taking all of it away.
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
/** To be ended by cleanUp(), at the latest. */
export function started(child) {
  children.push(child);
  return child;
}

const bridges = { crisp: 'bench-crisp0', containerd: 'bench-contd0', floor: 'bench-floor0' };

export function conflist(name) {
  return {
    cniVersion: '1.0.0',
    name,
    plugins: [
      {
        type: 'bridge',
        bridge: bridges[name],
        isGateway: true,
        ipMasq: true,
        ipam: {
          type: 'host-local',
          dataDir: at('leases', name),
          ranges: [
            [
              {
                subnet: { crisp: '10.214.0.0/24', containerd: '10.214.1.0/24', floor: '10.214.2.0/24' }[name],
              },
            ],
          ],
          routes: [{ dst: '0.0.0.0/0' }],
        },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}

async function start(name, argv, ready) {
  const child = started(spawn(argv[0], argv.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] }));
  let log = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk) => {
      log += chunk;
    });
  for (let waited = 0; !log.includes(ready); waited += 50) {
    if (child.exitCode !== null || waited > 60_000)
      throw new Error(`${name} did not start:\n${log.slice(-2000)}`);
    await sleep(50);
  }
  return child;
}

/** The images of the pods, for both. */
export function makeArchives() {
  mkdirSync(at('archives'));
  makeArchive(at('archives', 'busybox.tar'), image, ['sh']);
  makeArchive(at('archives', 'pause.tar'), pause, ['sleep', '86400']);
}

/** @returns its pid and its socket */
export async function startCrisp() {
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
    }),
  );
  const child = await start('crisp', ['bin/crisp', 'serve', '--config', at('crisp.yaml')], 'crisp is ready');
  return { name: 'crisp', pid: child.pid, socket: at('crisp.sock') };
}

/** The same. */
export async function startContainerd() {
  mkdirSync(at('cni-containerd'));
  writeFileSync(at('cni-containerd', '10.conflist'), JSON.stringify(conflist('containerd')));
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  writeFileSync(
    at('containerd.toml'),
    `version = 2
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
`,
  );
  const child = await start(
    'containerd',
    ['containerd', '--config', at('containerd.toml')],
    'containerd successfully booted',
  );
  for (const file of ['busybox.tar', 'pause.tar'])
    execFileSync(
      'ctr',
      ['-a', at('containerd.sock'), '-n', 'k8s.io', 'images', 'import', at('archives', file)],
      { stdio: 'ignore' },
    );
  return { name: 'containerd', pid: child.pid, socket: at('containerd.sock') };
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
  for (const bridge of Object.values(bridges))
    try {
      execFileSync('ip', ['link', 'delete', bridge], { stdio: 'ignore' });
    } catch {
      /* was never made */
    }
  for (const tree of ['', ...readdirSync('/sys/fs/cgroup')])
    try {
      rmdirSync(join('/sys/fs/cgroup', tree, 'crisp-bench'));
    } catch {
      /* is in no such tree */
    }
  rmSync(root, { recursive: true, force: true });
}

/** Runs a benchmark, which says whether its bars are met, and takes everything away; ends the process. */
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

// CTs that run: with the liblxc of the machine, below NODE/lxc.
//
// What pve-container@ID.service does is done by unit.pl: lxc-start in the foreground,
// with the drop-in of NODE/units, and an ExecStop; NODE/unit-states/ID says how it is,
// NODE/stop-seconds how long it has for the latter (120, as PVE's unit says).  On a node without a fake systemctl the unit
// is the real systemd's (test/vm/cts.test.ts).
//
// Limits are written for the control groups of the machine.  On v2 they are those
// of PVE, and a change reaches a CT that runs; v1, which PVE has no more, gets the
// limit of memory alone, and that at the start.
import { execFileSync, spawn } from 'node:child_process';
import {
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { at, die, setting } from './place.mjs';
import { parseFirst, parseNet } from './grammar.mjs';
import { folderOf } from './storage.mjs';

const lxc = () => realpathSync(at('lxc'));
const groups = '/sys/fs/cgroup';
const isUnified = existsSync(`${groups}/cgroup.controllers`);
const hasSystemd = !existsSync(at('bin/systemctl'));
function lxcInfo(vmid, option) {
  try {
    return execFileSync('lxc-info', ['-P', lxc(), '-n', vmid, option, '-o', '/dev/null'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return '';
  }
}

/** PVE's own test: somebody answers on the command socket. */
export function isRunning(vmid) {
  return readFileSync('/proc/net/unix', 'utf8').includes(`@${lxc()}/${vmid}/command`);
}
export function initPid(vmid) {
  const pid = Number(lxcInfo(vmid, '-pH'));
  return pid > 0 ? pid : undefined;
}
export function addresses(vmid) {
  return lxcInfo(vmid, '-iH').split('\n').filter(Boolean);
}

/** The generated configuration, in the order of PVE::LXC::update_lxc_config. */
function writeConfig(vmid, { values, raw }) {
  const shared = '/usr/share/lxc/config';
  const unprivileged = values.unprivileged === '1';
  mkdirSync(at('lxc', vmid, 'rootfs'), { recursive: true });
  writeFileSync(at('lxc', vmid, 'rules.seccomp'), '2\ndenylist\nreject_force_umount\n');
  writeFileSync(
    at('lxc', vmid, 'config'),
    [
      `lxc.cgroup.dir.container = lxc/${vmid}`,
      `lxc.cgroup.dir.monitor = lxc.monitor/${vmid}`,
      'lxc.cgroup.dir.container.inner = ns',
      `lxc.include = ${shared}/common.conf`,
      ...(unprivileged ? [`lxc.include = ${shared}/userns.conf`] : []),
      `lxc.apparmor.profile = ${existsSync('/sys/kernel/security/apparmor/profiles') ? 'generated' : 'unconfined'}`,
      'lxc.mount.auto = sys:mixed',
      ...(unprivileged ? ['lxc.idmap = u 0 100000 65536', 'lxc.idmap = g 0 100000 65536'] : []),
      ...(values.console === '0' ? ['lxc.console.path = none'] : []),
      // PVE has a hook of its own there. A test that makes this file (for all to write) gets what it sees.
      ...(existsSync(at('hook-environment'))
        ? [`lxc.hook.autodev = sh -c 'env >>${at('hook-environment')}'`]
        : []),
      `lxc.tty.max = ${values.tty ?? 2}`,
      'lxc.environment = TERM=linux',
      `lxc.uts.name = ${values.hostname}`,
      ...(isUnified
        ? limits({ memory: 512, swap: 512, cpuunits: 100, ...values }).map(
            ([file, value]) => `lxc.cgroup2.${file} = ${value}`,
          )
        : [
            ['memory.limit_in_bytes', Number(values.memory ?? 512)],
            ['memory.memsw.limit_in_bytes', Number(values.memory ?? 512) + Number(values.swap ?? 512)],
          ]
            .filter(([file]) => existsSync(`/sys/fs/cgroup/memory/${file}`)) // some kernels do not count swap
            .map(([file, mebibytes]) => `lxc.cgroup.${file} = ${mebibytes * 2 ** 20}`)),
      `lxc.rootfs.path = dir:${folderOf(values.rootfs)}`,
      ...valuesOf(values, 'mp').map(([, value]) => mountLine(parseFirst(value, 'volume'))),
      ...(values.ostype === 'alpine'
        ? ['lxc.mount.entry = run run tmpfs rw,nodev,relatime,mode=755 0 0']
        : []), // alpine.common.conf of lxc-pve, whose folder the image must have
      ...(/\bfuse=1\b/.test(values.features ?? '')
        ? ['lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file 0 0']
        : []),
      ...passthrough(
        vmid,
        valuesOf(values, 'dev').map(([, value]) => parseFirst(value, 'path')),
        unprivileged,
      ),
      ...(values.entrypoint ? [`lxc.init.cmd = ${values.entrypoint}`] : []),
      ...valuesOf(values, 'net').flatMap(([index, value]) => netLines(vmid, index, parseNet(value))),
      ...raw.map(({ key, value }) => `${key} = ${value}`),
      '',
    ].join('\n'),
  );
}

/** The options NAME0, NAME1, ... with their numbers. */
function valuesOf(values, name) {
  return Object.keys(values)
    .flatMap((key) => new RegExp(`^${name}(\\d+)$`).exec(key)?.[1] ?? [])
    .sort((a, b) => a - b)
    .map((index) => [index, values[`${name}${index}`]]);
}

/** PVE mounts it before liblxc is there, into a root filesystem that it then hands on; here liblxc does, first of all. */
function mountLine({ volume, mp, ro }) {
  return `lxc.mount.entry = ${folderOf(volume)} ${mp.slice(1)} none bind,create=dir${ro === '1' ? ',ro' : ''} 0 0`;
}

/** As PVE does it: a node with an owner and a mode beside the CT, which a hook binds into it. */
function passthrough(vmid, devices, unprivileged) {
  const folder = at('passthrough', vmid);
  rmSync(folder, { recursive: true, force: true });
  const rules = devices.map(({ path, mode = '0660', uid = '0', gid = '0', 'deny-write': denyWrite }) => {
    const [type, major, minor] = execFileSync('stat', ['-L', '-c', '%F %Hr %Lr', path], { encoding: 'utf8' })
      .replace(/^(.).* (\d+) (\d+)\n$/, '$1 $2 $3')
      .split(' ');
    const copy = `${folder}${path}`;
    mkdirSync(dirname(copy), { recursive: true });
    execFileSync('mknod', ['-m', mode, copy, type, major, minor]);
    const shift = unprivileged ? 100_000 : 0;
    chownSync(copy, Number(uid) + shift, Number(gid) + shift);
    return `lxc.cgroup${isUnified ? '2' : ''}.devices.allow = ${type} ${major}:${minor} ${denyWrite === '1' ? 'r' : 'rw'}`;
  });
  return devices.length === 0
    ? []
    : [`lxc.hook.autodev = sh ${fileURLToPath(new URL('autodev.sh', import.meta.url))} ${folder}`, ...rules];
}

/** Options that are set -> files of cgroup v2. */
function limits({ memory, swap, cpulimit, cpuunits }) {
  const mib = 2 ** 20;
  return [
    ...(memory === undefined
      ? []
      : [
          ['memory.max', memory * mib],
          ['memory.high', Math.max((memory * 1016) / 1024, memory - 128) * mib],
        ]),
    ...(swap === undefined ? [] : [['memory.swap.max', swap * mib]]),
    ...(cpulimit === undefined
      ? []
      : [['cpu.max', `${Number(cpulimit) === 0 ? 'max' : Math.floor(100_000 * cpulimit)} 100000`]]),
    ...(cpuunits === undefined ? [] : [['cpu.weight', Math.min(Math.max(1, cpuunits), 10_000)]]),
  ];
}

/** What pct set changes at once. */
export function hotplug(vmid, values) {
  if (isUnified && isRunning(vmid))
    for (const [file, value] of limits(values)) writeFileSync(`${groups}/lxc/${vmid}/${file}`, String(value));
}

/** The address is set by liblxc where it is host-managed; PVE's DHCP client of the host is not here. */
function netLines(vmid, index, net) {
  const key = (name, value) => `lxc.net.${index}.${name} = ${value}`;
  return [
    key('type', 'veth'),
    key('link', net.bridge),
    key('veth.pair', `veth${vmid}i${index}`),
    key('name', net.name),
    key('flags', 'up'),
    ...(net.hwaddr ? [key('hwaddr', net.hwaddr)] : []),
    ...(net.mtu ? [key('mtu', net.mtu)] : []),
    ...(net['host-managed'] === '1' && net.ip?.includes('/')
      ? [key('ipv4.address', net.ip), ...(net.gw ? [key('ipv4.gateway', net.gw)] : [])]
      : []),
  ];
}

/** The words of an ExecStart line of systemd, with the specifiers of this unit. */
function split(line, vmid) {
  const escapes = { n: '\n', t: '\t' };
  return [...line.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(([, quoted, plain]) =>
    (
      plain ??
      quoted.replace(/\\(x[0-9a-f]{2}|.)/g, (_, code) =>
        code[0] === 'x' && code.length === 3
          ? String.fromCharCode(parseInt(code.slice(1), 16))
          : (escapes[code] ?? code),
      )
    ).replace(/%(.)/g, (_, specifier) => (specifier === 'i' ? vmid : specifier)),
  );
}

/** The unit: what it runs, and its standard streams; PVE's own throws stdout away and keeps stderr for pct's words. */
function unitOf(vmid) {
  const folder = at('units', `pve-container@${vmid}.service.d`);
  const text = existsSync(folder)
    ? readdirSync(folder)
        .map((name) => readFileSync(`${folder}/${name}`, 'utf8'))
        .join('\n')
    : '';
  const command = [...text.matchAll(/^ExecStart=:?(.+)$/gm)].at(-1)?.[1] ?? '/usr/bin/lxc-start -F -n %i';
  const stream = (key) => new RegExp(`^${key}=\\w+:(.*)$`, 'm').exec(text)?.[1]?.replaceAll('%%', '%');
  return {
    argv: split(command, vmid),
    stdin: stream('StandardInput') ?? '/dev/null',
    stdout: stream('StandardOutput') ?? '/dev/null',
    stderr: stream('StandardError'),
  };
}

/** Real CTs are where liblxc looks by itself; these are not. A launcher before lxc-start keeps its own arguments. */
function withFolder(program, args) {
  const at = program.endsWith('lxc-start') ? 0 : args.findIndex((word) => word.endsWith('/lxc-start')) + 1;
  return [...args.slice(0, at), '-P', lxc(), ...args.slice(at)];
}

const pidAfterMs = 60;
const unitProgram = fileURLToPath(new URL('unit.pl', import.meta.url));

/** systemd begins no start of a unit whose stop is not over. */
async function untilStopped(vmid) {
  const state = at('unit-states', vmid);
  while (existsSync(state) && readFileSync(state, 'utf8') === 'deactivating')
    await new Promise((resolve) => setTimeout(resolve, 20));
}

/** Resolves when the CT runs. @throws in pct's words */
export async function start(vmid, guest) {
  for (const [, value] of valuesOf(guest.values, 'net')) {
    const { bridge, ip, 'host-managed': hostManaged } = parseNet(value);
    if (bridge && !existsSync(`/sys/class/net/${bridge}`)) die(`bridge '${bridge}' does not exist`);
    if (ip === 'dhcp' && hostManaged === '1') {
      // What the DHCP client of the host leaves (found on pve-container 6.1.10); nobody answers it here.
      mkdirSync(at('lxc', vmid, 'hook'), { recursive: true });
      writeFileSync(at('lxc', vmid, 'hook/dhclient.leases'), '');
    }
  }
  writeConfig(vmid, guest);
  const {
    argv: [program, ...args],
    stdin,
    stdout,
    stderr,
  } = unitOf(vmid);
  const words = stderr ?? at('run', `ct-${vmid}.stderr`);
  if (!hasSystemd) await untilStopped(vmid);
  if (!stderr) writeFileSync(words, '');
  mkdirSync(at('unit-states'), { recursive: true });
  const child = hasSystemd
    ? spawn('systemctl', ['start', '--wait', `pve-container@${vmid}`], { stdio: 'ignore' })
    : spawn(
        'perl',
        [
          unitProgram,
          at('unit-states', vmid),
          setting('stop-seconds') ?? '120',
          stdin,
          stdout,
          words,
          program,
          ...withFolder(program, args),
        ],
        { stdio: 'ignore', detached: true },
      ); // as systemd starts it, not as a child of pct
  await new Promise((resolve, reject) => {
    let wasRunning = false;
    child.once('error', reject);
    child.once('exit', (status) => {
      const detail = stderr ? '' : readFileSync(words, 'utf8').replace(/^lxc-start: \d+: \S+: /gm, '');
      process.stdout.write(detail);
      reject(
        Object.assign(
          new Error(
            wasRunning || status === 0
              ? `unable to get PID for CT ${vmid} (not running?)`
              : `startup for container '${vmid}' failed`,
          ),
          { code: 255 },
        ),
      );
    });
    const look = setInterval(() => {
      if (lxcInfo(vmid, '-sH') !== 'RUNNING') return;
      wasRunning = true;
      clearInterval(look);
      // pct opens the pid of init last of all, and one that has ended until then is its "unable to get PID".
      setTimeout(() => {
        if (initPid(vmid) === undefined) return; // the exit is told above
        if (hasSystemd) child.kill(); // it only waits
        child.unref();
        resolve();
      }, pidAfterMs);
    }, 20);
    look.unref();
    child.once('exit', () => clearInterval(look));
  });
}

/** Waits for ever for one that lxc-stop cannot stop: pct asks nobody how long it may take. */
export async function kill(vmid) {
  try {
    execFileSync('lxc-stop', ['-P', lxc(), '-n', vmid, '--kill'], { stdio: ['ignore', 'inherit', 'pipe'] });
  } catch (error) {
    process.stdout.write(`${error.stderr ?? ''}command 'lxc-stop -n ${vmid} --kill' failed: exit code 1\n`);
  }
  while (isRunning(vmid)) await new Promise((resolve) => setTimeout(resolve, 20));
}

/** lxc.signal.halt to init, and SIGKILL after that if `force`. @returns whether it has stopped */
export function shutdown(vmid, seconds, force) {
  try {
    execFileSync(
      'lxc-stop',
      ['-P', lxc(), '-n', vmid, '--timeout', String(seconds), ...(force ? [] : ['--nokill'])],
      { stdio: 'ignore' },
    );
    return true;
  } catch {
    return !isRunning(vmid);
  }
}

/** Like exec(3): never returns. */
export function attach(vmid, keepEnv, command) {
  const child = spawn(
    'lxc-attach',
    ['-P', lxc(), '-n', vmid, keepEnv ? '--keep-env' : '--clear-env', '--', ...command],
    { stdio: 'inherit' },
  );
  child.once('exit', (code, signal) => process.exit(code ?? (signal ? 255 : 0)));
}

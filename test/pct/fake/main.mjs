// The verbs of pct: their checks, in order, and their messages.
import { spawn } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { at, checkQuorum, Died, die, setting, wait } from './place.mjs';
import { attach, hotplug, initPid, isRunning, kill, shutdown, start } from './container.mjs';
import { parse, parseFirst, parseNet, verbs } from './grammar.mjs';
import { confOf, kindOf, readGuest, shownConfig, tagsOf, writeGuest } from './guest.mjs';
import { allocate, free, freeAll, templatePath, unpack } from './storage.mjs';

const missing = (vmid, code) => die(`Configuration file 'nodes/pve/lxc/${vmid}.conf' does not exist`, code);
/** Its exit codes differ from verb to verb, and should not be used. */
const guestOf = (vmid, code = 2) => readGuest(vmid) ?? missing(vmid, code);
const checkLock = ({ values: { lock } }, allowed = []) => {
  if (lock && !allowed.includes(lock)) die(`CT is locked (${lock})`);
};

const run = {
  async create({ vmid, ostemplate }, options) {
    checkQuorum();
    const other = kindOf(vmid);
    if (other) die(`${other} ${vmid} already exists on node 'pve'`, 2);
    const {
      start: starts,
      'ignore-unpack-errors': _,
      force: __,
      bwlimit: ___,
      storage = 'local',
      restore: ____,
      ...values
    } = options;
    const unprivileged = (values.unprivileged ?? '1') === '1';
    if (values.pool && !pools().includes(values.pool))
      die(`403 Permission check failed (pool '${values.pool}' does not exist)`);
    const archive = templatePath(ostemplate);
    try {
      writeGuest(vmid, { description: '', values: { lock: 'create' }, raw: [], sections: '' }, 'wx');
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
      die(`unable to create CT ${vmid} - CT ${vmid} already exists on node 'pve'`, 2);
    }
    mkdirSync(at('lxc', vmid, 'rootfs'), { recursive: true });
    wait('create-ms');
    const owner = unprivileged ? 100_000 : 0;
    const made = [];
    const allocated = (text) => {
      made.push(allocate(vmid, text, owner, made.length));
      return made.at(-1);
    };
    try {
      const volume = allocated(values.rootfs ?? `${storage}:4`);
      for (const key of Object.keys(values).filter(isMountPoint))
        values[key] = mountPointAsWritten(values[key], allocated);
      for (const key of Object.keys(values).filter(isDevice))
        if (!existsSync(parseFirst(values[key], 'path').path))
          die(`Device ${parseFirst(values[key], 'path').path} does not exist`);
      unpack(archive, volume.folder, volume.isOurs ? owner : 0, ostemplate);
      const { description = '', pool, ...kept } = values;
      void pool; // a file of the cluster's, not the CT's
      for (const key of Object.keys(kept).filter((name) => /^net\d+$/.test(name)))
        kept[key] = netAsWritten(kept[key]);
      writeGuest(vmid, {
        description,
        raw: [],
        sections: '',
        values: {
          arch: 'amd64',
          hostname: `CT${vmid}`,
          memory: '512',
          swap: '512',
          ostype: osOf(volume.folder),
          ...kept,
          rootfs: volume.value,
          ...(kept.tags ? { tags: tagsOf(kept.tags) } : {}),
          ...(unprivileged ? { unprivileged: '1' } : {}),
        },
      });
    } catch (error) {
      for (const { undo } of made) undo();
      unlinkSync(confOf(vmid));
      throw error;
    }
    if (starts === '1') await run.start({ vmid });
  },

  async start({ vmid }, options = {}) {
    const guest = guestOf(vmid, 255);
    if (guest.values.template === '1') die("you can't start a CT if it's a template");
    if (options.skiplock !== '1') checkLock(guest, ['mounted']);
    if (isRunning(vmid)) die(`CT ${vmid} already running`);
    await start(vmid, guest);
  },

  async stop({ vmid }) {
    if (!isRunning(vmid)) die(`CT ${vmid} not running`);
    checkLock(guestOf(vmid), ['mounted']);
    await kill(vmid);
  },

  async shutdown({ vmid }, { timeout = '60', forceStop }) {
    if (!isRunning(vmid)) die(`CT ${vmid} not running`);
    checkLock(guestOf(vmid));
    if (shutdown(vmid, Number(timeout), forceStop === '1')) return;
    process.stdout.write(`command 'lxc-stop -n ${vmid} --nokill --timeout ${timeout}' failed: exit code 1\n`);
    die('container did not stop');
  },

  async destroy({ vmid }, { force, purge, 'destroy-unreferenced-disks': unreferenced }) {
    checkQuorum();
    const guest = guestOf(vmid);
    if (guest.values.protection === '1') die(`can't remove CT ${vmid} - protection mode enabled`);
    checkLock(guest);
    if (isRunning(vmid)) {
      if (force !== '1') die(`unable to destroy CT ${vmid} - container is running`);
      process.stdout.write(`forced to stop CT ${vmid} before destroying!\n`);
      await kill(vmid);
    }
    for (const [key, value] of Object.entries(guest.values))
      if (key === 'rootfs' || isMountPoint(key)) free(value);
    if (unreferenced === '1') freeAll(vmid);
    // pct puts this line in the place of the configuration while it works, and dies of a pipe that nobody reads
    // (found on pve-container 6.1.10). When exactly it prints is a guess: here, in between.
    writeGuest(vmid, { description: '', values: { lock: 'destroyed' }, raw: [], sections: '' });
    wait('destroy-ms');
    if (purge === '1') say(`purging CT ${vmid} from related configurations..\n`);
    unlinkSync(confOf(vmid)); // its folder in NODE/lxc stays, as pct leaves it
  },

  async set({ vmid }, { delete: deleted = '', digest: _, revert: __, ...changed }) {
    checkQuorum();
    const guest = guestOf(vmid);
    checkLock(guest);
    for (const name of deleted.split(',').filter(Boolean)) {
      if (['memory', 'rootfs', 'ostype', 'unprivileged'].includes(name))
        die(`400 Parameter verification failed.\n${name}: unable to delete required option '${name}'`);
      delete guest.values[name];
    }
    const { description = guest.description, ...values } = changed;
    for (const key of Object.keys(values).filter((name) => /^net\d+$/.test(name)))
      values[key] = netAsWritten(values[key]);
    writeGuest(vmid, {
      ...guest,
      description,
      values: { ...guest.values, ...values, ...(values.tags ? { tags: tagsOf(values.tags) } : {}) },
    });
    hotplug(vmid, values);
  },

  async unlock({ vmid }) {
    const guest = guestOf(vmid);
    if (!guest.values.lock) die('no lock found trying to remove any lock');
    const { lock: _, ...values } = guest.values;
    writeGuest(vmid, { ...guest, values });
  },

  async status({ vmid }, { verbose }) {
    const { values } = guestOf(vmid);
    const found = {
      status: isRunning(vmid) ? 'running' : 'stopped',
      ...(verbose === '1'
        ? {
            name: values.hostname,
            vmid,
            type: 'lxc',
            tags: values.tags ?? '',
            ...(isRunning(vmid) ? { pid: initPid(vmid) } : {}),
          }
        : {}),
    };
    process.stdout.write(
      Object.keys(found)
        .sort()
        .map((key) => `${key}: ${found[key]}\n`)
        .join(''),
    );
  },

  async config({ vmid }) {
    process.stdout.write(shownConfig(guestOf(vmid)));
  },

  async list() {
    const vmids = readdirSync(at('pve/lxc'))
      .map((name) => name.replace('.conf', ''))
      .sort();
    if (vmids.length === 0) return;
    const row = (...fields) =>
      fields
        .map((field, index) => field.padEnd([10, 10, 12, 20][index]))
        .join(' ')
        .concat('\n');
    process.stdout.write(
      row('VMID', 'Status', 'Lock', 'Name') +
        vmids
          .map((vmid) => {
            const { values } = readGuest(vmid);
            return row(
              vmid,
              isRunning(vmid) ? 'running' : 'stopped',
              values.lock ?? '',
              values.hostname ?? '',
            );
          })
          .join(''),
    );
  },

  async exec({ vmid }, { 'keep-env': keepEnv = '1' }, command) {
    guestOf(vmid);
    if (!isRunning(vmid)) die(`container '${vmid}' not running!`);
    attach(vmid, keepEnv === '1', command);
  },
};

/** Those that change the configuration hold its lock: flock(2) on NODE/lock/pve-config-ID.lock. */
const changing = ['create', 'set', 'unlock', 'destroy'];

export async function main([verb = '', ...words]) {
  try {
    if (!isLocked()) appendFileSync(at('calls'), `${[verb, ...words].join(' ')}\n`);
    pause();
    if (verb === 'help' || verb === 'version')
      return void process.stdout.write(
        `a fake of pct, for tests; its verbs: ${Object.keys(verbs).join(', ')}\n`,
      );
    if (!verbs[verb]) return unknown(verb);
    const { given, options, command } = parse(verb, words);
    const failure = JSON.parse(setting(`fail/${verb}`) ?? 'null');
    if (failure && !failure.late) return injected(failure);
    if (changing.includes(verb) && !isLocked()) return await locked(given.vmid);
    await task(verb, given.vmid, () => run[verb](given, options, command));
    if (failure) injected(failure);
  } catch (error) {
    process.stderr.write(`${error instanceof Died || error.code === 255 ? error.message : error.stack}\n`);
    process.exitCode = typeof error.code === 'number' ? error.code : 255;
  }
}

/** Those that are tasks, which the GUI lists by these types. */
const taskTypes = {
  create: 'vzcreate',
  start: 'vzstart',
  stop: 'vzstop',
  shutdown: 'vzshutdown',
  destroy: 'vzdestroy',
};

/**
 * NODE/tasks has a line for each that has ended, with the last line of its log: "vzstart 900001 TASK OK".
 * NODE/task-logs/TYPE-VMID is the log of the last one of a kind: what it printed, which programs that it ran do not, and that line.
 */
async function task(verb, vmid, work) {
  const type = taskTypes[verb];
  const log = at('task-logs', `${type}-${vmid}`);
  const end = (state) => {
    if (!type) return;
    appendFileSync(log, `TASK ${state}\n`);
    appendFileSync(at('tasks'), `${type} ${vmid} TASK ${state}\n`);
  };
  if (type) {
    mkdirSync(at('task-logs'), { recursive: true });
    writeFileSync(log, '');
    const print = process.stdout.write.bind(process.stdout);
    process.stdout.write = (text, ...more) => {
      appendFileSync(log, text);
      return print(text, ...more);
    };
  }
  try {
    await work();
  } catch (error) {
    end(`ERROR: ${error.message}`);
    throw error;
  }
  end('OK');
}

function unknown(verb) {
  process.stderr.write(
    `ERROR: unknown command 'pct ${verb}' (this fake has: ${Object.keys(verbs).join(', ')})\n`,
  );
  process.exitCode = 255;
}

function injected({ code = 255, stdout = '', stderr = '', signal, hangs = false }) {
  if (signal) process.kill(process.pid, signal);
  if (hangs) setInterval(() => undefined, 1_000_000);
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  process.exitCode = code;
}

/** This is the second run of a call, under the lock. */
const isLocked = () => process.env.FAKE_PCT_LOCKED === '1';

/** Once more, under the lock; --close: nothing that the call starts inherits it. As in pct, whose worker has a group of its own, a signal to the call is one to all of it. */
async function locked(vmid) {
  const file = at('lock', `pve-config-${vmid}.lock`);
  const again = (...options) =>
    new Promise((resolve) => {
      const worker = spawn(
        'flock',
        [
          '--close',
          '--conflict-exit-code',
          '75',
          ...options,
          file,
          process.execPath,
          ...process.argv.slice(1),
        ],
        { stdio: 'inherit', detached: true, env: { ...process.env, FAKE_PCT_LOCKED: '1' } },
      );
      const end = () => process.kill(-worker.pid, 'SIGTERM');
      for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, end);
      worker.once('exit', (status, signal) => {
        for (const name of ['SIGTERM', 'SIGINT']) process.off(name, end);
        if (signal) process.stderr.write('received interrupt\n');
        resolve(status);
      });
    });
  let code = await again('--nonblock');
  if (code === 75) {
    process.stdout.write('trying to acquire lock...\n');
    code = await again('--wait', setting('lock-seconds') ?? '10');
    if (code === 75) {
      process.stderr.write(`can't lock file '${file}' - got timeout\n`);
      code = 255;
    }
  }
  process.exitCode = code ?? 255;
}

function pause() {
  if (!isLocked()) wait('delay-ms');
}

/** At once, and deadly where nobody reads it, as in Perl. */
function say(text) {
  try {
    writeSync(1, text);
  } catch (error) {
    if (error.code !== 'EPIPE') throw error;
    process.exit(255);
  }
}

/** Of /etc/pve/user.cfg: "pool:NAME:COMMENT:GUESTS:STORAGES:". */
function pools() {
  return [...(setting('pve/user.cfg') ?? '').matchAll(/^pool:([^:]+):/gm)].map(([, name]) => name);
}

const isMountPoint = (key) => /^mp\d+$/.test(key);
const isDevice = (key) => /^dev\d+$/.test(key);

/** What is unpacked below its path comes into the root filesystem here, and not into the volume. */
function mountPointAsWritten(text, allocated) {
  const { volume, mp, ...others } = parseFirst(text, 'volume');
  const [value, size] = allocated(volume).value.split(',');
  return [
    value,
    `mp=${mp}`,
    ...[...Object.keys(others).map((key) => `${key}=${others[key]}`), ...(size ? [size] : [])].sort(),
  ].join(',');
}

/** With a hardware address; the name comes first, the other keys in their order. */
function netAsWritten(text) {
  const random = () =>
    Math.floor(Math.random() * 256)
      .toString(16)
      .padStart(2, '0')
      .toUpperCase();
  const { name, ...others } = { hwaddr: `BC:24:11:${random()}:${random()}:${random()}`, ...parseNet(text) };
  return [
    `name=${name}`,
    ...Object.keys(others)
      .sort()
      .map((key) => `${key}=${others[key]}`),
  ].join(',');
}

/** What /etc/os-release says; a distribution that PVE does not know is "unmanaged". */
function osOf(folder) {
  const file = ['etc/os-release', 'usr/lib/os-release'].map((name) => `${folder}/${name}`).find(existsSync);
  const id = file ? /^ID="?([a-z]+)/m.exec(readFileSync(file, 'utf8'))?.[1] : undefined;
  return [
    'debian',
    'devuan',
    'ubuntu',
    'centos',
    'fedora',
    'opensuse',
    'archlinux',
    'alpine',
    'gentoo',
    'nixos',
  ].includes(id)
    ? id
    : 'unmanaged';
}

// A Proxmox node for a daemon under test: a fake one, or, with `npm run test:pct
// -- --real`, the one that the tests run on.
//
// fake: private folders, a real lxc-monitord, and fakes of the tools (fake/).
// real: the node's own tools and folders, but a range of ids and a tag that
// are not used otherwise, so that the tests touch no other guest.
import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  appendFile,
  chmod,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { monitorSocket } from '../../src/backends/pct/watcher.js';
import { killCgroup, removeCgroup } from '../../src/host/cgroup.js';
import { identify, isAlive } from '../../src/host/proc.js';
import { cgroupsOfCts, cgroupsOfFakes, claim, endCommandsIn, removeAbandoned } from '../helpers/abandoned.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { diesWithUs } from '../helpers/machine.js';
import { patience } from '../helpers/patience.js';

const runFile = promisify(execFile);
const fakes = fileURLToPath(new URL('fake/', import.meta.url));
const tools = ['pct', 'pvesh', 'pvesm', 'systemctl'] as const;

export const isReal = process.env['CRISP_REAL_PCT'] === '1';

/** Reserved for tests, see docs/proxmox.md. */
const realRange = { first: 990_000, last: 990_999 };

interface Places {
  /** For files of the tests. */
  readonly folder: string;
  readonly pve: string;
  readonly lxc: string;
  readonly units: string;
  readonly pvesm: string;
  /** Keys of the configuration's section. */
  readonly config: Readonly<Record<string, unknown>>;
  end(): Promise<void>;
}

export class Node {
  /** The last of the range: the daemon takes it last as well, so that a test may have it. */
  readonly lastVmid = isReal ? realRange.last : 999_999;
  private readonly range = isReal ? realRange : { first: 900_000, last: this.lastVmid };

  private readonly daemons: Daemon[] = [];

  private constructor(private readonly places: Places) {}

  static async start(): Promise<Node> {
    return new Node(isReal ? await realPlaces() : await fakePlaces());
  }

  /** One with a daemon that has the test image. */
  static async withDaemon(...config: Parameters<Node['daemon']>): Promise<[Node, Daemon]> {
    const node = await Node.start();
    const daemon = await node.daemon(...config);
    await daemon.addImage();
    return [node, daemon];
  }

  get folder(): string {
    return this.places.folder;
  }

  /** Runs until the node stops. @param lxc keys of that section of its configuration @param handler and of the handler @param env more environment */
  async daemon(
    lxc: Readonly<Record<string, unknown>> = {},
    handler: Readonly<Record<string, unknown>> = {},
    env: Readonly<Record<string, string>> = {},
  ): Promise<Daemon> {
    const daemon = await startDaemon({ onHost: isReal, config: this.config(lxc, handler), env });
    this.daemons.push(daemon);
    return daemon;
  }

  /** The configuration of a daemon for this node. */
  config(
    lxc: Readonly<Record<string, unknown>> = {},
    handler: Readonly<Record<string, unknown>> = {},
  ): Readonly<Record<string, unknown>> {
    return {
      handlers: { lxc: { type: 'pct', ...handler } },
      lxc: { ...this.places.config, vmid_range: this.range, pct_timeout_seconds: 120 * patience, ...lxc },
    };
  }

  /** The configurations of the CTs that the tests have now: "VMID.conf". */
  async guests(): Promise<string[]> {
    return (await readdir(join(this.places.pve, 'lxc'))).filter((name) =>
      this.isOurs(name.replace('.conf', '')),
    );
  }
  async guest(name: string): Promise<string> {
    return readFile(join(this.places.pve, 'lxc', name), 'utf8');
  }
  /** The configuration of the CT that contains this text; empty: no such CT. */
  async guestOf(id: string): Promise<string> {
    return (
      (await Promise.all((await this.guests()).map((name) => this.guest(name)))).find((text) =>
        text.includes(id),
      ) ?? ''
    );
  }
  async writeGuest(name: string, text: string): Promise<void> {
    await writeFile(join(this.places.pve, 'lxc', name), text);
  }
  async removeGuest(name: string): Promise<void> {
    await rm(join(this.places.pve, 'lxc', name));
  }

  /** The leftovers of CTs other than their configurations. */
  async remains(): Promise<string[]> {
    const units = await readdir(this.places.units).catch(() => []);
    const groups = isReal
      ? await cgroupsOfCts((vmid) => this.isOurs(vmid))
      : await cgroupsOfFakes(this.folder);
    return [
      ...[...(await readdir(this.places.lxc)), ...units].filter((name) =>
        this.isOurs(/(\d+)(\.service\.d)?$/.exec(name)?.[1] ?? ''),
      ),
      ...groups,
    ];
  }

  /** The units of CTs that systemd has not forgotten, with their states: "900001 failed". */
  async unitStates(): Promise<string[]> {
    if (isReal) {
      const { stdout } = await runFile('systemctl', [
        ...['list-units', '--all', '--plain', '--no-legend', 'pve-container@*'],
      ]);
      return [...stdout.matchAll(/^pve-container@(\d+)\.service +\S+ +(\S+)/gm)]
        .filter(([, vmid = '']) => this.isOurs(vmid))
        .map(([, vmid, state]) => `${vmid} ${state}`);
    }
    const folder = join(this.folder, 'unit-states');
    const names = (await readdir(folder).catch(() => [])).filter((name) => /^\d+$/.test(name));
    return Promise.all(
      names.map(async (name) => `${name} ${await readFile(join(folder, name), 'utf8').catch(() => 'gone')}`),
    );
  }

  /** A storage that takes volumes of CTs. */
  async storage(): Promise<string> {
    const { stdout } = await runFile(this.places.pvesm, ['status', '--content', 'rootdir']);
    const [, name] = /^(\S+) +\S+ +active /m.exec(stdout) ?? [];
    if (!name)
      throw new Error('no active storage takes volumes of CTs (content rootdir): see `pvesm status`');
    return name;
  }

  /** The ids of the volumes of the tests' CTs. */
  async volumes(): Promise<string[]> {
    const { stdout } = await runFile(this.places.pvesm, [
      'list',
      await this.storage(),
      '--content',
      'rootdir',
    ]);
    return stdout
      .trim()
      .split('\n')
      .slice(1)
      .filter((line) => this.isOurs(/(\d+)$/.exec(line.trim())?.[1] ?? ''))
      .map((line) => line.split(' ')[0] ?? '');
  }

  /** A fake node without storages. @returns what brings them back */
  async hideStorages(): Promise<() => Promise<void>> {
    const file = join(this.places.pve, 'storage.cfg');
    const text = await readFile(file, 'utf8');
    await writeFile(file, '');
    return () => writeFile(file, text);
  }

  /** Where a template of the storage "local" lies. */
  async templatePath(name: string): Promise<string> {
    const path = (await runFile(this.places.pvesm, ['path', `local:vztmpl/${name}`])).stdout.trim();
    await mkdir(dirname(path), { recursive: true });
    return path;
  }

  async stop(): Promise<void> {
    await Promise.all(this.daemons.map((daemon) => daemon.destroy()));
    await this.places.end();
  }

  private isOurs(vmid: string): boolean {
    return Number(vmid) >= this.range.first && Number(vmid) <= this.range.last;
  }
}

/** A bridge of the machine, as guests of a node are on one. @param address of the machine on it, with the length of its net */
export async function addBridge(
  address: string,
): Promise<{ readonly name: string; remove(): Promise<void> }> {
  await removeAbandonedBridges();
  const name = `crt${randomBytes(4).toString('hex')}`;
  const link = async (...words: string[]): Promise<void> => {
    await runFile('ip', ['link', ...words]);
  };
  const { pid, startTime } = (await identify(process.pid)) ?? {};
  await link('add', name, 'type', 'bridge');
  await link('set', name, 'alias', `${pid} ${startTime}`); // the kernel ignores it in a new link
  await runFile('ip', ['address', 'add', address, 'dev', name]);
  await link('set', name, 'up');
  return { name, remove: () => link('del', name) };
}

/** The bridges of killed test runs: each names its owner by pid and start time. */
async function removeAbandonedBridges(): Promise<void> {
  for (const name of (await readdir('/sys/class/net')).filter((one) => one.startsWith('crt'))) {
    const alias = await readFile(`/sys/class/net/${name}/ifalias`, 'utf8').catch(() => '');
    const [, pid = '', startTime = ''] = /^(\d+) (\d+)\n$/.exec(alias) ?? [];
    if (pid && !(await isAlive({ pid: Number(pid), startTime })))
      await runFile('ip', ['link', 'del', name]).catch(() => undefined);
  }
}

/**
 * The CTs of killed test runs. Files that they include may be gone with their daemon, and liblxc does not
 * stop a CT whose configuration it cannot read.
 */
async function removeAbandonedGuests(isOurs: (vmid: string) => boolean): Promise<void> {
  const pct = async (...args: string[]): Promise<void> => {
    await runFile('pct', args);
  };
  for (const name of await readdir('/etc/pve/lxc')) {
    const vmid = name.replace('.conf', '');
    const text = isOurs(vmid) ? await readFile(join('/etc/pve/lxc', name), 'utf8') : '';
    if (!/^tags: .*\bcrisp-test\b/m.test(text) && !/^lock: (create|destroyed)\s*$/.test(text)) continue;
    const [, included] = /^lxc\.include: (\S+)$/m.exec(text) ?? [];
    const made = included && (await mkdir(dirname(included), { recursive: true }));
    if (included) await appendFile(included, '');
    if (/^lock: /m.test(text)) await pct('unlock', vmid);
    await pct('destroy', vmid, '--force', '1', '--purge', '1', '--destroy-unreferenced-disks', '1');
    await rm(`/run/systemd/system/pve-container@${vmid}.service.d`, { recursive: true, force: true });
    if (made) await rm(made, { recursive: true });
  }
  // pct destroys no more than the configuration of a CT whose node lost power.
  const left = new Set(await readdir('/etc/pve/lxc'));
  for (const vmid of await readdir('/var/lib/lxc'))
    if (isOurs(vmid) && !left.has(`${vmid}.conf`))
      await rm(join('/var/lib/lxc', vmid), { recursive: true, force: true });
  // Those of a killed lxc-start.
  for (const group of await cgroupsOfCts((vmid) => isOurs(vmid) && !left.has(`${vmid}.conf`))) {
    await killCgroup(group);
    await removeCgroup(group);
  }
}

async function realPlaces(): Promise<Places> {
  await removeAbandoned(); // first: a daemon that still runs would see the end of its CTs
  await removeAbandonedGuests((vmid) => Number(vmid) >= realRange.first && Number(vmid) <= realRange.last);
  const folder = await mkdtemp(join(tmpdir(), 'crisp-n'));
  await chmod(folder, 0o711);
  return {
    folder,
    pve: '/etc/pve',
    lxc: '/var/lib/lxc',
    units: '/run/systemd/system',
    pvesm: 'pvesm',
    config: { tag: 'crisp-test' },
    end: () => rm(folder, { recursive: true, force: true }),
  };
}

async function fakePlaces(): Promise<Places> {
  const folder = await mkdtemp(join(tmpdir(), 'crisp-n'));
  const at = (name: string): string => join(folder, name);
  await claim(folder);
  await chmod(folder, 0o711); // root of an unprivileged CT is another uid, and has to reach its rootfs
  for (const name of [
    'bin',
    'pve/lxc',
    'pve/qemu-server',
    'lxc',
    'lock',
    'run',
    'units',
    'fail',
    'storage/local/template/cache',
    'storage/local/images',
  ])
    await mkdir(at(name), { recursive: true });
  for (const tool of tools) await symlink(join(fakes, tool), at(`bin/${tool}`));
  await writeFile(
    at('pve/storage.cfg'),
    `dir: local\n\tpath ${at('storage/local')}\n\tcontent vztmpl,rootdir,images\n`,
  );
  const [tool = '', ...args] = diesWithUs(['/usr/libexec/lxc/lxc-monitord', '--daemon', at('lxc')]);
  const monitor = spawn(tool, args, { stdio: 'ignore' });
  await listening(`@${monitorSocket(at('lxc'))}`);
  return {
    folder,
    pve: at('pve'),
    lxc: at('lxc'),
    units: at('units'),
    pvesm: at('bin/pvesm'),
    config: {
      tools: Object.fromEntries(tools.map((name) => [name, at(`bin/${name}`)])),
      pve_folder: at('pve'),
      lxc_folder: at('lxc'),
      lock_folder: at('lock'),
      unit_folder: at('units'),
    },
    end: async () => {
      monitor.kill('SIGKILL');
      await endCommandsIn(folder); // a CT whose test failed
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Waits for a listener on an abstract socket. */
async function listening(name: string): Promise<void> {
  for (let waitedMs = 0; waitedMs < 5_000; waitedMs += 10) {
    if ((await readFile('/proc/net/unix', 'utf8')).includes(name)) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`lxc-monitord does not listen on ${name}`);
}

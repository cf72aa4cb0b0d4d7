// A Proxmox node for a daemon under test: folders of its own, a real
// lxc-monitord, and fakes of the tools of Proxmox (fake/).
import { spawn, type ChildProcess } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { monitorSocket } from '../../src/backends/pct/watcher.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { diesWithUs } from '../helpers/machine.js';

const fakes = fileURLToPath(new URL('fake/', import.meta.url));
const tools = ['pct', 'pvesh', 'pvesm', 'systemctl'] as const;

export class Node {
  private constructor(readonly folder: string, private readonly monitor: ChildProcess) {}

  static async start(): Promise<Node> {
    const folder = await mkdtemp(join(tmpdir(), 'crisp-n'));
    await chmod(folder, 0o711); // root of an unprivileged CT is another uid, and has to reach its rootfs
    for (const name of ['bin', 'pve/lxc', 'pve/qemu-server', 'lxc', 'lock', 'run', 'units', 'fail', 'storage/local/template/cache', 'storage/local/images']) await mkdir(join(folder, name), { recursive: true });
    for (const tool of tools) await symlink(join(fakes, tool), join(folder, 'bin', tool));
    await writeFile(join(folder, 'pve/storage.cfg'), `dir: local\n\tpath ${join(folder, 'storage/local')}\n\tcontent vztmpl,rootdir,images\n`);
    const [tool = '', ...args] = diesWithUs(['/usr/libexec/lxc/lxc-monitord', '--daemon', join(folder, 'lxc')]);
    const monitor = spawn(tool, args, { stdio: 'ignore' });
    await listening(`@${monitorSocket(join(folder, 'lxc'))}`);
    return new Node(folder, monitor);
  }

  /** @param lxc keys of that section of its configuration @param handler and of the handler */
  async daemon(lxc: Readonly<Record<string, unknown>> = {}, handler: Readonly<Record<string, unknown>> = {}): Promise<Daemon> {
    const at = (name: string): string => join(this.folder, name);
    return startDaemon({ config: {
      handlers: { lxc: { type: 'pct', ...handler } },
      lxc: { ...lxc, tools: Object.fromEntries(tools.map((tool) => [tool, at(`bin/${tool}`)])), pve_folder: at('pve'), lxc_folder: at('lxc'), lock_folder: at('lock'), unit_folder: at('units') },
    } });
  }

  /** The CTs that it has now. */
  async guests(): Promise<string[]> { return readdir(join(this.folder, 'pve/lxc')); }
  async guest(name: string): Promise<string> { return readFile(join(this.folder, 'pve/lxc', name), 'utf8'); }

  /** What is left of CTs beside their configurations. */
  async remains(): Promise<string[]> { return [...await readdir(join(this.folder, 'lxc')), ...await readdir(join(this.folder, 'units'))]; }

  async stop(): Promise<void> {
    this.monitor.kill('SIGKILL');
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** Until somebody listens on an abstract socket. */
async function listening(name: string): Promise<void> {
  for (let waitedMs = 0; waitedMs < 5_000; waitedMs += 10) {
    if ((await readFile('/proc/net/unix', 'utf8')).includes(name)) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`lxc-monitord does not listen on ${name}`);
}

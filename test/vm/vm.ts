// A Debian VM under qemu, with systemd, cgroup v2 and AppArmor, in which crisp is
// installed as a user would install it. Made by the tests of this folder, one VM
// each. Its disk is a snapshot or a copy, so nothing stays; from inside it reaches
// nothing.
//
//   jest ── qemu: disk.ext4 (root), crisp.tar (/dev/vdb) ── sshd ◄── ssh, one shared connection
//
// Without KVM, so that it behaves alike on a laptop and inside another VM: it
// boots in about 20 s, and what runs in it is some ten times slower than outside.
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { connectTo, type Client } from '../helpers/client.js';
import { makeImageArchive } from '../helpers/image.js';
import { diesWithUs, type Result } from '../helpers/machine.js';
import { freePort } from '../helpers/port.js';

const runFile = promisify(execFile);
const checkout = fileURLToPath(new URL('../..', import.meta.url));
/** On shared cores: there crisp alone takes a minute to start in an emulated machine, and two when others are busy. */
const commandTimeoutMs = 300_000;
const bootTimeoutMs = 300_000;

export interface VmOptions {
  /** A script that prepares the machine for crisp. */
  readonly prepare?: string;
  /** A script that installs crisp. */
  readonly install?: string;
  /** Files that it finds in /opt/files. */
  readonly files?: readonly string[];
  /** Its disk is a file that survives the end of qemu, for losePower(). */
  readonly ownDisk?: boolean;
}

export class Vm {
  private constructor(
    private readonly folder: string,
    private readonly port: number,
    private readonly argv: readonly string[],
    private qemu: ChildProcess,
  ) {}

  /** Boots one and installs crisp in it. */
  static async start(options: VmOptions = {}): Promise<Vm> {
    const disk = process.env['CRISP_VM'];
    if (!disk) throw new Error('CRISP_VM names no disk: run the tests with `npm run test:vm`');
    const folder = await mkdtemp(join(tmpdir(), 'crisp-vm-'));
    try {
      return await Vm.install(folder, disk, options);
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  private static async install(
    folder: string,
    disk: string,
    { prepare = '', install = 'bash /opt/crisp/deploy/install.sh', files = [], ownDisk = false }: VmOptions,
  ): Promise<Vm> {
    await copyFile(join(disk, 'key'), join(folder, 'key'));
    await chmod(join(folder, 'key'), 0o600);
    const port = await freePort();
    const root = join(disk, 'disk.ext4');
    if (ownDisk) await runFile('cp', ['--sparse=always', root, join(folder, 'disk.ext4')]);
    const drive = ownDisk ? `file=${join(folder, 'disk.ext4')}` : `file=${root},snapshot=on`;
    const argv = diesWithUs(qemuArgv(disk, drive, await makePayload(folder, files), port));
    const vm = new Vm(folder, port, argv, startQemu(argv, folder));
    try {
      await vm.booted();
      await vm.must(`tar -xf /dev/vdb -C /\n${prepare}\n${install}`);
    } catch (error) {
      const said = (await readFile(join(folder, 'console.log'), 'utf8')).slice(-2_000);
      await vm.stop();
      throw new Error(`the VM is not ready; its console:\n${said}`, { cause: error });
    }
    return vm;
  }

  /** Runs a script in its shell, as root; any exit code is an answer. */
  async run(script: string, stdin = '', timeoutMs = commandTimeoutMs): Promise<Result> {
    const child = runFile('ssh', [...this.sshOptions(), 'root@127.0.0.1', script], {
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
      maxBuffer: 64 << 20,
    });
    child.child.stdin?.on('error', () => undefined).end(stdin); // EPIPE: no sshd yet, or the script reads nothing; see the exit code
    try {
      return { ...(await child), exitCode: 0 };
    } catch (error) {
      const {
        stdout = '',
        stderr = '',
        code,
      } = error as { stdout?: string; stderr?: string; code?: number | string };
      if (typeof code !== 'number') throw error;
      return { stdout, stderr, exitCode: code };
    }
  }

  /** Runs a script that must succeed, each line of it; its output without the last line break. */
  async must(script: string, stdin?: string, timeoutMs?: number): Promise<string> {
    const { stdout, stderr, exitCode } = await this.run(`set -eu\n${script}`, stdin, timeoutMs);
    if (exitCode !== 0) throw new Error(`${script}: exit code ${exitCode}: ${stderr || stdout}`);
    return stdout.replace(/\n$/, '');
  }

  /** Asks until the script succeeds; its output. */
  async until(script: string, timeoutMs = 120_000): Promise<string> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const { stdout, stderr, exitCode } = await this.run(script);
      if (exitCode === 0) return stdout.trim();
      if (Date.now() > deadline)
        throw new Error(`not within ${timeoutMs} ms: ${script}: ${stderr || stdout}`);
      await new Promise((resolve) => {
        setTimeout(resolve, 500);
      });
    }
  }

  /** A client of crisp's socket, for calls that crictl does not make; the caller closes it. */
  async connect(): Promise<Client> {
    const socket = join(this.folder, `crisp-${randomBytes(3).toString('hex')}.sock`); // ssh keeps listening on one that it has made
    await runFile('ssh', [
      ...this.sshOptions(),
      '-O',
      'forward',
      '-L',
      `${socket}:/run/crisp/crisp.sock`,
      'root@127.0.0.1',
    ]);
    return connectTo(socket);
  }

  async reboot(): Promise<void> {
    const before = await this.must('cat /proc/sys/kernel/random/boot_id');
    await this.run('systemctl reboot');
    await runFile('ssh', [...this.sshOptions(), '-O', 'exit', 'root@127.0.0.1']).catch(() => undefined); // it has ended with the sshd behind it
    await this.booted(before);
  }

  /**
   * Kills qemu; boot() starts it again with the same disk (ownDisk). What the machine had written to its disk is
   * kept, since the page cache of the host survives; what was only in the memory of the machine, as the
   * files of a program that has not flushed them, is lost.
   */
  async losePower(): Promise<void> {
    if (this.qemu.exitCode !== null || this.qemu.signalCode !== null) return;
    const ended = once(this.qemu, 'close');
    this.qemu.kill('SIGKILL');
    await ended;
  }

  async boot(): Promise<void> {
    await runFile('ssh', [...this.sshOptions(), '-O', 'exit', 'root@127.0.0.1']).catch(() => undefined);
    this.qemu = startQemu(this.argv, this.folder);
    await this.booted();
  }

  /** Makes a port of this machine's loopback one of its own, until it ends. */
  async reach(port: number): Promise<void> {
    const forward = `127.0.0.1:${port}:127.0.0.1:${port}`;
    await runFile('ssh', [...this.sshOptions(), '-O', 'forward', '-R', forward, 'root@127.0.0.1']);
  }

  async stop(): Promise<void> {
    await this.losePower();
    await rm(this.folder, { recursive: true, force: true });
  }

  /** Waits until it has started all its services. @param before the boot id of a boot that does not count */
  private async booted(before = ''): Promise<void> {
    const deadline = Date.now() + bootTimeoutMs;
    for (;;) {
      // "degraded" is an answer too: some service failed, and a test will say which.
      const { stdout, stderr } = await this.run(
        'cat /proc/sys/kernel/random/boot_id; systemctl is-system-running --wait',
        '',
        60_000,
      ).catch((error: unknown) => ({ stdout: '', stderr: String(error) }));
      const [id = '', state = ''] = stdout.split('\n');
      if (id !== before && /running|degraded/.test(state)) return;
      if (this.qemu.exitCode !== null) throw new Error(`qemu ended with ${this.qemu.exitCode}`);
      if (Date.now() > deadline) throw new Error(`not booted within ${bootTimeoutMs} ms: ${stdout}${stderr}`);
      await new Promise((resolve) => {
        setTimeout(resolve, 1_000);
      });
    }
  }

  /** One connection serves all commands: its keys cost a second in an emulated machine. */
  private sshOptions(): string[] {
    const options = {
      IdentityFile: join(this.folder, 'key'),
      Port: this.port,
      User: 'root',
      BatchMode: 'yes',
      ConnectTimeout: 10,
      LogLevel: 'ERROR',
      StrictHostKeyChecking: 'no',
      UserKnownHostsFile: '/dev/null',
      ControlMaster: 'auto',
      ControlPath: join(this.folder, 'ssh'),
      ControlPersist: 'yes',
    };
    return ['-F', 'none', ...Object.entries(options).flatMap(([key, value]) => ['-o', `${key}=${value}`])];
  }
}

function startQemu([tool = '', ...args]: readonly string[], folder: string): ChildProcess {
  const qemu = spawn(tool, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const consoleLog = createWriteStream(join(folder, 'console.log'), { flags: 'a' });
  qemu.stdout.pipe(consoleLog);
  qemu.stderr.pipe(consoleLog);
  return qemu;
}

function qemuArgv(disk: string, drive: string, payload: string, port: number): string[] {
  return [
    'qemu-system-x86_64',
    '-machine',
    'q35',
    '-accel',
    'tcg,thread=multi',
    '-cpu',
    'max',
    '-smp',
    '2',
    '-m',
    '2048',
    '-nodefaults',
    '-display',
    'none',
    '-serial',
    'stdio',
    '-kernel',
    join(disk, 'vmlinuz'),
    '-initrd',
    join(disk, 'initrd'),
    '-append',
    'root=LABEL=crisp-vm ro console=ttyS0 quiet panic=-1',
    '-drive',
    `${drive},format=raw,if=virtio,cache=writeback`,
    '-drive',
    `file=${payload},format=raw,if=virtio,readonly=on`,
    '-netdev',
    `user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:${port}-:22`,
    '-device',
    'virtio-net-pci,netdev=net',
  ];
}

/**
 * What a user has on the machine before `deploy/install.sh`: the built checkout in
 * /opt/crisp, Node (Debian 12's own is too old), crictl, and, in place of a
 * registry, an image to preload; and the fake of pct, which only cts.test.ts uses.
 */
async function makePayload(folder: string, files: readonly string[]): Promise<string> {
  const tree = join(folder, 'tree');
  const crisp = join(tree, 'opt/crisp');
  const { stdout: modules } = await runFile('npm', ['ls', '--omit=dev', '--all', '--parseable'], {
    cwd: checkout,
  });
  const parts = [
    'bin',
    'dist',
    'proto',
    'deploy',
    'docs/man',
    'package.json',
    'test/pct/fake',
    ...modules
      .trim()
      .split('\n')
      .slice(1)
      .map((path) => relative(checkout, path)),
  ];
  for (const part of parts)
    await cp(join(checkout, part), join(crisp, part), { recursive: true, verbatimSymlinks: true });
  await mkdir(join(tree, 'usr/local/bin'), { recursive: true });
  await copyFile(process.execPath, join(tree, 'usr/local/bin/node'));
  const { stdout: crictl } = await runFile('sh', [
    '-c',
    'command -v "$0"',
    process.env['CRICTL'] ?? 'crictl',
  ]);
  await copyFile(crictl.trim(), join(tree, 'usr/local/bin/crictl'));
  await mkdir(join(tree, 'etc/crisp/config.d'), { recursive: true });
  await writeFile(join(tree, 'etc/crisp/config.d/images.yaml'), 'images:\n  preload_dir: /opt/images\n');
  await mkdir(join(tree, 'opt/images'), { recursive: true });
  await makeImageArchive(join(tree, 'opt/images'), 'busybox');
  await mkdir(join(tree, 'opt/files'));
  for (const file of files) await copyFile(file, join(tree, 'opt/files', basename(file)));
  await runFile('tar', ['-C', tree, '--owner=0', '--group=0', '-cf', join(folder, 'crisp.tar'), '.']);
  await rm(tree, { recursive: true });
  return join(folder, 'crisp.tar');
}

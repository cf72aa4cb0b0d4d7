// A mount namespace for daemons under test: the host does not see their mounts,
// which are removed when the last process in it has ended.  Made by daemon.ts and the
// conformance run.
//
//   jest ── setpriv ─► unshare ─► sh (mounts) ─► sleep       one process, the holder
//      └─── nsenter -t HOLDER -m ─► crisp, skopeo, crictl …
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { promisify } from 'node:util';

const runFile = promisify(execFile);

// A shared / lets mount propagation be tried, as on a host with systemd.
// Debian's crun refuses the hybrid layout (a v2 tree beside those of v1).
const mounts = `
for folder in "$@"; do mkdir -p "$folder"; mount -t tmpfs -o mode=0711 tmpfs "$folder"; done
echo ready
exec sleep infinity`;
const setUp = `
set -e
mount --make-rshared /
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
${mounts}`;

export interface Result {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

export class Machine {
  /** @param tmpfs of the host's own namespace; undefined: it is another one */
  private constructor(
    private readonly holder: ChildProcess,
    private readonly tmpfs?: readonly string[],
  ) {}

  /** @param tmpfs folders that become a tmpfs in it */
  static async start(tmpfs: readonly string[] = []): Promise<Machine> {
    return new Machine(
      await hold(['unshare', '--mount', '--propagation', 'private', 'sh', '-c', setUp, 'machine', ...tmpfs]),
    );
  }

  /** The same in the host's own namespace. */
  static async ofHost(tmpfs: readonly string[] = []): Promise<Machine> {
    return new Machine(await hold(['sh', '-c', `set -e${mounts}`, 'machine', ...tmpfs]), tmpfs);
  }

  get pid(): number {
    return this.holder.pid as number;
  }

  /**
   * The argv that runs `argv` in the namespace; it is only one process, so its pid is that of the command.
   */
  enter(argv: readonly string[]): string[] {
    return this.tmpfs ? [...argv] : ['nsenter', '-t', String(this.pid), '-m', '--', ...argv];
  }

  /** A path of the namespace, as we can open it from outside. */
  path(path: string): string {
    return `/proc/${this.pid}/root${path}`;
  }

  /** Runs a command in it; any exit code is an answer. */
  async run(argv: readonly string[], timeoutMs = 60_000): Promise<Result> {
    const [tool = '', ...args] = this.enter(argv);
    try {
      return {
        ...(await runFile(tool, args, { timeout: timeoutMs, killSignal: 'SIGKILL', maxBuffer: 64 << 20 })),
        exitCode: 0,
      };
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

  /** Runs a command that must succeed; its output. */
  async must(argv: readonly string[], timeoutMs?: number): Promise<string> {
    const { stdout, stderr, exitCode } = await this.run(argv, timeoutMs);
    if (exitCode !== 0) throw new Error(`${argv.join(' ')}: exit code ${exitCode}: ${stderr || stdout}`);
    return stdout;
  }

  /** Where something is mounted in it. */
  async mounts(): Promise<string[]> {
    const lines = (await readFile(`/proc/${this.pid}/mountinfo`, 'utf8')).trim().split('\n');
    return lines.map((line) => line.split(' ')[4] ?? '');
  }

  /** The leftovers of a killed daemon in it: the holder of a pid namespace has no folder in its arguments. */
  private async endAll(): Promise<void> {
    const namespace = await readlink(`/proc/${this.pid}/ns/mnt`);
    for (const name of await readdir('/proc')) {
      const pid = Number(name);
      if (
        !Number.isInteger(pid) ||
        pid === this.pid ||
        (await readlink(`/proc/${name}/ns/mnt`).catch(() => '')) !== namespace
      )
        continue;
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        /* it has ended */
      }
    }
  }

  async stop(): Promise<void> {
    if (this.holder.exitCode !== null || this.holder.signalCode !== null) return;
    const closed = once(this.holder, 'close');
    for (const path of this.tmpfs ? (await this.mounts()).reverse() : [])
      if (this.tmpfs?.some((folder) => path === folder || path.startsWith(`${folder}/`)))
        await this.run(['umount', '--lazy', path]);
    if (!this.tmpfs) await this.endAll();
    this.holder.kill('SIGKILL');
    await closed;
  }
}

/** @returns the process that keeps it, after it has made its mounts */
async function hold(argv: readonly string[]): Promise<ChildProcess> {
  const [tool = '', ...args] = diesWithUs(argv);
  const holder = spawn(tool, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let stderr = '';
  holder.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const ready = await Promise.race([
    once(holder.stdout, 'data').then(() => true),
    once(holder, 'close').then(() => false),
  ]);
  if (!ready) throw new Error(`no mount namespace: ${stderr}`);
  return holder;
}

/** The argv of a process that is killed when we end, however that happens. */
export function diesWithUs(argv: readonly string[]): string[] {
  return ['setpriv', '--pdeathsig', 'KILL', ...argv];
}

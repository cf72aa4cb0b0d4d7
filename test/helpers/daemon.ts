// A daemon of our own: bin/crisp on private folders, a private CNI network and
// a private mount namespace.  Used by the integration tests and the
// conformance run; several can run at the same time.
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { chmod, mkdir, mkdtemp, rm, rmdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { stringify } from 'yaml';
import { claim, removeAbandoned } from './abandoned.js';
import { connectTo, type Client } from './client.js';
import { makeImageArchive, type ImageOptions } from './image.js';
import { ownProcesses, traces, type Traces } from './leftovers.js';
import { diesWithUs, Machine, type Result } from './machine.js';
import { patience } from './patience.js';

const runFile = promisify(execFile);
/** The built program. */
export const crisp = fileURLToPath(new URL('../../bin/crisp', import.meta.url));
/** The words that run it as a user and group in the machine, also from a checkout in /root, which only root can enter. */
export async function crispAs(id: number, machine: Machine): Promise<string[]> {
  await machine.must(['mount', '--bind', dirname(dirname(crisp)), '/mnt']);
  return ['setpriv', '--reuid', String(id), '--regid', String(id), '--clear-groups', '/mnt/bin/crisp'];
}
const readyTimeoutMs = 20_000 * patience;

export interface DaemonOptions {
  /** Keys of config.yaml; a section replaces ours key by key. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** false: no conflist is there yet. */
  readonly network?: boolean;
  /** More environment of the daemon. */
  readonly env?: Readonly<Record<string, string>>;
  /**
   * In the host's mount namespace: for mounts that other programs of the host must see (systemd starts the
   * CTs of Proxmox).
   */
  readonly onHost?: boolean;
  /** The program, in place of the built one. */
  readonly program?: string;
}

/** Starts one, and waits until it says that it is ready. */
export async function startDaemon(options: DaemonOptions = {}): Promise<Daemon> {
  await removeAbandoned();
  const folder = await mkdtemp(join(tmpdir(), 'crisp-'));
  await chmod(folder, 0o711); // the root of a user namespace is another uid outside, and has to reach its rootfs
  const network = await freeNetwork();
  await claim(folder, network.bridge);
  const machine = await (options.onHost
    ? Machine.ofHost([join(folder, 'state')])
    : Machine.start([join(folder, 'state')]));
  const daemon = new Daemon(folder, machine, network, options.env, options.program);
  try {
    await daemon.writeConfig(options.config ?? {});
    if (options.network !== false) await daemon.writeConflist(daemon.conflist());
    await daemon.start();
    return daemon;
  } catch (error) {
    await daemon.destroy();
    throw error;
  }
}

interface PrivateNetwork {
  readonly bridge: string;
  readonly subnet: string;
}

export class Daemon {
  readonly root: string;
  readonly state: string;
  readonly socket: string;
  readonly configFile: string;
  /** Where conflists are looked for. */
  readonly confDir: string;
  /** For pods' log_directory. */
  readonly logFolder: string;
  readonly client: Client;
  private process: ChildProcess | undefined;
  private readonly lines: string[] = [];
  private readonly onLine = new EventEmitter();

  constructor(
    readonly folder: string,
    readonly machine: Machine,
    readonly network: PrivateNetwork,
    private readonly env: Readonly<Record<string, string>> = {},
    private readonly program = crisp,
  ) {
    this.root = join(folder, 'root');
    this.state = join(folder, 'state');
    this.socket = join(folder, 'crisp.sock');
    this.configFile = join(folder, 'config.yaml');
    this.confDir = join(folder, 'net.d');
    this.logFolder = join(folder, 'logs');
    this.client = connectTo(this.socket);
  }

  /** Takes effect at the next start. */
  async writeConfig(config: Readonly<Record<string, unknown>>): Promise<void> {
    const policy = join(this.folder, 'policy.json');
    await writeFile(policy, JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }));
    const ours: Record<string, unknown> = {
      listen: `unix://${this.socket}`,
      root: this.root,
      state: this.state,
      log_level: 'debug',
      network: { conf_dir: this.confDir },
      images: { signature_policy: policy },
    };
    for (const [key, value] of Object.entries(config)) {
      const mine = ours[key];
      ours[key] = isSection(mine) && isSection(value) ? { ...mine, ...value } : value;
    }
    await writeFile(this.configFile, stringify(ours));
    await mkdir(this.logFolder, { recursive: true });
    await mkdir(this.confDir, { recursive: true });
  }

  conflist(): object {
    return {
      cniVersion: '1.0.0',
      name: this.network.bridge,
      plugins: [
        {
          type: 'bridge',
          bridge: this.network.bridge,
          isGateway: true,
          ipMasq: true,
          ipam: {
            type: 'host-local',
            dataDir: this.leases,
            ranges: [[{ subnet: this.network.subnet }]],
            routes: [{ dst: '0.0.0.0/0' }],
          },
        },
        { type: 'portmap', capabilities: { portMappings: true } },
      ],
    };
  }

  async writeConflist(conflist: object | string, name = '10-test.conflist'): Promise<void> {
    await writeFile(
      join(this.confDir, name),
      typeof conflist === 'string' ? conflist : JSON.stringify(conflist),
    );
  }

  private get leases(): string {
    return join(this.folder, 'leases');
  }

  get pid(): number | undefined {
    return this.process?.pid;
  }

  /** @param untilProbed until all handlers are probed, which those of CTs are after it is ready @throws with its last words when it ends or is not ready in time */
  async start({ untilProbed = true, withinMs = readyTimeoutMs } = {}): Promise<void> {
    const [tool = '', ...args] = this.machine.enter(
      diesWithUs([process.execPath, this.program, 'serve', '--config', this.configFile]),
    );
    const child = spawn(tool, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...this.env },
    });
    this.process = child;
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        this.lines.push(line);
        this.onLine.emit('line', line);
      });
    }
    const ended = new AbortController();
    child.once('close', () => ended.abort());
    const signal = AbortSignal.any([ended.signal, AbortSignal.timeout(withinMs)]);
    try {
      const ready = await this.logged((line) => /crisp is ready|cannot run pods/.test(line), { signal });
      for (const _ of untilProbed ? ready.matchAll(/it is being probed/g) : [])
        await this.logged((line) => line.includes('a handler that was not ready: probed again'), { signal });
    } catch (error) {
      throw new Error(`crisp is not ready:\n${this.lines.slice(-5).join('\n')}`, { cause: error });
    }
  }

  /** Waits for a new line of the log. A test that fails before it awaits this fails for that reason alone. */
  logged(
    wanted: (line: string) => boolean,
    { signal = AbortSignal.timeout(readyTimeoutMs) }: { signal?: AbortSignal } = {},
  ): Promise<string> {
    // A listener for all of them: several lines may come at once, of which once() would see the first.
    const found = new Promise<string>((resolve, reject) => {
      const look = (line: string): void => {
        if (wanted(line)) end(() => resolve(line));
      };
      const abort = (): void => end(() => reject(signal.reason as Error));
      const end = (settle: () => void): void => {
        this.onLine.off('line', look);
        signal.removeEventListener('abort', abort);
        settle();
      };
      this.onLine.on('line', look);
      signal.addEventListener('abort', abort);
      if (signal.aborted) abort();
    });
    found.catch(() => undefined);
    return found;
  }

  /** SIGTERM, and waits for its end; the exit code. */
  async stop(): Promise<number | null> {
    return this.end('SIGTERM');
  }
  async kill9(): Promise<void> {
    await this.end('SIGKILL');
  }
  /** Whether its process runs. */
  isAlive(): boolean {
    return this.process?.exitCode === null && this.process.signalCode === null;
  }

  /** Until a call comes through: the client, which has seen the socket refuse, may wait before it tries again. */
  async untilAnswers(): Promise<void> {
    const answers = (): Promise<boolean> =>
      this.client.runtime.Version({}).then(
        () => true,
        () => false,
      );
    while (!(await answers())) await new Promise((resolve) => setTimeout(resolve, 20));
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  private async end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.process;
    this.process = undefined;
    if (!child) return null;
    if (child.exitCode === null && child.signalCode === null) {
      const closed = once(child, 'exit');
      child.kill(signal);
      await closed;
    }
    return child.exitCode;
  }

  /** Removes its state folder with all mounts in it, as when a node is set up again. */
  async loseState(): Promise<void> {
    const mounts = await this.machine.must(['findmnt', '--raw', '--noheadings', '--output', 'TARGET']);
    const below = mounts
      .split('\n')
      .filter((target) => target.startsWith(join(this.state, '/')))
      .reverse();
    for (const target of below) await this.machine.must(['umount', '--lazy', target]);
    await this.machine.must(['find', this.state, '-mindepth', '1', '-delete']);
  }

  /** The lines of its log so far, of all its runs. */
  logs(): string {
    return this.lines.join('\n');
  }
  /** The same as objects. */
  entries(): Record<string, unknown>[] {
    return this.lines
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  /** Runs the real crictl on it. */
  async crictl(...args: readonly string[]): Promise<Result> {
    return this.machine.run(this.crictlArgv(...args));
  }
  crictlArgv(...args: readonly string[]): string[] {
    return [
      process.env['CRICTL'] ?? 'crictl',
      '--config',
      '/dev/null',
      '--runtime-endpoint',
      `unix://${this.socket}`,
      '--image-endpoint',
      `unix://${this.socket}`,
      '--timeout',
      `${30 * patience}s`,
      ...args,
    ];
  }

  /** Puts an image made on the spot into its store. */
  async addImage(name = 'docker.io/library/busybox:1', options?: ImageOptions): Promise<void> {
    const archive = await makeImageArchive(this.folder, name.replace(/[^a-z0-9]+/g, '-'), options);
    await this.machine.must([
      'skopeo',
      '--insecure-policy',
      'copy',
      '-q',
      `oci-archive:${archive}`,
      `containers-storage:[overlay@${join(this.root, 'storage')}+${join(this.state, 'storage')}:overlay.skip_mount_home=true]${name}`,
    ]);
    await rm(archive);
  }

  /** Its current traces on the machine, as lines to compare: see leftovers.ts. */
  async traces(): Promise<string[]> {
    return traces(this.tracesOf());
  }

  private tracesOf(): Traces {
    const ids = new Set(this.logs().match(/\b[0-9a-f]{64}\b/g) ?? []);
    return {
      machine: this.machine,
      folder: this.folder,
      root: this.root,
      state: this.state,
      bridge: this.network.bridge,
      leases: this.leases,
      ids,
      ourPids: [this.machine.pid, ...(this.pid === undefined ? [] : [this.pid])],
    };
  }

  /** Removes all pods, and then everything else, in any state. */
  async destroy(): Promise<void> {
    try {
      await this.removePods();
    } catch {
      /* what it does not remove is ended below */
    }
    this.client.close();
    await this.end('SIGTERM');
    const left = this.tracesOf();
    for (const { pid } of await ownProcesses(left))
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        /* has ended */
      }
    const groups = (await traces(left))
      .filter((line) => line.startsWith('cgroup '))
      .map((line) => line.slice('cgroup '.length));
    for (const group of groups.reverse())
      try {
        await rmdir(group);
      } catch {
        /* its processes are still going */
      }
    await this.machine.stop();
    await runFile('ip', ['link', 'del', this.network.bridge]).catch(() => undefined); // there is none before the first pod
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }

  private async removePods(): Promise<void> {
    if (!this.process) return;
    const { items } = await this.client.runtime.ListPodSandbox({}, { deadlineMs: 5_000 * patience });
    for (const { id } of items) {
      await this.client.runtime.StopPodSandbox({ pod_sandbox_id: id }, { deadlineMs: 20_000 * patience });
      await this.client.runtime.RemovePodSandbox({ pod_sandbox_id: id }, { deadlineMs: 20_000 * patience });
    }
  }
}

function isSection(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A bridge name and a subnet that are not used on the machine. */
async function freeNetwork(): Promise<PrivateNetwork> {
  const { stdout: used } = await runFile('ip', ['-4', 'route', 'show', 'table', 'all']);
  for (;;) {
    const [a = 0, b = 0] = randomBytes(2);
    const prefix = `10.${100 + (a % 100)}.${b}.`;
    if (!used.includes(prefix))
      return { bridge: `crt${randomBytes(4).toString('hex')}`, subnet: `${prefix}0/24` };
  }
}

// A real kubelet without an API server, on a daemon under test.  It runs in the
// daemon's mount namespace, since the mounts of its volumes must be seen there.
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';
import type { Daemon } from '../helpers/daemon.js';
import { diesWithUs } from '../helpers/machine.js';
import { freePort } from '../helpers/port.js';

export const nodeName = 'crisp-node';

export class Kubelet {
  private output = '';
  private constructor(
    private readonly daemon: Daemon,
    readonly folder: string,
    private readonly port: number,
    private process: ChildProcess | undefined,
  ) {}

  /**
   * @param statsFromCri the gate PodAndContainerStatsFromCRI, off unless set in 1.37
   * @param eventedPleg the gate EventedPLEG: it listens to GetContainerEvents
   */
  static async start(
    daemon: Daemon,
    binary: string,
    { statsFromCri, eventedPleg = false }: { statsFromCri: boolean; eventedPleg?: boolean },
  ): Promise<Kubelet> {
    const folder = join(daemon.folder, 'kubelet');
    await mkdir(join(folder, 'manifests'), { recursive: true });
    const port = await freePort();
    await writeFile(
      join(folder, 'config.yaml'),
      JSON.stringify({
        apiVersion: 'kubelet.config.k8s.io/v1beta1',
        kind: 'KubeletConfiguration',
        address: '127.0.0.1',
        port,
        healthzPort: 0,
        staticPodPath: join(folder, 'manifests'),
        fileCheckFrequency: '1s',
        syncFrequency: '2s',
        containerRuntimeEndpoint: `unix://${daemon.socket}`,
        cgroupDriver: 'cgroupfs',
        cgroupRoot: '/',
        failCgroupV1: false,
        failSwapOn: false,
        enforceNodeAllocatable: [],
        authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
        authorization: { mode: 'AlwaysAllow' },
        featureGates: { PodAndContainerStatsFromCRI: statsFromCri, EventedPLEG: eventedPleg },
        podLogsDir: join(folder, 'logs'),
        resolvConf: '/etc/resolv.conf',
        evictionHard: { 'memory.available': '1Mi' },
      }),
    );
    const kubelet = new Kubelet(daemon, folder, port, undefined);
    const [tool = '', ...args] = diesWithUs(
      daemon.machine.enter([
        binary,
        '--config',
        join(folder, 'config.yaml'),
        '--root-dir',
        join(folder, 'root'),
        '--cert-dir',
        join(folder, 'pki'),
        '--hostname-override',
        nodeName,
        '--v=2',
      ]),
    );
    kubelet.process = spawn(tool, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [kubelet.process.stdout, kubelet.process.stderr])
      stream?.on('data', (chunk: Buffer) => {
        kubelet.output = (kubelet.output + chunk.toString()).slice(-20_000);
      });
    await kubelet.until('the kubelet answers', async () => (await kubelet.get('/healthz')) === 'ok');
    return kubelet;
  }

  /** Hands a pod to the kubelet as a static one; the file's name is the pod's. */
  async addPod(name: string, spec: object): Promise<void> {
    await writeFile(
      this.manifest(name),
      JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: 'default' }, spec }),
    );
  }

  async removePod(name: string): Promise<void> {
    await rm(this.manifest(name));
  }

  /** The pod as the kubelet sees it. */
  async pod(name: string): Promise<PodStatus | undefined> {
    const { items } = JSON.parse(await this.get('/pods')) as {
      items: { metadata: { name: string }; status: PodStatus }[] | null;
    };
    return items?.find((item) => item.metadata.name === `${name}-${nodeName}`)?.status;
  }

  /** GET on the kubelet's own API. */
  get(path: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const call = request(
        { host: '127.0.0.1', port: this.port, path, rejectUnauthorized: false, timeout: 10_000 },
        (response) => {
          let body = '';
          response
            .on('data', (chunk) => {
              body += chunk;
            })
            .on('end', () =>
              response.statusCode === 200
                ? resolve(body)
                : reject(new Error(`${path}: ${response.statusCode} ${body}`)),
            );
        },
      );
      call.on('error', reject).end();
    });
  }

  /** Waits until `wanted` is true; an exception counts as "not yet". */
  async until(what: string, wanted: () => Promise<boolean>, timeoutMs = 90_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    let last: unknown;
    while (Date.now() < deadline) {
      try {
        if (await wanted()) return;
      } catch (error) {
        last = error;
      }
      await new Promise((resolve) => {
        setTimeout(resolve, 250);
      });
    }
    throw new Error(`not within ${timeoutMs} ms: ${what} (${String(last)})\n${this.output.slice(-4_000)}`);
  }

  /** Ends it and takes away the mounts of its volumes, which it leaves. */
  async stop(): Promise<void> {
    if (this.process?.exitCode === null && this.process.signalCode === null) {
      const ended = new Promise((resolve) => {
        this.process?.once('exit', resolve);
      });
      this.process.kill('SIGKILL');
      await ended;
    }
    const mountinfo = await readFile(`/proc/${this.daemon.machine.pid}/mountinfo`, 'utf8');
    const targets = mountinfo
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .filter((target) => target.startsWith(`${this.folder}/`));
    for (const target of targets.reverse()) await this.daemon.machine.run(['umount', '--lazy', target]);
  }

  private manifest(name: string): string {
    return join(this.folder, 'manifests', `${name}.yaml`);
  }
}

export interface PodStatus {
  readonly phase: string;
  readonly podIP?: string;
  readonly hostIP?: string;
  readonly conditions: readonly { readonly type: string; readonly status: string }[];
  readonly initContainerStatuses?: readonly ContainerStatus[];
  readonly containerStatuses?: readonly ContainerStatus[];
}
interface ContainerStatus {
  readonly name: string;
  readonly ready: boolean;
  readonly restartCount: number;
  readonly state: {
    readonly waiting?: { readonly reason: string };
    readonly terminated?: { readonly exitCode: number; readonly reason: string };
    readonly running?: object;
  };
  readonly lastState: { readonly terminated?: { readonly exitCode: number; readonly reason: string } };
}

// Random calls of clients that make pods with containers, use them and remove them. Used by
// the churn test, which kills the daemon meanwhile, and by the load test, which does not.
import { status as Code, type ServiceError } from '@grpc/grpc-js';
import { expect } from '@jest/globals';
import { randomInt } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';
import type { Daemon } from './daemon.js';
import { containerConfig, podConfig, type runPod } from './requests.js';
import { until } from './wait.js';

export class Churn {
  readonly figures = { calls: 0, cutOff: 0, exitCodes: 0, attaches: 0 };
  /** The clients end after their present pod. */
  over = false;
  private state: number;
  /** Other tests of the machine begin elsewhere; the pods of the clients never share one. */
  private hostPort = randomInt(10_000);

  /** @param pulled an image that the clients pull and remove */
  constructor(
    private readonly daemon: Daemon,
    private readonly pulled: string,
    readonly seed: number,
  ) {
    this.state = seed;
  }

  /** Mulberry32: the same calls again for the same seed, as far as the answers come in the same order. */
  random(below: number): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  }

  /** Makes a call until it is answered; the daemon may be killed meanwhile. */
  async made<T>(call: () => Promise<T>): Promise<T> {
    for (;;) {
      this.figures.calls++;
      try {
        return await call();
      } catch (error) {
        if (!isCutOff(error as ServiceError)) throw error;
        this.figures.cutOff++;
        await sleep(20);
      }
    }
  }

  async stateOf(id: string) {
    return (await this.made(() => this.daemon.client.runtime.ContainerStatus({ container_id: id }))).status;
  }

  /** Clients that make pods until it is over; one that fails ends them all. */
  clients(count: number): Promise<void>[] {
    return Array.from({ length: count }, () =>
      this.work().catch((error: unknown) => {
        this.over = true;
        throw new Error(`with the seed ${this.seed}: ${(error as Error).message}`, { cause: error });
      }),
    );
  }

  /** One client: pods with containers, and now and then an image. */
  private async work(): Promise<void> {
    const { runtime, image } = this.daemon.client;
    for (let round = 0; !this.over; round++) {
      if (this.random(4) === 0) {
        await this.made(() => image.PullImage({ image: { image: this.pulled } }));
        await this.made(() => image.RemoveImage({ image: { image: this.pulled } }));
      }
      const config = podConfig(this.daemon, {
        ...(this.random(3) === 0
          ? {
              port_mappings: [
                {
                  protocol: 'TCP' as const,
                  container_port: 80,
                  host_port: 20_000 + (this.hostPort++ % 10_000),
                },
              ],
            }
          : {}),
        linux: {
          security_context: { namespace_options: { pid: this.random(3) === 0 ? 'POD' : 'CONTAINER' } },
        },
      });
      const { pod_sandbox_id: id } = await this.made(() => runtime.RunPodSandbox({ config }));
      for (let count = this.random(3); count >= 0; count--)
        await this.liveContainer({ id, config }, `c${round}-${count}`);
      if (this.random(2) === 0) await this.made(() => runtime.StopPodSandbox({ pod_sandbox_id: id }));
      await this.made(() => runtime.StopPodSandbox({ pod_sandbox_id: id }));
      await this.made(() => runtime.RemovePodSandbox({ pod_sandbox_id: id }));
    }
  }

  /** A container from its creation to its removal, in a pod that is there. */
  private async liveContainer(pod: Awaited<ReturnType<typeof runPod>>, name: string): Promise<void> {
    const { runtime } = this.daemon.client;
    const code = this.random(200);
    const endsItself = this.random(2) === 0;
    const tty = this.random(3) === 0;
    const script = endsItself
      ? `sleep 0.${this.random(9)}; exit ${code}`
      : `trap 'exit ${code}' TERM; echo ready; while :; do sleep 1000 & wait $!; done`;
    const config = containerConfig(script, {
      metadata: { name },
      log_path: `${name}.log`,
      ...(tty ? { tty, stdin: true } : {}),
    });
    const { container_id: id } = await this.made(() =>
      runtime.CreateContainer({ pod_sandbox_id: pod.id, config, sandbox_config: pod.config }),
    );
    if (this.random(10) > 0) {
      await this.start(id);
      if (!endsItself) {
        // A signal that comes before the trap ends it with another code, or not at all.
        const log = join(pod.config.log_directory ?? '', `${name}.log`);
        await until(async () => (await readFile(log, 'utf8')).includes('ready'));
        await this.use(id, tty);
        await this.made(() => runtime.StopContainer({ container_id: id, timeout: '30' }));
      }
      await this.expectExit(id, name, code);
    }
    if (this.random(3) > 0) await this.made(() => runtime.RemoveContainer({ container_id: id }));
  }

  /** A start whose answer was cut off cannot be made twice. */
  private async start(id: string): Promise<void> {
    await this.made(() =>
      this.daemon.client.runtime.StartContainer({ container_id: id }).catch((error: ServiceError) => {
        if (!/it is CONTAINER_(RUNNING|EXITED)/.test(error.message)) throw error;
      }),
    );
  }

  private async use(id: string, tty: boolean): Promise<void> {
    const { runtime } = this.daemon.client;
    for (let count = this.random(4); count > 0; count--) {
      if (tty) await this.attach(id);
      const { stdout, exit_code } = await this.made(() =>
        runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', 'echo well; exit 3'] }),
      );
      expect([stdout.toString(), exit_code]).toEqual(['well\n', 3]);
      await this.made(() =>
        runtime.UpdateContainerResources({
          container_id: id,
          linux: { cpu_shares: String(2 + this.random(1000)) },
        }),
      );
    }
  }

  private async expectExit(id: string, name: string, code: number): Promise<void> {
    for (let status = await this.stateOf(id); ; status = await this.stateOf(id)) {
      if (status?.state !== 'CONTAINER_EXITED') {
        await sleep(50);
        continue;
      }
      expect([name, status.exit_code, status.reason]).toEqual([
        name,
        code,
        code === 0 ? 'Completed' : 'Error',
      ]);
      this.figures.exitCodes++;
      return;
    }
  }

  /** Follows the terminal of a container for a moment, and changes its size. */
  private async attach(id: string): Promise<void> {
    const { url } = await this.made(() =>
      this.daemon.client.runtime.Attach({ container_id: id, stdin: true, stdout: true, tty: true }),
    );
    const socket = new WebSocket(url.replace('http', 'ws'), 'v4.channel.k8s.io');
    socket.on('error', () => undefined); // the daemon was killed
    socket.once('open', () => {
      this.figures.attaches++;
      for (let count = this.random(5); count >= 0; count--)
        socket.send(
          Buffer.from(
            `\x04${JSON.stringify({ Width: 20 + this.random(100), Height: 10 + this.random(50) })}`,
          ),
        );
      socket.send(Buffer.from('\x00\r'));
    });
    await sleep(this.random(200));
    socket.terminate();
  }
}

/** The connection was lost; the daemon's own errors begin with their id. */
function isCutOff({ code, details }: ServiceError): boolean {
  if (/^[A-Z]\w+: /.test(details)) return false;
  // A write on the lost connection; gRPC reports a read as UNAVAILABLE.
  const isOfClient = code === Code.INTERNAL && details.includes('triggered by internal client error');
  return code === Code.UNAVAILABLE || code === Code.CANCELLED || isOfClient;
}

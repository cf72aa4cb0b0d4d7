// Kills a daemon with SIGKILL at each step that calls go through, and makes the same call
// again: it succeeds, and a removal leaves nothing. The steps are those of the daemon's log,
// so that a new one is walked without being listed. Used for OCI runtimes and for CTs.
import { expect } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import type { Daemon } from './daemon.js';
import { patience } from './patience.js';
import { containerConfig, podConfig, removePod, testImage, untilStopped } from './requests.js';
import { waitUntil } from '../../src/host/wait.js';

/** The objects of a scenario so far. */
export interface World {
  readonly daemon: Daemon;
  readonly handler: string;
  readonly config: ReturnType<typeof podConfig>;
  pod: string;
  container: string;
}
/** The same call, whenever it is made. */
export type Call = (world: World) => Promise<unknown>;

export const runPod: Call = async (world) => {
  world.pod = (
    await world.daemon.client.runtime.RunPodSandbox({ config: world.config, runtime_handler: world.handler })
  ).pod_sandbox_id;
};
export const create =
  (name: string, more: Partial<ReturnType<typeof containerConfig>> = {}): Call =>
  async (world) => {
    const config = containerConfig(untilStopped(), {
      metadata: { name },
      mounts: [{ image: { image: testImage }, container_path: '/image', readonly: true }],
      ...more,
    });
    world.container = (
      await world.daemon.client.runtime.CreateContainer({
        pod_sandbox_id: world.pod,
        config,
        sandbox_config: world.config,
      })
    ).container_id;
  };
export const stateOf = async ({ daemon }: World, id: string) =>
  (await daemon.client.runtime.ContainerStatus({ container_id: id })).status?.state;
/** A start that came to its end before its answer is one that cannot be made twice. */
export const start: Call = (world) =>
  world.daemon.client.runtime
    .StartContainer({ container_id: world.container })
    .catch(async (error: Error) => {
      if (
        !/it is CONTAINER_RUNNING/.test(error.message) ||
        (await stateOf(world, world.container)) !== 'CONTAINER_RUNNING'
      )
        throw error;
    });
export const update: Call = ({ daemon, container: id }) =>
  daemon.client.runtime.UpdateContainerResources({ container_id: id, linux: { cpu_shares: '512' } });
export const stop: Call = ({ daemon, container: id }) =>
  daemon.client.runtime.StopContainer({ container_id: id, timeout: '1' });
export const stopByForce: Call = ({ daemon, container: id }) =>
  daemon.client.runtime.StopContainer({ container_id: id, timeout: '0' });
export const removeContainer: Call = ({ daemon, container: id }) =>
  daemon.client.runtime.RemoveContainer({ container_id: id });
export const stopPod: Call = ({ daemon, pod }) =>
  daemon.client.runtime.StopPodSandbox({ pod_sandbox_id: pod });
export const removePodOf: Call = ({ daemon, pod }) =>
  daemon.client.runtime.RemovePodSandbox({ pod_sandbox_id: pod });
/** A call that is refused all the same: what it has made is taken back. */
export const refused =
  (call: Call, message: RegExp): Call =>
  async (world) => {
    const error = (await call(world).then(
      () => new Error('it was not refused'),
      (failure: unknown) => failure,
    )) as Error;
    if (!message.test(error.message)) throw error;
  };

export const lifeOfPod: readonly Call[] = [
  runPod,
  create('main'),
  start,
  update,
  stop,
  removeContainer,
  create('other'),
  start,
  stopByForce,
  stopPod,
  removePodOf,
];

export function newWorld(daemon: Daemon, handler: string, more: object = {}): World {
  return {
    daemon,
    handler,
    config: podConfig(daemon, {
      port_mappings: [
        { protocol: 'TCP', container_port: 80, host_port: 20_000 + Math.floor(Math.random() * 10_000) },
      ],
      linux: { security_context: { namespace_options: { pid: 'POD', ...more } } },
    }),
    pod: '',
    container: '',
  };
}

export interface WalkOptions {
  /** CRISP_FAILPOINT of the daemon: the file that names the step. */
  readonly failpoint: string;
  /** What shows that nothing is left. */
  readonly traces?: () => Promise<string[]>;
  /** Besides all pods. */
  readonly removeMore?: () => Promise<unknown>;
}

/** The steps of one backend. */
export class Walk {
  readonly walked = new Set<string>();
  private readonly traces: () => Promise<string[]>;

  constructor(
    private readonly daemon: Daemon,
    private readonly options: WalkOptions,
  ) {
    this.traces = options.traces ?? (() => daemon.traces());
  }

  /** Kills the daemon at each step that these calls go through, except those of earlier scenarios. */
  async through(makeWorld: () => World, calls: readonly Call[]): Promise<void> {
    const clean = await this.traces();
    const world = makeWorld();
    const steps = await this.stepsIn(async () => {
      for (const call of calls) await call(world);
    });
    expect(steps.length).toBeGreaterThan(3);
    expect(await this.traces()).toEqual(clean);
    for (const step of steps.filter((one) => !this.walked.has(one))) {
      this.walked.add(step);
      await this.killAt(step);
      const again = makeWorld();
      for (const call of calls) {
        const failure = await call(again).then(
          () => undefined,
          (error: unknown) => error as Error,
        );
        if (failure === undefined) continue;
        await this.untilKilled(failure);
        await this.restart();
        await call(again).catch((error: unknown) => {
          throw new Error(`after ${step}, the same call again`, { cause: error });
        });
        break;
      }
      expect([step, readFileSync(this.options.failpoint, 'utf8')]).toEqual([step, '']); // it was killed
      await this.removeEverything();
      expect([step, ...(await this.traces())]).toEqual([step, ...clean]);
    }
  }

  /** The same with the steps of the recovery from a kill at `step`, in the creation of a container. */
  async throughRecovery(makeWorld: () => World, creation: string): Promise<void> {
    const clean = await this.traces();
    const world = makeWorld();
    await runPod(world);
    await create('main')(world);
    await start(world);
    const main = world.container;
    const cutOff = async (): Promise<void> => {
      await this.killAt(creation);
      const failure = await create('half')(world).then(
        () => new Error(`the creation does not go through "${creation}"`),
        (error: unknown) => error as Error,
      );
      await this.untilKilled(failure);
    };
    await cutOff();
    const steps = (await this.stepsIn(() => this.restart())).filter((step) => step.startsWith('recover: '));
    expect(steps.length).toBeGreaterThan(5);
    for (const step of steps) {
      this.walked.add(step);
      await cutOff();
      await this.killAt(step);
      await expect(this.daemon.start()).rejects.toThrow('crisp is not ready');
      await this.untilKilled();
      await this.restart();
      expect([step, await stateOf(world, main)]).toEqual([step, 'CONTAINER_RUNNING']);
      await create('half')(world);
      await removeContainer(world);
    }
    await removePod(this.daemon, world.pod);
    expect(await this.traces()).toEqual(clean);
  }

  private async killAt(step: string): Promise<void> {
    await writeFile(this.options.failpoint, step);
  }

  /** The steps that the daemon goes through meanwhile, in order, each once. */
  private async stepsIn(work: () => Promise<unknown>): Promise<string[]> {
    const before = this.daemon.entries().length;
    await work();
    const steps = this.daemon
      .entries()
      .slice(before)
      .flatMap(({ msg, step }) => (msg === 'step' ? [String(step)] : []));
    return [...new Set(steps)];
  }

  /** Has ended by the failpoint; the tests hold nothing that was not killed. */
  private async untilKilled(cause?: Error): Promise<void> {
    const withinMs = 20_000 * patience;
    if (!(await waitUntil(() => !this.daemon.isAlive(), { everyMs: 5, withinMs })))
      throw new Error('the daemon was not killed', { cause });
    await this.daemon.kill9();
  }

  private async restart(): Promise<void> {
    await this.killAt('');
    await this.daemon.start();
    await this.daemon.untilAnswers();
  }

  private async removeEverything(): Promise<void> {
    for (const { id } of (await this.daemon.client.runtime.ListPodSandbox({})).items)
      await removePod(this.daemon, id);
    await this.options.removeMore?.();
  }
}

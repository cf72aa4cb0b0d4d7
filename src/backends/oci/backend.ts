// The OCI backend: crun, runc or another OCI runtime under conmon.
//
// One instance per handler. Its files, all below the state folder:
// runtimes/HANDLER (the runtime's own --root), exits/HANDLER (conmon's exit
// files), and its files in each bundle (FIFOs, attach socket, pid).
import { basename, join } from 'node:path';
import * as z from 'zod';
import { CrispError } from '../../errors.js';
import { expectCgroupMove } from '../../host/cgroup-move.js';
import { cgroupLayout, cgroupOfProcess, cgroupPath, killCgroup, writeResources } from '../../host/cgroup.js';
import { readOomKills } from '../../host/cgroup-stats.js';
import { fileVersions, makeFolder, namesIn, readText, remove, writeFile } from '../../host/files.js';
import { findProgram } from '../../host/programs.js';
import {
  catches,
  identify,
  isAlive,
  programOf,
  waitUntilIdle,
  parentOf,
  signalProcess,
  type ProcessIdentity,
} from '../../host/proc.js';
import { onProcessEnd } from '../../host/process-end.js';
import { withUndo } from '../../host/undo.js';
import { waitUntil } from '../../host/wait.js';
import { whyNot } from '../../set-aside.js';
import { isContainerId, probeIdPattern } from '../../shapes/id.js';
import { log } from '../../log.js';
import { isPodsOwnCgroup } from '../../oci/namespaces.js';
import { checkProcessFolder, checkWorkingFolder } from '../../oci/working-folder.js';
import { writeBundle } from '../../oci/bundle.js';
import type { Process, Resources, Spec } from '../../shapes/spec.js';
import type {
  Alive,
  Backend,
  ContainerPlan,
  ContainerRef,
  ExecPlan,
  Exit,
  OciRuntime,
  Probe,
  RootfsMode,
} from '../backend.js';
import type { Io } from '../../shapes/io.js';
import type { SandboxPlan } from '../../shapes/sandbox.js';
import { attach } from './attach.js';
import { monitor, reopenLog } from './conmon.js';
import { forCrun } from './crun.js';
import { exec } from './exec.js';
import { exitWatched, watchExit } from '../exit-watch.js';
import { Exits } from '../exits.js';
import { linkLog } from '../log-file.js';
import { probe } from './probe.js';
import { Runtime } from './runtime.js';

export interface OciOptions {
  /** The runtime handler. */
  readonly name: string;
  /** The binary; empty: found under the handler's name. */
  readonly path: string;
  /** The runtime's --root; empty: in the state folder. Other programs may use it too. */
  readonly root: string;
  readonly args: readonly string[];
  readonly conmon: string;
  /** The state folder of the daemon (or of the command line). */
  readonly state: string;
  readonly systemdCgroup: boolean;
}

/** The result of create(), which is kept in the record. */
const cgroup = z
  .string()
  .refine((path) => path === '' || (path.startsWith('/') && !path.split('/').includes('..')), 'no cgroup');
const oomKills = z.object({ group: cgroup, count: z.number() });
type OomKills = z.infer<typeof oomKills>;
const processIdentity = z.object({ pid: z.number().int().min(2), startTime: z.string().regex(/^\d+$/) });
const stateSchema = z.object({
  process: processIdentity,
  /** Its conmon; undefined if the first process had another parent. */
  monitor: processIdentity.optional(),
  cgroup,
  terminal: z.boolean(),
  /** It has a pid namespace of its own, so that all its processes end with it. */
  ownPidNamespace: z.boolean(),
  /**
   * The count of the pod's group when the container was made; undefined without a group of its own, and on
   * cgroup v1.
   */
  podOomKills: oomKills.optional(),
});
export type OciState = z.infer<typeof stateSchema>;

const SIGKILL = 9;
const settleMs = 100;
const createPatienceMs = 10_000;
/** Pause before the watch of a process is retried if no descriptor was free. */
const watchAgainMs = 10_000;

/** The backend for crun, runc and other OCI runtimes, each container with conmon as its monitor. */
export class OciBackend implements Backend {
  readonly name: string;
  readonly runtime: Runtime;
  readonly exits: Exits;
  /** The containers with reported exits; the state is absent while they are being made. */
  private readonly made = new Map<
    string,
    { readonly bundle: string; readonly state?: OciState | undefined }
  >();
  private readonly started = new Map<string, { readonly atMs: number; readonly runtimeFile: string }>();
  private readonly processes = new Map<string, Process>();
  private readonly killedByUs = new Set<string>();
  /** Containers whose monitor ended before them. */
  private readonly unwatched = new Set<string>();
  private monitorLost: ((containerId: string) => void) | undefined;
  /** By container: cancels the watch of its monitor or, without one, of its process. */
  private readonly watches = new Map<string, () => void>();
  private conmonPath: string | undefined;

  constructor(private readonly options: OciOptions) {
    this.name = options.name;
    this.runtime = new Runtime({ ...options, root: runtimeRoot(options) });
    this.exits = new Exits(join(options.state, 'exits', options.name));
  }

  async fingerprint(): Promise<string> {
    const paths = await Promise.all(
      [this.runtime.path(), this.findConmon()].map((path) => path.catch(() => '')),
    );
    return fileVersions(paths);
  }

  get ociRuntime(): OciRuntime {
    return { path: this.options.path || this.name, args: this.options.args };
  }

  get systemdCgroup(): boolean {
    return this.options.systemdCgroup;
  }

  probe(): Promise<Probe> {
    this.runtime.forget();
    this.conmonPath = undefined;
    return probe(this, this.probes);
  }

  /** OCI pods need nothing but the pinned namespaces. */
  startSandbox(): Promise<undefined> {
    return Promise.resolve(undefined);
  }
  stopSandbox(): Promise<void> {
    return Promise.resolve();
  }

  rootfs(_plan: SandboxPlan, template?: string): RootfsMode {
    if (template !== undefined)
      throw new CrispError(
        'InvalidArgument',
        `${template} is a template of Proxmox VE, and handler ${this.name} runs OCI images`,
        { hint: 'use a RuntimeClass with a handler of type pct' },
      );
    return { kind: 'overlay' };
  }

  async create(plan: ContainerPlan): Promise<OciState> {
    for (const folder of [runtimeRoot(this.options), this.exits.folder]) makeFolder(folder);
    const pidNamespace = plan.spec.linux.namespaces.find((namespace) => namespace.type === 'pid');
    return withUndo('create OCI container', async (undo) => {
      if (await this.runtime.isCrun()) {
        const spec = await forCrun(plan.spec);
        if (spec !== plan.spec) writeBundle(plan.folder, spec);
      }
      undo.push('runtime create', () => this.delete({ ...plan, state: undefined }));
      this.made.set(plan.id, { bundle: plan.folder });
      const tools = await this.monitorPlan(plan.id, plan.folder);
      const closeLog = plan.logPath ? linkLog(plan.folder, plan.logPath) : undefined;
      const pid = await monitor(
        {
          ...tools,
          exitDir: this.exits.folder,
          log: closeLog !== undefined,
          terminal: plan.spec.process.terminal ?? false,
          stdinOnce: plan.stdinOnce,
          stdin: plan.stdin,
          // In a user namespace crun makes the container's root the owner of its standard streams:
          // these must not be the host's /dev/null.
          ownStreams: plan.spec.linux.namespaces.some(({ type }) => type === 'user'),
        },
        (stderr) => this.runtime.explain('create', stderr),
      ).finally(closeLog);
      const process = await identify(pid);
      if (!process) throw this.runtime.explain('create', 'the first process ended before it was started');
      if (plan.spec.process.cwd !== '/') await checkProcessFolder(plan.spec.process.cwd, pid);
      const monitorPid = await parentOf(pid);
      const state: OciState = {
        process,
        monitor: monitorPid === undefined || monitorPid <= 1 ? undefined : await identify(monitorPid),
        cgroup: await cgroupOfContainer(pid, plan.spec.linux.cgroupsPath),
        terminal: plan.spec.process.terminal ?? false,
        ownPidNamespace: pidNamespace !== undefined && pidNamespace.path === undefined,
        podOomKills: oomKillsOf(plan.sandbox),
      };
      this.made.set(plan.id, { bundle: plan.folder, state });
      return state;
    });
  }

  async start(container: ContainerRef): Promise<{ pid: number }> {
    const state = stateOf(container);
    const runtimeFile = programOf(state.process.pid);
    await this.runtime.call('start', [container.id], { errorId: 'RuntimeFailed' });
    this.started.set(container.id, { atMs: performance.now(), runtimeFile });
    // Not earlier: the record is incomplete until the container is made.
    this.watchMonitor(container.id, container.folder, state);
    return { pid: state.process.pid };
  }

  /**
   * Signals the process directly, identified by pid and start time: starting the runtime would take 5 ms.
   */
  async kill(container: ContainerRef, signal: number, all = false): Promise<void> {
    const { process } = stateOf(container);
    if (signal === SIGKILL) this.killedByUs.add(container.id);
    if (all) await this.runtime.call('kill', ['--all', container.id, String(signal)], { okExitCodes: 'any' });
    else {
      if (signal !== SIGKILL) await this.settled(container.id, process.pid, signal);
      await signalProcess(process, signal);
    }
  }

  /**
   * The first process of a pid namespace loses signals that it has no handler
   * for (pid_namespaces(7)).  So this waits briefly until a new process has installed
   * its handler; otherwise its stop would take the whole grace period. The runtime, which it is until
   * its exec, has handlers as well (runc, as a Go program, for all signals).
   */
  private async settled(id: string, pid: number, signal: number): Promise<void> {
    const { atMs, runtimeFile } = this.started.get(id) ?? { atMs: -Infinity };
    const leftMs = atMs + settleMs - performance.now();
    const isReady = async (): Promise<boolean> =>
      programOf(pid) !== runtimeFile && (await catches(pid, signal));
    if (leftMs > 0) await waitUntil(isReady, { everyMs: 2, withinMs: leftMs });
  }

  async delete(container: ContainerRef): Promise<void> {
    const state = container.state === undefined ? undefined : stateOf(container);
    const wasAlive = state !== undefined && (await isAlive(state.process));
    // A daemon that was killed in create() may have left a running runtime behind: its container can be
    // removed only after the runtime has finished.
    if (!state)
      for (const program of await waitUntilIdle(
        container.folder,
        createPatienceMs,
        basename(this.options.conmon),
      ))
        await signalProcess(program, SIGKILL);
    const result = await this.runtime.call('delete', ['--force', container.id], { okExitCodes: 'any' });
    if (result.exitCode !== 0 && !/does not exist|no such file/i.test(result.stderr))
      throw this.runtime.explain('delete', result.stderr);
    if (wasAlive) await this.exitFile(container); // otherwise conmon would write it after the clean-up
    this.forgetWatch(container.id);
    // A monitor that hangs, or was stopped by another program: later it would write the exit of nothing.
    if (state?.monitor && !(await this.exits.read(container.id, container.folder)))
      await signalProcess(state.monitor, SIGKILL);
    await remove(this.exits.path(container.id));
    await remove(this.runtime.stateFolder(container.id)); // left by a runtime that was killed in create
    this.made.delete(container.id);
    this.killedByUs.delete(container.id);
    this.processes.delete(container.id);
    this.started.delete(container.id);
    this.unwatched.delete(container.id);
  }

  async exec(container: ContainerRef, plan: ExecPlan, signal: AbortSignal): Promise<{ exitCode: number }> {
    expectCgroupMove(); // first, so that the kernel's wait overlaps with the following steps
    const process = await this.processOf(container);
    await checkWorkingFolder(process.cwd, stateOf(container).process.pid);
    return exec(this.runtime, container, process, plan, signal);
  }

  attach(container: ContainerRef, io: Io, signal: AbortSignal): Promise<void> {
    return attach(container, io, signal);
  }

  async update(container: ContainerRef, resources: Resources): Promise<void> {
    const { endless, others } = withoutEndlessQuota(resources);
    const file = join(container.folder, 'resources.json'); // a file: crun cannot read a pipe here, and runc uses "-" for stdin
    writeFile(file, JSON.stringify(others));
    try {
      await this.runtime.call('update', ['--resources', file, container.id]);
    } finally {
      await remove(file);
    }
    if (endless) await writeResources(stateOf(container).cgroup, { cpu: endless });
  }

  reopenLog(container: ContainerRef): Promise<void> {
    return reopenLog(container.folder, container.logPath);
  }

  async checkpoint(container: ContainerRef, folder: string, timeoutMs: number): Promise<void> {
    if (!(await findProgram('criu').catch(() => undefined)))
      throw new CrispError('Unsupported', 'checkpoints need criu, which this host does not have', {
        hint: 'install criu',
      });
    await this.runtime.call(
      'checkpoint',
      ['--image-path', folder, '--work-path', folder, '--leave-running', container.id],
      { timeoutMs },
    );
  }

  async inDoubt(container: ContainerRef): Promise<boolean> {
    return !(await isAlive(stateOf(container).process));
  }

  async list(): Promise<ContainerRef[]> {
    // Most handlers are never used, and their programs may be missing.
    if (!(await namesIn(runtimeRoot(this.options))).some(isContainerId)) return [];
    const all = await this.runtime.list();
    // Others may use the same --root: a container is crisp's if its bundle is at the path that crisp uses for
    // its id.
    return all
      .filter(({ id, bundle }) => isContainerId(id) && bundle === this.bundleOf(id))
      .map(({ id, bundle }) => ({ id, folder: bundle, logPath: '', state: undefined }));
  }

  private bundleOf(id: string): string {
    return probeIdPattern.test(id) ? join(this.probes, id) : join(this.options.state, 'bundles', id);
  }

  private get probes(): string {
    return join(this.options.state, 'probe', this.name);
  }

  onExit(listener: (containerId: string, exit: Exit) => void): void {
    this.exits.watch((id) => {
      if (!this.made.has(id)) return; // of an exec, or of a container that is being deleted
      this.exitOf(id).then(
        (exit) => {
          if (exit) listener(id, exit);
        },
        (error: unknown) => log.error({ err: error, containerId: id }, 'exit file not read'),
      );
    });
  }

  onMonitorLost(listener: (containerId: string) => void): void {
    this.monitorLost = listener;
  }

  private watchMonitor(id: string, bundle: string, state: OciState): void {
    if (!this.monitorLost || !state.monitor || this.watches.has(id)) return;
    this.watch(id, state.monitor, () => this.monitorEnded(id, bundle, state));
  }

  private watch(id: string, process: ProcessIdentity, ended: () => Promise<void>): void {
    const failed = (error: unknown): void =>
      log.error({ err: error, containerId: id }, 'the monitor of a container cannot be watched');
    try {
      this.watches.set(
        id,
        onProcessEnd(process, () => void ended().catch(failed)),
      );
    } catch (error) {
      failed(error);
      const again = setTimeout(() => {
        this.watch(id, process, ended);
      }, watchAgainMs).unref();
      this.watches.set(id, () => {
        clearTimeout(again);
      });
    }
  }

  /** The monitor has ended. */
  private async monitorEnded(id: string, bundle: string, { process }: OciState): Promise<void> {
    if (!this.watches.has(id) || (await this.exits.read(id, bundle))) return; // it has done its work
    const processEnded = async (watch?: ProcessIdentity): Promise<void> => {
      this.unwatched.add(id);
      await exitWatched(watch);
      if (this.watches.has(id) && !(await this.exits.read(id, bundle))) this.monitorLost?.(id);
    };
    if (!(await isAlive(process))) return processEnded();
    this.unwatched.add(id);
    const watch = await watchExit(bundle, process, this.exits.path(id));
    if (!this.watches.has(id)) return;
    if (!(await this.exits.read(id, bundle))) this.monitorLost?.(id);
    this.watch(id, process, () => processEnded(watch));
  }

  private forgetWatch(id: string): void {
    this.watches.get(id)?.();
    this.watches.delete(id);
  }

  cgroup(container: ContainerRef): string {
    return stateOf(container).cgroup;
  }

  close(): Promise<void> {
    for (const id of [...this.watches.keys()]) this.forgetWatch(id);
    this.exits.close();
    return Promise.resolve();
  }

  async survey(container: ContainerRef, wasStarted = false): Promise<Alive> {
    const state = stateOf(container);
    this.made.set(container.id, { bundle: container.folder, state });
    const exit = await this.exitOf(container.id);
    if (exit) return { status: 'stopped', exit };
    // The runtime, a process for each container, is asked only for what the kernel does not know.
    if (wasStarted && (await isAlive(state.process))) {
      this.watchMonitor(container.id, container.folder, state);
      return { status: 'running', pid: state.process.pid };
    }
    const known = await this.runtime.state(container.id);
    if (!known) return { status: 'missing' };
    if (known.status === 'created' || known.status === 'running' || known.status === 'paused') {
      this.watchMonitor(container.id, container.folder, state);
      return { status: known.status === 'created' ? 'created' : 'running', pid: known.pid };
    }
    await this.endRest(container.id);
    return { status: 'stopped', exit: undefined };
  }

  /**
   * conmon detects OOM kills only in the container's own group, and only while the
   * group exists: systemd removes a scope with its last process. A pod's limit is
   * hit in the pod's group, which exists longer, so the pod's group is read as well.
   */
  private async exitOf(id: string): Promise<Exit | undefined> {
    const { bundle = '', state } = this.made.get(id) ?? {};
    const exit = await this.exits.read(id, bundle);
    if (exit) await this.endRest(id);
    const before = state?.podOomKills;
    // Without a conmon the container's own group has not been checked.
    if (exit && !exit.oomKilled && exit.exitCode === 128 + SIGKILL && state && this.unwatched.has(id))
      return { ...exit, oomKilled: !this.killedByUs.has(id) && (readOomKills(state.cgroup) ?? 0) > 0 };
    if (!exit || exit.oomKilled || exit.exitCode !== 128 + SIGKILL || this.killedByUs.has(id) || !before)
      return exit;
    return { ...exit, oomKilled: (readOomKills(before.group) ?? 0) > before.count };
  }

  /**
   * Kills the remaining processes after the end of the first one: they end with it
   * only in a pid namespace of their own, and would otherwise keep the ports and the
   * memory that the replacement needs.
   */
  private async endRest(id: string): Promise<void> {
    const state = this.made.get(id)?.state;
    if (!state || state.ownPidNamespace || !state.cgroup.includes(id)) return; // a group without its id in the name may be shared
    await killCgroup(state.cgroup).catch((error: unknown) =>
      log.error({ err: error, containerId: id }, 'a container has ended, but not all its processes'),
    );
  }

  /** The process of config.json, cached because probes need it all the time. */
  private async processOf(container: ContainerRef): Promise<Process> {
    let process = this.processes.get(container.id);
    if (!process) {
      ({ process } = JSON.parse(await readText(join(container.folder, 'config.json'))) as Spec);
      this.processes.set(container.id, process);
    }
    return process;
  }

  private async findConmon(): Promise<string> {
    return (this.conmonPath ??= await findProgram(this.options.conmon));
  }

  private async monitorPlan(id: string, bundle: string) {
    return {
      conmon: await this.findConmon(),
      runtime: await this.runtime.path(),
      program: await this.runtime.program(),
      runtimeArgs: this.runtime.globalArgs,
      id,
      bundle,
    };
  }

  /** Waits until conmon has written the exit file, for at most two seconds: a killed conmon never does. */
  private async exitFile(container: ContainerRef): Promise<void> {
    await this.exits.wait(container.id, container.folder, 2_000);
  }
}

/** The runtime's --root of a handler. */
export function runtimeRoot({
  name,
  state,
  root,
}: {
  readonly name: string;
  readonly state: string;
  readonly root: string;
}): string {
  return root || join(state, 'runtimes', name);
}

/**
 * The path of a container's group: from the kernel, or on v1 from the specification, where the systemd driver
 * has SLICE:PREFIX:ID (runc's and crun's documentation of cgroupsPath). Empty: it has none of its own.
 */
export async function cgroupOfContainer(pid: number, specified = ''): Promise<string> {
  return (await cgroupOfProcess(pid)) ?? (specified === '' ? '' : cgroupPath(specified));
}

function oomKillsOf(sandbox: SandboxPlan): OomKills | undefined {
  const count = isPodsOwnCgroup(sandbox) ? readOomKills(sandbox.cgroupParent) : undefined;
  return count === undefined ? undefined : { group: cgroupPath(sandbox.cgroupParent), count };
}

/** The state that create() has returned for the container. @throws RecordUnreadable */
export function stateOf(container: ContainerRef): OciState {
  const { data, error } = stateSchema.safeParse(container.state);
  if (error)
    throw new CrispError('RecordUnreadable', `the record of a container is invalid: ${whyNot(error)}`, {
      cause: error,
    });
  return data;
}

/**
 * crun 1.8 fails on a quota of -1 with cgroup v1 (ERANGE), so crisp writes it there; v2 has the value "max",
 * which the runtimes support.
 */
function withoutEndlessQuota(resources: Resources): { endless?: Resources['cpu']; others: Resources } {
  const { quota = 0, period, ...cpu } = resources.cpu ?? {};
  if (quota >= 0 || cgroupLayout().version === 'v2') return { others: resources };
  return { endless: { quota, ...(period ? { period } : {}) }, others: { ...resources, cpu } };
}

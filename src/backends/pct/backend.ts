// The Proxmox backend: each container is a CT, made and removed by pct.
//
//   create   pct create on the mounted overlay; lxc.include; drop-in
//   start    watcher, pct start
//   (runs)   lxc-start is its parent, the watcher writes its log and its exit
//   kill     signals its first process directly
//   delete   pct destroy
//
// A call of pct takes 0.5 to 1.4 s, nearly all of it Perl's start-up. So a container
// needs only three calls, and pct is not polled: the state is read from liblxc and the
// kernel. Each change passes the guard rail first.
//
// This is the table of the verbs; each is a function in the file of its name.
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { CrispError } from '../../errors.js';
import { fileVersions } from '../../host/files.js';
import { findProgram } from '../../host/programs.js';
import type { Io } from '../../shapes/io.js';
import type { IdMaps, SandboxPlan } from '../../shapes/sandbox.js';
import type { Resources, Spec } from '../../shapes/spec.js';
import type {
  Alive,
  Backend,
  ContainerPlan,
  ContainerRef,
  ExecPlan,
  Exit,
  FoundContainer,
  Probe,
  Remnant,
  RootfsMode,
} from '../backend.js';
import type { Exits } from '../exits.js';
import { cgroupOf } from './cgroups.js';
import { ownNetwork, rootfsOf } from './choices.js';
import { contextOf, type PctContext } from './context.js';
import { create } from './create.js';
import { attach, exec } from './enter.js';
import { addresses } from './find.js';
import { findingsSchema } from './findings.js';
import { makeGuest } from './guest.js';
import { kill } from './kill.js';
import { notHonoured } from './lxc-config.js';
import { unprivilegedIds, type PctBackendOptions } from './options.js';
import { probe } from './probe.js';
import { reclaim, list, survey } from './recover.js';
import { remnants, removeContainer } from './remove.js';
import { start, withLog } from './start.js';
import { stateOf, type PctState } from './state.js';
import { update } from './update.js';
import { inDoubt, onExit } from './watch.js';
import { send } from './watcher.js';

/** The path on Debian, and so on Proxmox VE. */
const liblxc = `/usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu/liblxc.so.1`;
/** The code of pct (package pve-container). */
const pveContainer = '/usr/share/perl5/PVE/LXC.pm';

/** The backend for Proxmox CTs: each container is one CT, managed by pct(1). */
export class PctBackend implements Backend {
  readonly name: string;
  readonly exits: Exits;
  private readonly ctx: PctContext;

  constructor(private readonly options: PctBackendOptions) {
    this.name = options.name;
    this.ctx = contextOf(options);
    this.exits = this.ctx.exits;
  }

  async probe(): Promise<Probe> {
    const found = await probe(this.ctx);
    if (found.ready) this.recall(found);
    return found;
  }

  recall({ found }: Probe): void {
    this.ctx.found = findingsSchema.parse(found);
  }

  async fingerprint(): Promise<string> {
    const { pct, lxc_info: info, lxc_attach: attach } = this.options.lxc.tools;
    const paths = await Promise.all([pct, info, attach].map((name) => findProgram(name).catch(() => '')));
    // The library and the Perl code change without pct and the programs of liblxc. The storages are included
    // because the probe chooses one for copies of images.
    return fileVersions([...paths, liblxc, pveContainer, join(this.options.lxc.pve_folder, 'storage.cfg')]);
  }

  userNamespace(): IdMaps | undefined {
    return this.options.lxc.unprivileged ? unprivilegedIds : undefined;
  }

  /**
   * CTs need nothing but the pinned namespaces. @throws UnsupportedField if the ids of the user namespace are
   * not PVE's ids for unprivileged CTs
   */
  async startSandbox({ idMaps }: SandboxPlan): Promise<undefined> {
    if (idMaps && !isDeepStrictEqual(idMaps, unprivilegedIds))
      throw new CrispError(
        'UnsupportedField',
        'userns_options: a Proxmox CT can only have the ids 100000 to 165535',
        { hint: 'remove hostUsers: CTs are unprivileged without it' },
      );
  }
  stopSandbox(): Promise<void> {
    return Promise.resolve();
  }

  ownNetwork(plan: SandboxPlan): boolean {
    return ownNetwork(this.ctx, plan);
  }

  async addresses(container: ContainerRef): Promise<string[]> {
    return addresses(this.ctx, container);
  }

  rootfs(plan: SandboxPlan, template?: string): RootfsMode {
    return rootfsOf(this.ctx, plan, template);
  }

  async forgetImage(imageId: string): Promise<void> {
    await this.ctx.archives.forget(imageId);
  }

  notHonoured(spec: Spec): string[] {
    return notHonoured(spec, this.ctx.found);
  }

  async create(plan: ContainerPlan): Promise<PctState> {
    return create(this.ctx, plan);
  }

  async makeGuest(plan: ContainerPlan, starts: boolean): Promise<number> {
    return makeGuest(this.ctx, plan, starts);
  }

  async start(container: ContainerRef): Promise<{ pid: number }> {
    return start(this.ctx, container);
  }

  async kill(container: ContainerRef, signal: number, all = false): Promise<void> {
    await kill(this.ctx, container, signal, all);
  }

  async delete(container: ContainerRef): Promise<void> {
    await removeContainer(this.ctx, container);
  }

  async remnants(): Promise<readonly Remnant[]> {
    return remnants(this.ctx);
  }

  async exec(container: ContainerRef, plan: ExecPlan, signal: AbortSignal): Promise<{ exitCode: number }> {
    return exec(this.ctx, container, plan, signal);
  }

  async attach(container: ContainerRef, io: Io, signal: AbortSignal): Promise<void> {
    await attach(this.ctx, container, io, signal);
  }

  async update(container: ContainerRef, resources: Resources): Promise<void> {
    await update(this.ctx, container, resources);
  }

  async reopenLog(container: ContainerRef): Promise<void> {
    if (!(await withLog(container, () => send(container, 'reopen'))))
      throw new CrispError('RuntimeFailed', 'the watcher of the CT did not reopen the log', {
        stage: 'reopen log',
        tool: 'watcher',
      });
  }

  async checkpoint(): Promise<void> {
    throw new CrispError('Unsupported', 'Proxmox does not support checkpoints of CTs', {
      stage: 'checkpoint',
    });
  }

  async inDoubt(container: ContainerRef): Promise<boolean> {
    return inDoubt(this.ctx, container);
  }

  survey(container: ContainerRef): Promise<Alive> {
    return survey(this.ctx, container);
  }

  async list(): Promise<FoundContainer[]> {
    return list(this.ctx);
  }

  async reclaim(container: ContainerRef): Promise<number | undefined> {
    return reclaim(this.ctx, container);
  }

  onExit(listener: (containerId: string, exit: Exit) => void): void {
    onExit(this.ctx, listener);
  }

  onMonitorLost(listener: (containerId: string) => void): void {
    this.ctx.monitorLost = listener;
  }

  cgroup(container: ContainerRef): string {
    return cgroupOf(stateOf(container)?.vmid ?? 0);
  }

  close(): Promise<void> {
    for (const hold of this.ctx.watched.values()) hold();
    this.exits.close();
    return Promise.resolve();
  }
}

// The Proxmox backend: each container is a CT, made and removed by pct.
//
//   create   pct create on the overlay that is mounted already; lxc.include; drop-in
//   start    watcher, pct start
//   (runs)   lxc-start is its parent, the watcher keeps its log and its exit
//   kill     straight to its first process
//   delete   pct destroy
//
// A call of pct takes 0.5 to 1.4 s, nearly all of it Perl's start-up, so a life
// has three of them and nothing is ever polled: what is alive is asked from
// liblxc and the files of the kernel.  Before each act stands the guard rail.
import { appendFile, readdir, rm, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import * as z from 'zod';
import { CrispError } from '../../errors.js';
import {
  killCgroup,
  removeCgroup,
  signalCgroup,
  unifiedSettings,
  writeResources,
} from '../../host/cgroup.js';
import {
  exists,
  fileVersion,
  makeClosedFolder,
  makeFolder,
  namesIn,
  readFileIfThere,
  readText,
  remove,
  writeFileAtomic,
} from '../../host/files.js';
import {
  identify,
  isAlive,
  waitUntilIdle,
  parentOf,
  signalProcess,
  type ProcessIdentity,
} from '../../host/proc.js';
import { findProgram } from '../../host/programs.js';
import { run } from '../../host/run.js';
import { withUndo } from '../../host/undo.js';
import { log } from '../../log.js';
import { withWorkingFolder } from '../../oci/working-folder.js';
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
import { exitWatched, watchExit } from '../exit-watch.js';
import type { Io, TerminalSize } from '../../shapes/io.js';
import type { IdMaps, SandboxPlan } from '../../shapes/sandbox.js';
import { whyNot } from '../../set-aside.js';
import { readTail } from '../../host/beneath.js';
import { Exits } from '../exits.js';
import { findingsSchema, type Findings } from './findings.js';
import { linkLog, tryLog } from '../log-file.js';
import { followSizes } from '../terminal-sizes.js';
import { Archives } from './archives.js';
import { releaseBinds, shiftedBinds } from './binds.js';
import { environmentFile, includeFile, includeText, isFolder, lxcLog } from './bundle.js';
import { cgroupOf, monitorCgroupOf } from './cgroups.js';
import { guestsOf } from './cluster.js';
import { createArgs, updateArgs, type Node } from './create-args.js';
import { exec } from './exec.js';
import { Guard } from './guard.js';
import { recoveryLine, type GuestConfig, type Mark } from './guest-config.js';
import { annotationPrefix, guestOptions, type GuestOptions } from './guest-options.js';
import { Intents, isPctAtWork } from './intents.js';
import { environmentKey, foldersOfLxc, mountsOf, notHonoured } from './lxc-config.js';
import { ownerOf, thisNode, unprivilegedIds, type PctBackendOptions } from './options.js';
import { meaningOf, Pct, type Meaning } from './pct.js';
import { probe } from './probe.js';
import { Seal } from './seal.js';
import { makeTargets } from './targets.js';
import { dropIn, environmentText, Units } from './unit.js';
import { Vmids } from './vmids.js';
import {
  attach,
  fifo,
  holdWatch,
  startWatcher,
  send,
  wakeWatcher,
  watcherName,
  type WatcherPlan,
} from './watcher.js';

/** What create() returns and the record keeps. */
const stateSchema = z.object({
  vmid: z.number().int().positive(),
  /** Of its process, as the host has it. */
  uid: z.number().int().nonnegative(),
  stdin: z.enum(['none', 'open', 'once']),
  terminal: z.boolean(),
  /** Its end is the end of all its processes; not known of a CT that was found again. */
  ownPidNamespace: z.boolean().optional(),
});
export type PctState = z.infer<typeof stateSchema>;

const SIGKILL = 9;
const lostRaces = 10;
const infoTimeoutMs = 10_000;
const endPatienceMs = 10_000;
const atWorkPauseMs = 100;
/** How often a CT without a watcher is looked at. */
const unwatchedLookMs = 1_000;

export class PctBackend implements Backend {
  readonly name: string;
  readonly exits: Exits;
  found: Findings = { hostManaged: false, givesGroups: true, environmentReachesHooks: true };
  private readonly pct: Pct;
  private readonly pctTimeoutMs: number;
  private readonly intents: Intents;
  private readonly guard: Guard;
  private readonly vmids: Vmids;
  private readonly archives: Archives;
  private readonly units: Units;
  private readonly seal: Seal;
  private readonly node: Node = thisNode();
  /** Whose exits are told; the state is absent while they are being made. */
  private readonly made = new Map<string, ContainerRef>();
  private readonly processes = new Map<string, ProcessIdentity>();
  /** Connections to the watchers of running CTs; each entry ends one. That of a lost watcher stays: it is told once. */
  private readonly watched = new Map<string, () => void>();
  private monitorLost: (containerId: string) => void = () => undefined;

  constructor(private readonly options: PctBackendOptions) {
    const { lxc, state } = options;
    this.name = options.name;
    this.exits = new Exits(join(state, 'exits', options.name));
    this.pctTimeoutMs = lxc.pct_timeout_seconds * 1000;
    this.pct = new Pct({ program: lxc.tools.pct, timeoutMs: this.pctTimeoutMs, outputFolder: state });
    this.intents = new Intents(options.root, ownerOf(options));
    this.guard = new Guard({
      pveFolder: lxc.pve_folder,
      range: lxc.vmid_range,
      tag: lxc.tag,
      owner: ownerOf(options),
    });
    this.vmids = new Vmids(lxc.pve_folder, lxc.vmid_range);
    this.archives = new Archives(join(options.root, 'archives'));
    this.seal = new Seal(options.root);
    this.units = new Units(lxc.unit_folder, lxc.tools.systemctl);
  }

  async probe(): Promise<Probe> {
    return probe(this, this.options);
  }

  recall({ found }: Probe): void {
    this.found = findingsSchema.parse(found);
  }

  async fingerprint(): Promise<string> {
    const { pct, lxc_info: info, lxc_attach: attach } = this.options.lxc.tools;
    const paths = await Promise.all([pct, info, attach].map((name) => findProgram(name).catch(() => '')));
    // The probe chooses a storage for copies of images.
    const files = [...paths, join(this.options.lxc.pve_folder, 'storage.cfg')];
    return files.map((path) => `${path} ${path && fileVersion(path)}`).join(', ');
  }

  userNamespace(): IdMaps | undefined {
    return this.options.lxc.unprivileged ? unprivilegedIds : undefined;
  }

  /** CTs need nothing but the pinned namespaces. @throws UnsupportedField for a user namespace with other ids than PVE gives to each unprivileged CT */
  async startSandbox({ idMaps }: SandboxPlan): Promise<undefined> {
    if (idMaps && !isDeepStrictEqual(idMaps, unprivilegedIds))
      throw new CrispError(
        'UnsupportedField',
        'userns_options: a Proxmox CT has the ids 100000 to 165535 and no others',
        { hint: 'leave hostUsers out: CTs are unprivileged without it' },
      );
  }
  stopSandbox(): Promise<void> {
    return Promise.resolve();
  }

  ownNetwork(plan: SandboxPlan): boolean {
    const { bridge } = guestOptions(this.options, plan.annotations);
    if (bridge && !this.found.hostManaged)
      throw new CrispError(
        'Unsupported',
        'CTs of this node can have no net0 of their own: its pct sets no addresses',
        { stage: 'network', hint: 'pve-container 6.0.15 (Proxmox VE 9.1) and newer can' },
      );
    return bridge !== undefined;
  }

  async addresses(container: ContainerRef): Promise<string[]> {
    const { vmid } = await this.mine(container);
    return (await this.lxcInfo(vmid, '-iH'))
      .split('\n')
      .filter((address) => address !== '' && !address.startsWith('fe80:'));
  }

  rootfs(plan: SandboxPlan, template?: string): RootfsMode {
    const { volume } = this.guestOptions(plan);
    if (template !== undefined && !volume)
      throw new CrispError(
        'InvalidArgument',
        `a guest made from ${template} needs a volume, and no storage is named`,
        { hint: `set lxc.rootfs.storage, or the pod's annotation ${annotationPrefix}storage` },
      );
    return { kind: volume ? 'own' : 'overlay' };
  }

  async forgetImage(imageId: string): Promise<void> {
    await this.archives.forget(imageId);
  }

  private guestOptions(plan: SandboxPlan): GuestOptions {
    const { bridge, volume } = guestOptions(this.options, plan.annotations);
    return {
      bridge: plan.ownNetwork ? bridge : undefined,
      volume: volume ?? (plan.namespaces.user === undefined ? undefined : this.found.copies),
    };
  }

  notHonoured(spec: Spec): string[] {
    return notHonoured(spec, this.found);
  }

  async create(plan: ContainerPlan): Promise<PctState> {
    for (const folder of [this.exits.folder, this.options.root]) makeFolder(folder);
    return withUndo('create CT', async (undo) => {
      const { id, folder, logPath } = plan;
      this.made.set(id, { id, folder, logPath, state: undefined });
      if (logPath) tryLog(logPath); // the watcher opens it at the start, which is too late for a refusal
      // 1. What is mounted, and where.
      const root = plan.sandbox.idMaps?.uids[0]?.hostID ?? 0;
      undo.push('volumes', () => releaseBinds(plan.folder));
      const spec =
        plan.sandbox.namespaces.user === undefined
          ? plan.spec
          : await shiftedBinds(plan.spec, plan.folder, plan.sandbox.namespaces.user, plan.shiftedSources);
      if (this.rootfs(plan.sandbox, plan.template).kind === 'overlay')
        await makeTargets(
          spec.root.path,
          [
            ...foldersOfLxc,
            ...mountsOf(spec).map(({ destination, source }) => ({
              path: destination,
              isFolder: source === undefined || isFolder(source),
            })),
          ],
          root,
        );
      // 2. The CT, under an id that nobody has. Found by its mark: a pct that was killed may have made it all the same.
      undo.push('CT', () => this.delete({ ...plan, state: undefined }));
      const vmid = await this.takeVmid(plan);
      const state: PctState = {
        vmid,
        uid: root + plan.spec.process.user.uid,
        stdin: plan.stdin ? (plan.stdinOnce ? 'once' : 'open') : 'none',
        terminal: plan.spec.process.terminal ?? false,
        ownPidNamespace: plan.spec.linux.namespaces.some(
          ({ type, path }) => type === 'pid' && path === undefined,
        ),
      };
      this.made.set(id, { id, folder, logPath, state });
      // 3. How it is started.
      const { environmentReachesHooks } = this.found;
      await writeFile(
        includeFile(plan.folder),
        includeText(plan, spec, vmid, { cgroup: this.node.cgroup, environmentReachesHooks }),
        { mode: 0o600 },
      );
      const variables = environmentText(plan.spec.process.env);
      if (variables !== undefined) await writeFile(environmentFile(plan.folder), variables, { mode: 0o600 });
      await Promise.all([
        this.include(vmid, plan),
        this.units.write(vmid, dropIn(plan.spec.process, plan.folder, environmentKey(this.found))),
      ]);
      return state;
    });
  }

  async start(container: ContainerRef): Promise<{ pid: number }> {
    const { vmid, config } = await this.mine(container);
    const state = stateOf(container);
    if (!state) throw new CrispError('WrongContainerState', `container ${container.id} was never made`);
    await this.onlyOneOnBridge(vmid, config);
    const spec = await specOf(container);
    await withWorkingFolder(spec, spec.root.path); // again: another container may have changed what is in a volume
    await send(container, 'quit'); // one that waits for a start that a crash of crisp cut off
    await withLog(container, () => startWatcher(this.watcherPlan(container, state)));
    try {
      await this.pct.call('start', vmid);
    } catch (error) {
      const meaning = meaningOf(error);
      if (meaning !== 'exited at once' && meaning !== 'already running') {
        await send(container, 'quit');
        // Refused, and not failed: it was never started, and may be started later.
        if (error instanceof CrispError && error.core === 'Locked') await forgetStart(container);
        throw await withLxcLog(error, vmid, container);
      }
    }
    const pid = await this.initPid(vmid);
    await this.remember(container.id, pid);
    await this.holdWatcher(container);
    return { pid: pid ?? 0 };
  }

  /** Straight to the first process: pct would only send SIGKILL, and takes a second for it. */
  async kill(container: ContainerRef, signal: number, all = false): Promise<void> {
    const found = await this.find(container);
    if (!found) return;
    const pid = await this.initPid(found.vmid);
    if (all && signal === SIGKILL) await killCgroup(cgroupOf(found.vmid));
    else if (all) await signalCgroup(cgroupOf(found.vmid), signal);
    else if (pid !== undefined) {
      const process = await identify(pid);
      if (process) await signalProcess(process, signal);
    } else if (signal === SIGKILL && !(await wasStarted(container))) {
      await writeFileAtomic(this.exits.path(container.id), String(128 + SIGKILL)); // nothing runs, and so nobody else will tell of its end
    }
  }

  async delete(container: ContainerRef): Promise<void> {
    this.watched.get(container.id)?.(); // it ends its watcher itself
    this.watched.delete(container.id);
    if (!stateOf(container)) await this.waitUntilCreateEnds(container);
    await this.endRemnantsOf(container.id);
    const found = await this.find(container);
    const vmid = found?.vmid ?? (await this.formerVmid(container));
    if (found) {
      // A `pct create` that was killed leaves its lock; the CT is ours, and nobody else makes it.
      if (found.config.values['lock'] === 'create') await this.callUnless('not locked', 'unlock', found.vmid);
      await keepReadable(container);
      await killCgroup(cgroupOf(found.vmid)); // in a shared pid namespace processes outlive init
      await removeAppArmor(join(this.options.lxc.lxc_folder, String(found.vmid), 'apparmor')).catch(
        (error: unknown) =>
          log.warn({ err: error, vmid: found.vmid }, 'a CT is gone, but not its AppArmor profile'),
      );
      await this.intents.note('destroy', found.vmid, container.id);
      await this.callUnless('missing', 'destroy', found.vmid, ['--force', '1', '--purge', '1']);
    }
    if (vmid !== undefined) await this.clearAway(vmid);
    await send(container, 'quit');
    await releaseBinds(container.folder);
    await remove(this.exits.path(container.id));
    this.made.delete(container.id);
    this.processes.delete(container.id);
  }

  /** What a destroyed CT has beside its configuration; then nothing is left to be done for it. */
  private async clearAway(vmid: number): Promise<void> {
    await this.units.remove(vmid);
    await tearDown(join(this.options.lxc.lxc_folder, String(vmid)));
    for (const group of [cgroupOf(vmid), monitorCgroupOf(vmid)])
      await removeCgroup(group).catch((error: unknown) =>
        log.warn({ err: error, vmid }, 'a CT is gone, but not its cgroup'),
      ); // that of a killed lxc-start
    await this.intents.forget(vmid);
  }

  async remnants(): Promise<readonly Remnant[]> {
    const found: Remnant[] = [];
    for (const intent of await this.intents.all()) {
      const { vmid, containerId, notedAtMs } = intent;
      if (await isPctAtWork(vmid)) continue;
      if (await this.guard.isRemnant(vmid))
        found.push({ name: `CT ${vmid} of ${containerId}`, end: () => this.endRemnant(vmid) });
      else if (Date.now() - notedAtMs > this.pctTimeoutMs) await this.intents.forget(vmid); // done, but for the last step
    }
    return found;
  }

  /** Before a container is removed: what an earlier try has left, once the pct of it is at its end. */
  private async endRemnantsOf(containerId: string): Promise<void> {
    for (const { vmid } of (await this.intents.all()).filter(
      (intent) => intent.containerId === containerId,
    )) {
      const deadline = performance.now() + this.pctTimeoutMs;
      while ((await isPctAtWork(vmid)) && performance.now() < deadline) await sleep(atWorkPauseMs);
      await this.endRemnant(vmid);
    }
  }

  /** Unlocked, pct destroys such a CT like any other; its disks by their names, which its configuration has lost. */
  private async endRemnant(vmid: number): Promise<void> {
    if ((await isPctAtWork(vmid)) || !(await this.guard.isRemnant(vmid))) return;
    log.warn({ vmid }, 'ending the removal of a CT that was cut off');
    await this.callUnless('not locked', 'unlock', vmid);
    await this.callUnless('missing', 'destroy', vmid, [
      '--force',
      '1',
      '--purge',
      '1',
      '--destroy-unreferenced-disks',
      '1',
    ]);
    await this.clearAway(vmid);
  }

  async exec(container: ContainerRef, plan: ExecPlan, signal: AbortSignal): Promise<{ exitCode: number }> {
    const vmid = await this.running(container);
    const { lxc } = this.options;
    const { process: own, root } = await specOf(container);
    const rootfs = (await exists(root.path)) ? root.path : `/proc/${(await this.initPid(vmid)) ?? 0}/root`; // that of a CT that was found again is mounted for it alone
    return exec(
      {
        program: lxc.tools.lxc_attach,
        lxcFolder: lxc.lxc_folder,
        vmid,
        own,
        hostUid: stateOf(container)?.uid ?? 0,
        bundle: container.folder,
        hasShell: await exists(join(rootfs, 'bin/sh')),
      },
      plan,
      signal,
    );
  }

  async attach(container: ContainerRef, io: Io, signal: AbortSignal): Promise<void> {
    const vmid = await this.running(container);
    followSizes(io, (size) =>
      this.resize(container, vmid, size).catch((error: unknown) =>
        log.warn({ err: error, containerId: container.id }, 'terminal not resized'),
      ),
    );
    await attach(container, io, signal);
  }

  /** pct for what the GUI shows, the kernel's files for what pct rounds. */
  async update(container: ContainerRef, resources: Resources): Promise<void> {
    const { vmid } = await this.mine(container);
    const args = updateArgs(resources, this.node);
    if (args.length) await this.pct.call('set', vmid, args);
    // pct sets memory.high too, next to the limit; that which the container has asked for stays.
    const high = args.includes('--memory')
      ? (await specOf(container)).linux.resources?.unified?.['memory.high']
      : undefined;
    if ((await this.initPid(vmid)) !== undefined)
      await writeResources(
        cgroupOf(vmid),
        high === undefined
          ? resources
          : { ...resources, unified: { 'memory.high': high, ...resources.unified } },
      );
    else if (this.node.cgroup === 'v2')
      await appendFile(
        includeFile(container.folder),
        unifiedSettings(resources)
          .map(([file, value]) => `lxc.cgroup2.${file} = ${value}\n`)
          .join(''),
      );
  }

  async reopenLog(container: ContainerRef): Promise<void> {
    if (!(await withLog(container, () => send(container, 'reopen'))))
      throw new CrispError('RuntimeFailed', 'the watcher of the CT did not reopen the log', {
        stage: 'reopen log',
        tool: 'watcher',
      });
  }

  async checkpoint(): Promise<void> {
    throw new CrispError('Unsupported', 'Proxmox has no checkpoints of CTs', { stage: 'checkpoint' });
  }

  async inDoubt({ id }: ContainerRef): Promise<boolean> {
    const process = this.processes.get(id);
    return process === undefined || !(await isAlive(process));
  }

  async survey(containers: readonly ContainerRef[]): Promise<Map<string, Alive>> {
    const found = new Map<string, Alive>();
    await Promise.all(
      containers.map(async (container) => {
        found.set(container.id, await this.alive(container));
      }),
    );
    return found;
  }

  async list(): Promise<FoundContainer[]> {
    return [...(await this.guard.all())].flatMap(([vmid, { mark, recoveryLabel }]): FoundContainer[] =>
      mark
        ? [
            {
              id: mark.containerId,
              folder: join(this.options.state, 'bundles', mark.containerId),
              logPath: '',
              recoveryLabel:
                recoveryLabel && (this.seal.fits(mark, recoveryLabel) ? recoveryLabel.text : 'forged'),
              state: { vmid, uid: 0, stdin: 'none', terminal: false } satisfies PctState,
            },
          ]
        : [],
    );
  }

  /** The watcher of a CT lives as long as it, and has kept what is needed of the bundle. */
  async reclaim(container: ContainerRef): Promise<number | undefined> {
    const { vmid } = await this.mine(container);
    makeClosedFolder(container.folder); // it runs: nothing more is mounted from here
    const watched = await wakeWatcher(vmid, container);
    if (!watched) await keepReadable(container);
    const pid = await this.initPid(vmid);
    if (pid !== undefined && !watched)
      log.error(
        { containerId: container.id, vmid },
        'a CT runs without its watcher: its log ends here, and its end will not be seen',
      );
    return pid;
  }

  onExit(listener: (containerId: string, exit: Exit) => void): void {
    this.exits.watch((id) => {
      const container = this.made.get(id);
      if (!container) return; // one that is being deleted
      this.exitOf(container).then(
        (exit) => {
          if (exit) listener(id, exit);
        },
        (error: unknown) => log.error({ err: error, containerId: id }, 'exit file not read'),
      );
    });
  }

  cgroup(container: ContainerRef): string {
    return cgroupOf(stateOf(container)?.vmid ?? 0);
  }

  onMonitorLost(listener: (containerId: string) => void): void {
    this.monitorLost = listener;
  }

  /** Hears of the end of a watcher: a connection on which nothing is said ends with it. */
  private async holdWatcher(container: ContainerRef): Promise<void> {
    const { id } = container;
    if (this.watched.has(id)) return;
    this.watched.set(id, () => undefined);
    const lost = async (): Promise<void> => {
      // A watcher ends with its CT, when it has written the exit; delete() ends it too.
      if (!this.made.has(id) || (await this.exits.read(id, container.folder))) return;
      const process = this.processes.get(id);
      const watch =
        process && (await isAlive(process))
          ? await watchExit(container.folder, process, this.exits.path(id))
          : undefined;
      this.monitorLost(id);
      // Nobody tells the end of the CT now.
      while (this.made.has(id) && !(await this.inDoubt(container)))
        await sleep(unwatchedLookMs, undefined, { ref: false }); // it does not hold up the end of the daemon
      await exitWatched(watch);
      if (this.made.has(id) && !(await this.exits.read(id, container.folder))) this.monitorLost(id);
    };
    const ended = (): void => {
      lost().catch((error: unknown) =>
        log.error(
          { err: error, containerId: id },
          'the watcher of a CT has ended, and that is not dealt with',
        ),
      );
    };
    const hold = await holdWatch(container, ended);
    if (hold && this.watched.has(id)) this.watched.set(id, hold);
    else if (hold)
      hold(); // deleted meanwhile
    else if (!(await this.exits.read(id, container.folder))) ended();
  }

  close(): Promise<void> {
    for (const hold of this.watched.values()) hold();
    this.exits.close();
    return Promise.resolve();
  }

  /** lxc-start hands a size on when it is told so: the terminal is not its own, so the kernel does not tell it. */
  private async resize(
    container: ContainerRef,
    vmid: number,
    { width, height }: TerminalSize,
  ): Promise<void> {
    await send(container, `resize ${height} ${width}`);
    const pid = await this.initPid(vmid);
    const parent = pid === undefined ? undefined : await parentOf(pid);
    const process = parent === undefined ? undefined : await identify(parent);
    if (process) await signalProcess(process, 'SIGWINCH');
  }

  private async callUnless(fine: Meaning, ...[verb, vmid, args]: Parameters<Pct['call']>): Promise<void> {
    try {
      await this.pct.call(verb, vmid, args);
    } catch (error) {
      if (meaningOf(error) !== fine) throw error;
    }
  }

  private mark(vmid: number, containerId: string): Mark {
    return { owner: ownerOf(this.options), containerId, vmid: String(vmid) };
  }

  /** A race that another node or another tool wins costs one more call. */
  private async takeVmid(plan: ContainerPlan): Promise<number> {
    const { tag, pool } = this.options.lxc;
    const guest = this.guestOptions(plan.sandbox);
    const archive =
      guest.volume && plan.template === undefined
        ? await this.archives.of(plan.imageId, plan.spec.root.path)
        : await this.archives.empty();
    const argsFor = (vmid: number): string[] =>
      createArgs(plan, {
        tag,
        pool,
        mark: this.mark(vmid, plan.id),
        archive,
        guest,
        hostManaged: this.found.hostManaged,
        node: this.node,
      });
    for (let lost = 0; ; lost++) {
      try {
        return await this.vmids.propose(async (vmid) => {
          await this.intents.note('create', vmid, plan.id);
          try {
            await this.pct.call('create', vmid, argsFor(vmid), plan.folder);
          } catch (error) {
            if (meaningOf(error) === 'taken') await this.intents.forget(vmid); // what has the id is another's
            throw error;
          }
          await this.intents.forget(vmid); // it bears our mark from here on
          return vmid;
        });
      } catch (error) {
        if (meaningOf(error) !== 'taken' || lost === lostRaces) throw error;
      }
    }
  }

  /** More lines in the CT's configuration, under the lock that pct takes for its own changes. The recovery label too, which tells of the pod: pct's arguments are open to all. */
  private async include(vmid: number, plan: ContainerPlan): Promise<void> {
    const { id, folder } = plan;
    const carried = plan.recoveryLabel?.();
    const { lock_folder: locks, pve_folder: pve } = this.options.lxc;
    await run(
      [
        'flock',
        '--wait',
        '10',
        join(locks, `pve-config-${vmid}.lock`),
        'tee',
        '-a',
        join(pve, 'lxc', `${vmid}.conf`),
      ],
      {
        timeoutMs: 20_000,
        input: `${carried === undefined ? '' : recoveryLine(this.seal.on(this.mark(vmid, id), carried))}lxc.include: ${includeFile(folder)}\n`,
        stage: 'write CT config',
        errorId: 'Locked',
      },
    );
  }

  private watcherPlan(container: ContainerRef, { vmid, uid, stdin, terminal }: PctState): WatcherPlan {
    return {
      terminal,
      vmid,
      bundle: container.folder,
      lxcFolder: this.options.lxc.lxc_folder,
      uid,
      stdin,
      log: container.logPath !== '',
      exitFile: this.exits.path(container.id),
    };
  }

  /** The CT of a container and its configuration. @throws GuestMissing, ForeignGuest */
  private async mine(container: ContainerRef): Promise<{ vmid: number; config: GuestConfig }> {
    const found = await this.find(container);
    if (!found)
      throw new CrispError('GuestMissing', `the CT of container ${container.id} is not on this node`, {
        stage: 'find CT',
      });
    return found;
  }

  /** Like mine(); while /etc/pve cannot be read, the CT in which the process still runs that was the container's when it could. @throws GuestMissing, ForeignGuest, NoQuorum */
  private async running(container: ContainerRef): Promise<number> {
    try {
      return (await this.mine(container)).vmid;
    } catch (error) {
      const vmid = stateOf(container)?.vmid;
      const process = this.processes.get(container.id);
      if (!(error instanceof CrispError) || error.id !== 'NoQuorum' || !vmid || !process) throw error;
      if (!(await isAlive(process)) || (await this.initPid(vmid)) !== process.pid) throw error;
      return vmid;
    }
  }

  /** undefined: it is gone. A container whose creation a crash cut off is found by its mark. @throws ForeignGuest */
  private async find(container: ContainerRef): Promise<{ vmid: number; config: GuestConfig } | undefined> {
    const vmid = stateOf(container)?.vmid;
    if (vmid !== undefined) {
      const config = await this.guard.owned(vmid, container.id);
      return config && { vmid, config };
    }
    const [found] = [...(await this.guard.all())].filter(
      ([, { mark }]) => mark?.containerId === container.id,
    );
    return found && { vmid: found[0], config: found[1] };
  }

  /** The id of a CT that somebody else destroyed, or a pct that outlived the crisp that had called it; undefined: not known, or a guest of the cluster has it now. */
  private async formerVmid(container: ContainerRef): Promise<number | undefined> {
    const vmid = stateOf(container)?.vmid;
    return vmid === undefined || (await guestsOf(this.options.lxc.pve_folder)).has(vmid) ? undefined : vmid;
  }

  /** A daemon that was killed in create() may have left pct at work, and the CT bears our mark only when it is made. It has the time that a call of pct has. */
  private async waitUntilCreateEnds({ folder }: ContainerRef): Promise<void> {
    for (const program of await waitUntilIdle(
      folder,
      this.options.lxc.pct_timeout_seconds * 1000,
      watcherName,
    ))
      await signalProcess(program, 'SIGTERM');
    await waitUntilIdle(folder, endPatienceMs);
  }

  /** undefined: it does not run. */
  private async initPid(vmid: number): Promise<number | undefined> {
    const pid = Number((await this.lxcInfo(vmid, '-pH')).trim());
    return Number.isInteger(pid) && pid > 0 ? pid : undefined;
  }

  private async lxcInfo(vmid: number, option: string): Promise<string> {
    const { lxc } = this.options;
    const { stdout } = await run([lxc.tools.lxc_info, '-P', lxc.lxc_folder, '-n', String(vmid), option], {
      timeoutMs: infoTimeoutMs,
      okExitCodes: 'any',
      stage: 'lxc-info',
    });
    return stdout;
  }

  /** A net0 is one CT's: what shared it would lose its network with that CT. @throws WrongContainerState while another CT of the pod runs */
  private async onlyOneOnBridge(vmid: number, { values }: GuestConfig): Promise<void> {
    const hardware = /(?:^|,)hwaddr=([^,]+)/.exec(values['net0'] ?? '')?.[1];
    if (hardware === undefined) return;
    for (const [other, config] of await this.guard.all()) {
      if (
        other === vmid ||
        !config.values['net0']?.includes(`hwaddr=${hardware}`) ||
        (await this.initPid(other)) === undefined
      )
        continue;
      throw new CrispError('WrongContainerState', `CT ${other} of this pod runs and has its network`, {
        stage: 'start',
        hint: 'a pod on a bridge runs one container at a time; use the CNI network for pods of several',
      });
    }
  }

  private async alive(container: ContainerRef): Promise<Alive> {
    this.made.set(container.id, container);
    const exit = await this.exitOf(container);
    if (exit) return { status: 'stopped', exit };
    const found = await this.find(container).catch((error: unknown) => {
      if (!(error instanceof CrispError) || error.id !== 'ForeignGuest') throw error;
      log.error({ error: error.report, containerId: container.id }, 'the CT of a container is not ours');
      return undefined;
    });
    if (!found) return { status: 'missing' };
    const pid = await this.initPid(found.vmid);
    await this.remember(container.id, pid);
    if (pid !== undefined && (await wasStarted(container))) await this.holdWatcher(container);
    if (pid !== undefined) return { status: 'running', pid };
    if (!(await wasStarted(container))) return { status: 'created', pid: 0 };
    await this.endRest(container);
    return { status: 'stopped', exit: undefined };
  }

  /** Of a CT that runs. */
  private async remember(id: string, pid: number | undefined): Promise<void> {
    const process = pid === undefined ? undefined : await identify(pid);
    if (process) this.processes.set(id, process);
  }

  private async exitOf(container: ContainerRef): Promise<Exit | undefined> {
    const exit = await this.exits.read(container.id, container.folder);
    if (exit) await this.endRest(container);
    return exit;
  }

  /** What is left of a CT in a pid namespace that it shares, where its first process ends alone: it would keep its ports and its memory. */
  private async endRest(container: ContainerRef): Promise<void> {
    if (stateOf(container)?.ownPidNamespace) return;
    try {
      const found = await this.find(container);
      if (found) await killCgroup(cgroupOf(found.vmid));
    } catch (error) {
      log.error({ err: error, containerId: container.id }, 'a CT has ended, but not all its processes');
    }
  }
}

export function stateOf(container: Pick<ContainerRef, 'state'>): PctState | undefined {
  if (container.state === undefined) return undefined;
  const { data, error } = stateSchema.safeParse(container.state);
  if (error)
    throw new CrispError('RecordUnreadable', `the record of a CT says what cannot be: ${whyNot(error)}`, {
      cause: error,
    });
  return data;
}

/** liblxc reads no CT whose include was lost with the bundle, and pct would wait for ever for the end of one that it cannot stop. */
async function keepReadable({ folder }: Pick<ContainerRef, 'folder'>): Promise<void> {
  makeClosedFolder(folder);
  await appendFile(includeFile(folder), '', { mode: 0o600 });
}

/** What a killed lxc-start leaves in the kernel: the profile that liblxc made for its CT, and the policy namespace that the CT has below it. While the id is still ours: the profile bears it. */
async function removeAppArmor(folder: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    await rmdir(join('/sys/kernel/security/apparmor/policy/namespaces', name)).catch(() => undefined);
    await run(['apparmor_parser', '--remove', join(folder, name)], {
      timeoutMs: 30_000,
      okExitCodes: 'any',
      stage: 'remove AppArmor profile',
    });
    await rm(join(folder, name), { force: true });
  }
  await rmdir(folder).catch(() => undefined);
}

/** What `pct destroy` leaves of a CT. File by file, and never recursively: a guest of the same id may be in the making. */
async function tearDown(folder: string): Promise<void> {
  for (const name of ['config', 'rules.seccomp']) await rm(join(folder, name), { force: true });
  // What liblxc's DHCP client of a net0 has kept.
  for (const name of await namesIn(join(folder, 'hook')))
    if (name.startsWith('dhclient')) await rm(join(folder, 'hook', name), { force: true });
  for (const name of ['passthrough', 'hook', 'rootfs', ''])
    await rmdir(join(folder, name)).catch(() => undefined); // absent, or in use
}

/** The watcher makes its FIFOs, and nobody removes them before the bundle. */
async function wasStarted({ folder }: Pick<ContainerRef, 'folder'>): Promise<boolean> {
  return exists(join(folder, fifo.stdout));
}

/** As before its first start, of which nothing came. */
async function forgetStart({ folder }: Pick<ContainerRef, 'folder'>): Promise<void> {
  for (const name of Object.values(fifo)) await rm(join(folder, name), { force: true });
}

async function specOf({ folder }: Pick<ContainerRef, 'folder'>): Promise<Spec> {
  return JSON.parse(await readText(join(folder, 'config.json'))) as Spec;
}

/** The watcher opens the log meanwhile. */
async function withLog<T>({ folder, logPath }: ContainerRef, work: () => Promise<T>): Promise<T> {
  const close = logPath ? linkLog(folder, logPath) : undefined;
  return work().finally(close);
}

/** Enough for what liblxc says of a start that failed. */
const logBytes = 65_536;

/** liblxc's own words say more than pct's. */
async function withLxcLog(
  error: unknown,
  vmid: number,
  { folder, logPath }: Pick<ContainerRef, 'folder' | 'logPath'>,
): Promise<unknown> {
  const said = lxcWords(
    (await readFileIfThere(lxcLog(folder))) ?? '',
    (logPath && readTail(logPath, logBytes)) || '',
    vmid,
  );
  if (!said || !(error instanceof CrispError)) return error;
  return new CrispError(error.id, error.message, {
    stage: error.stage ?? 'start',
    tool: error.tool ?? 'pct',
    stderr: said,
    hint: error.hint,
    cause: error,
  });
}

/**
 * Its first words are the cause, the later ones what came of it.  liblxc 5 writes
 * them to its log file; 6 to the CT's stderr alone, and each line piece by piece,
 * which may be pieces in the container's log as well.
 */
export function lxcWords(ownLog: string, containerLog: string, vmid: number): string {
  const stderr = [...containerLog.matchAll(/^\S+ stderr ([FP]) (.*)$/gm)]
    .map(([, tag, text = '']) => (tag === 'F' ? `${text}\n` : text))
    .join('');
  const own = [...ownLog.matchAll(/^lxc-start .*? ERROR +\S+ - \S+ - (.*)$/gm)];
  const said =
    own.length > 0
      ? own
      : [...stderr.matchAll(new RegExp(`^lxc-start: ${vmid}: \\S+ \\w+: \\d+ (.*)$`, 'gm'))];
  return said
    .map(([, words = '']) => words)
    .slice(0, 4)
    .join('\n');
}

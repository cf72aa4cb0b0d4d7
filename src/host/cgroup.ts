// Control groups: finds the mounted trees and a container's group in them, and makes,
// limits, kills and removes crisp's own groups. For the operations on sandboxes and
// the probes; cgroup-stats.ts reads the statistics.
//
//   v1      one tree per controller, some shared: /sys/fs/cgroup/memory/crisp/POD
//   hybrid  v1, and a v2 tree without controllers beside it
//   v2      one tree: /sys/fs/cgroup/crisp/POD
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { basename, dirname, join, normalize } from 'node:path';
import { CrispError } from '../errors.js';
import type { Resources } from '../shapes/spec.js';
import { isAbsent, readFileIfThere, remove } from './files.js';
import { signalListed } from './proc.js';
import { waitUntil } from './wait.js';
import { setSliceProperties, startSlice, stopSlice } from './slices.js';

export interface CgroupLayout {
  readonly version: 'v1' | 'v2';
  /** v1: controller ("memory", "name=systemd") -> the mount point of its tree. Empty on v2. */
  readonly controllers: Readonly<Record<string, string>>;
  /** The v2 tree: the only tree on v2, an additional tree on a hybrid host. */
  readonly unified: string | undefined;
}

/** The cgroup layout of a mount namespace. @param mountinfo the text of /proc/PID/mountinfo */
export function readLayout(mountinfo: string): CgroupLayout {
  const controllers: Record<string, string> = {};
  let unified: string | undefined;
  for (const line of mountinfo.split('\n')) {
    const [mount = '', filesystem = ''] = line.split(' - ');
    const at = (mount.split(' ')[4] ?? '').replace(/\\040/g, ' ');
    const [type, , options = ''] = filesystem.split(' ');
    if (type === 'cgroup2') unified ??= at;
    if (type !== 'cgroup') continue;
    for (const option of options.split(',')) if (isController(option)) controllers[option] ??= at;
  }
  return { version: Object.keys(controllers).length > 0 ? 'v1' : 'v2', controllers, unified };
}

/** The super options of a v1 mount name its controllers among a few flags (cgroups(7)). */
function isController(option: string): boolean {
  return (
    option.startsWith('name=') ||
    /^(cpu|cpuacct|cpuset|memory|devices|freezer|net_cls|net_prio|blkio|perf_event|hugetlb|pids|rdma|misc)$/.test(
      option,
    )
  );
}

/** The layout of crisp's own mount namespace, which does not change while crisp runs. */
export function cgroupLayout(): CgroupLayout {
  here ??= readLayout(readFileSync('/proc/self/mountinfo', 'utf8'));
  return here;
}
let here: CgroupLayout | undefined;

/** A host with v1 and v2 trees counts as v1: the controllers are in v1. */
export function cgroupVersion(): 'v1' | 'v2' {
  return cgroupLayout().version;
}

/** The configured driver; auto: systemd if it is running. */
export function cgroupDriver(wanted: 'auto' | 'cgroupfs' | 'systemd'): 'cgroupfs' | 'systemd' {
  return wanted === 'auto' ? (existsSync('/run/systemd/system') ? 'systemd' : 'cgroupfs') : wanted;
}

/**
 * The name of a group in the CRI and OCI -> its path below the trees.
 * "/kubepods/podX/ID" is a path already; "SLICE:PREFIX:ID" is the scope PREFIX-ID
 * that systemd makes in SLICE; and ".../a-b.slice" is /a.slice/a-b.slice, because
 * a dash in a slice's name stands for a level (systemd.slice(5)).
 */
export function cgroupPath(name: string): string {
  const [slice = '', prefix, id] = name.split(':');
  if (prefix !== undefined && id !== undefined)
    return join(slicePath(slice || 'system.slice'), `${prefix}-${id}.scope`);
  return name.endsWith('.slice') ? slicePath(name) : normalize(`/${name}`).replace(/(.)\/$/, '$1');
}

function slicePath(slice: string): string {
  const parts = (slice.split('/').at(-1) ?? '')
    .replace(/\.slice$/, '')
    .split('-')
    .filter(Boolean);
  return `/${parts.map((_, index) => `${parts.slice(0, index + 1).join('-')}.slice`).join('/')}`;
}

/**
 * The group of a process, from the kernel; undefined on v1, where it may
 * differ between controllers. Below the scope that systemd makes for a
 * container crun makes another group, with the container's limits.
 */
export async function cgroupOfProcess(pid: number, layout = cgroupLayout()): Promise<string | undefined> {
  if (layout.version === 'v1') return undefined;
  const path = /^0::(.*)$/m.exec((await readFileIfThere(`/proc/${pid}/cgroup`)) ?? '')?.[1];
  return path === undefined || path.startsWith('/..') || path === '/' ? undefined : path; // "/..": outside of crisp's cgroup namespace
}

/**
 * The folder of a group in the tree of a v1 controller, or on v2 in the only tree; undefined: no such tree.
 */
export function cgroupFolder(layout: CgroupLayout, controller: string, name: string): string | undefined {
  const tree = layout.version === 'v2' ? layout.unified : layout.controllers[controller];
  return tree === undefined ? undefined : join(tree, cgroupPath(name));
}

function trees(layout: CgroupLayout): string[] {
  return [
    ...new Set([
      ...Object.values(layout.controllers),
      ...(layout.unified === undefined ? [] : [layout.unified]),
    ]),
  ];
}

/**
 * If crun finds a line of v2 in /proc/self/cgroup but no mounted v2 tree (a
 * hybrid host with a hidden v2 tree), it still makes its folders, as plain
 * folders in the tmpfs with v1's mount points.
 */
function strayTrees(layout: CgroupLayout): string[] {
  const [first] = Object.values(layout.controllers);
  return layout.unified === undefined && first !== undefined ? [join(dirname(first), 'unified')] : [];
}

/**
 * Makes a pod's group if the caller has not made one: the kubelet makes the
 * groups that it passes, and the runtimes make the groups of the containers
 * below. systemd makes slices.
 */
export async function makePodCgroup(name: string, layout = cgroupLayout()): Promise<void> {
  const path = cgroupPath(name);
  if (path.endsWith('.slice')) return startSlice(path);
  if (layout.version === 'v2') await whileParentsGo(() => makeUnified(layout.unified ?? '', path));
  else
    await Promise.all(
      [...new Set(Object.values(layout.controllers))].map((tree) =>
        whileParentsGo(() => makeIn(tree, path, tree === layout.controllers['cpuset'])),
      ),
    );
}

/**
 * The removal of the last group of a parent removes the parent as well, perhaps while another group is being
 * made in it.
 */
async function whileParentsGo(make: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await make();
    } catch (error) {
      if (attempt === makeAttempts || !isGone(error)) throw error;
    }
  }
}
const makeAttempts = 100;

async function mkdirIfAbsent(folder: string): Promise<void> {
  try {
    await mkdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

async function makeIn(tree: string, path: string, isCpuset: boolean): Promise<void> {
  for (const folder of ancestors(tree, path)) {
    await mkdirIfAbsent(folder);
    // A new v1 cpuset has no CPU and no memory node, and accepts no process until they are set (cpuset(7)).
    if (isCpuset) for (const file of ['cpuset.cpus', 'cpuset.mems']) await inherit(folder, file);
  }
}

async function inherit(folder: string, file: string): Promise<void> {
  if ((await readFile(join(folder, file), 'utf8')).trim() !== '') return;
  const value = (await readFile(join(dirname(folder), file), 'utf8')).trim();
  if (value === '') throw Object.assign(new Error(`${dirname(folder)} has no ${file}`), { code: 'ENODEV' }); // another process has just made the parent again, and has not set it yet
  await writeFile(join(folder, file), value);
}

/** On v2 a group has the controllers that its parent enables in cgroup.subtree_control. */
async function makeUnified(tree: string, path: string): Promise<void> {
  for (const folder of ancestors(tree, path)) {
    const parent = dirname(folder);
    const controllers = (await readFile(join(parent, 'cgroup.controllers'), 'utf8'))
      .trim()
      .split(' ')
      .filter(Boolean);
    for (const controller of controllers) {
      // One by one: a controller that cannot be enabled (cpu with real-time tasks: EINVAL) must not affect
      // the others.
      await writeFile(join(parent, 'cgroup.subtree_control'), `+${controller}`).catch(() => undefined);
    }
    await mkdirIfAbsent(folder);
  }
}

/** TREE/a, TREE/a/b, … TREE/PATH. */
function ancestors(tree: string, path: string): string[] {
  const parts = path.split('/').filter(Boolean);
  return parts.map((_, index) => join(tree, ...parts.slice(0, index + 1)));
}

/**
 * Removes a group that crisp made, with the empty groups below it, in every
 * tree, and its parent (/crisp) if that is now empty. No error if it does not
 * exist. The parent of a slice is left to systemd, since another pod may be
 * entering it.
 * @throws Internal if processes are still running in it
 */
export async function removePodCgroup(name: string, layout = cgroupLayout()): Promise<void> {
  const path = cgroupPath(name);
  if (path.endsWith('.slice')) {
    await stopSlice(path);
    // On v1 the runtimes make it in the trees that systemd does not manage as well (cpuset, freezer).
    if (layout.version === 'v1') await removeCgroup(path, layout);
    return;
  }
  await removeCgroup(path, layout);
  const parent = dirname(path);
  if (parent === '/') return;
  for (const tree of [...trees(layout), ...strayTrees(layout)]) await rmdirIfEmpty(join(tree, parent));
}

/**
 * Removes a group and the empty groups below it in every tree. No error if it does not exist. @throws
 * Internal if processes are still running in it
 */
export async function removeCgroup(path: string, layout = cgroupLayout()): Promise<void> {
  // In a stray tree cgroup.procs is a plain file, which has to be removed before its folder.
  await Promise.all([
    ...trees(layout).map((tree) => removeTree(join(tree, path))),
    ...strayTrees(layout).map((tree) => remove(join(tree, path))),
  ]);
}

/** The names of the groups in a group, in any tree. */
export async function cgroupsIn(path: string, layout = cgroupLayout()): Promise<Set<string>> {
  return new Set(
    (await Promise.all(trees(layout).map((tree) => subgroups(join(tree, path)))))
      .flat()
      .map((folder) => basename(folder)),
  );
}

async function removeTree(folder: string): Promise<void> {
  for (const child of await subgroups(folder)) await removeTree(child);
  if (!(await waitUntil(() => rmdirIfEmpty(folder), { everyMs: 10, withinMs: reapMs })))
    throw new CrispError('Internal', `the cgroup ${folder} cannot be removed: processes are left in it`, {
      stage: 'remove cgroup',
    });
}
/** A process leaves its group when it has ended, which takes seconds on a machine without free CPU time. */
const reapMs = 5_000;

/** false: it is in use. */
async function rmdirIfEmpty(folder: string): Promise<boolean> {
  try {
    await rmdir(folder);
    return true;
  } catch (error) {
    if (isAbsent(error)) return true;
    if (['EBUSY', 'ENOTEMPTY'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw error;
  }
}

async function subgroups(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder, { withFileTypes: true }))
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(folder, entry.name));
  } catch (error) {
    if (isAbsent(error)) return [];
    throw error;
  }
}

/** Sends a signal once to every process of a group and of the groups below it. */
export async function signalCgroup(name: string, signal: number, layout = cgroupLayout()): Promise<void> {
  const folder = processFolder(layout, name);
  if (folder !== undefined) await signalListed(() => processesOf(folder), signal);
}

function processFolder(layout: CgroupLayout, name: string): string | undefined {
  return cgroupFolder(layout, 'pids', name) ?? cgroupFolder(layout, 'memory', name);
}

/**
 * Kills every process of a group and of the groups below it; resolves when none is left. @throws Internal
 * after 5 s
 */
export async function killCgroup(name: string, layout = cgroupLayout()): Promise<void> {
  const folder = processFolder(layout, name);
  if (folder === undefined || !existsSync(folder)) return;
  // Only v2 since Linux 5.14 has this file; a fork cannot escape it. systemd removes an empty scope at any time.
  await writeFile(join(folder, 'cgroup.kill'), '1', { flag: 'r+' }).catch((error: unknown) => {
    if (!isGone(error)) throw error;
  });
  let pids: number[] = [];
  const isEmpty = async (): Promise<boolean> => {
    pids = await processesOf(folder);
    if (pids.length > 0) await signalListed(() => processesOf(folder), 'SIGKILL');
    return pids.length === 0;
  };
  if (await waitUntil(isEmpty, { everyMs: 10, withinMs: 5_000 })) return;
  throw new CrispError(
    'Internal',
    `processes ${pids.slice(0, 5).join(', ')} of cgroup ${folder} survive SIGKILL`,
    { stage: 'kill cgroup' },
  );
}

/** The pids in a group and in the groups below it; empty if it does not exist. */
export async function cgroupProcesses(name: string, layout = cgroupLayout()): Promise<number[]> {
  const folder = processFolder(layout, name);
  return folder === undefined ? [] : processesOf(folder);
}

/** The pids in a folder of a tree and below it. */
export async function processesOf(folder: string): Promise<number[]> {
  let own: string;
  try {
    own = await readFile(join(folder, 'cgroup.procs'), 'utf8');
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
  const below = await Promise.all((await subgroups(folder)).map(processesOf));
  return [
    ...own
      .split('\n')
      .filter(Boolean)
      .map(Number)
      .filter((pid) => pid > 0),
    ...below.flat(),
  ];
}

/** The group was removed: before its file was opened, or (ENODEV) after. */
export function isGone(error: unknown): boolean {
  return isAbsent(error) || (error as NodeJS.ErrnoException).code === 'ENODEV';
}

/**
 * Sets the limits of an existing group; limits that are not in `resources` are kept.
 * @throws InvalidArgument with the file and the kernel's reason if it refuses a value; UnsupportedField
 * without the controller
 */
export async function writeResources(
  name: string,
  resources: Resources,
  layout = cgroupLayout(),
): Promise<void> {
  const settings =
    layout.version === 'v2'
      ? unifiedSettings(resources)
      : await perControllerSettings(name, resources, layout);
  if (layout.version === 'v2' && cgroupPath(name).endsWith('.slice'))
    await setSliceProperties(cgroupPath(name), settings);
  for (const [file, value] of settings) {
    const folder = cgroupFolder(layout, file.split('.')[0] ?? '', name);
    if (folder === undefined)
      throw new CrispError('UnsupportedField', `this host has no cgroup controller for ${file}`, {
        stage: 'set cgroup',
      });
    try {
      await writeFile(join(folder, file), value, { flag: 'r+' });
    } catch (error) {
      throw new CrispError(
        'InvalidArgument',
        `the kernel refuses ${value} for ${join(folder, file)}: ${reason(error)}`,
        { stage: 'set cgroup', cause: error },
      );
    }
  }
}

function reason(error: unknown): string {
  switch ((error as NodeJS.ErrnoException).code) {
    case 'EBUSY':
      return 'more than that is in use';
    case 'ENOENT':
      return 'there is no such group, or no such setting';
    default:
      return (error as Error).message;
  }
}

export type Setting = [file: string, value: string];

/** Limits as files of a v2 group with their values. */
export function unifiedSettings({ cpu, memory, pids, hugepageLimits, unified }: Resources): Setting[] {
  const settings: Setting[] = [];
  if (cpu?.shares !== undefined) settings.push(['cpu.weight', String(weightOfShares(cpu.shares))]);
  if (cpu?.quota !== undefined || cpu?.period !== undefined)
    settings.push([
      'cpu.max',
      `${cpu.quota === undefined || cpu.quota < 0 ? 'max' : cpu.quota} ${cpu.period ?? 100_000}`,
    ]);
  if (cpu?.cpus) settings.push(['cpuset.cpus', cpu.cpus]);
  if (cpu?.mems) settings.push(['cpuset.mems', cpu.mems]);
  // OCI counts memory and swap together, v2 separately.
  if (memory?.swap !== undefined)
    settings.push([
      'memory.swap.max',
      memory.swap < 0 ? 'max' : String(Math.max(0, memory.swap - (memory.limit ?? 0))),
    ]);
  if (memory?.limit !== undefined) settings.push(['memory.max', atMost(memory.limit)]);
  if (pids) settings.push(['pids.max', atMost(pids.limit)]);
  for (const { pageSize, limit } of hugepageLimits ?? [])
    settings.push([`hugetlb.${pageSize}.max`, String(limit)]);
  return [...settings, ...Object.entries(unified ?? {})];
}

function atMost(value: number): string {
  return value < 0 ? 'max' : String(value);
}

/**
 * v1's cpu.shares (2..262144, normally 1024) as v2's cpu.weight (1..10000,
 * normally 100): the curve used by runc and crun since 2025, through (2, 1),
 * (1024, 100) and (262144, 10000).
 */
export function weightOfShares(shares: number): number {
  if (shares <= 2) return 1;
  if (shares >= 262_144) return 10_000;
  const level = Math.log2(shares);
  return Math.ceil(10 ** ((level * level + 125 * level) / 612 - 7 / 34));
}

async function perControllerSettings(
  name: string,
  { cpu, memory, pids, hugepageLimits }: Resources,
  layout: CgroupLayout,
): Promise<Setting[]> {
  const settings: Setting[] = [];
  if (cpu?.shares !== undefined) settings.push(['cpu.shares', String(cpu.shares)]);
  // Quota and period are checked as a pair at each write: without a quota any period is accepted.
  if (cpu?.period !== undefined && cpu.quota !== undefined) settings.push(['cpu.cfs_quota_us', '-1']);
  if (cpu?.period !== undefined) settings.push(['cpu.cfs_period_us', String(cpu.period)]);
  if (cpu?.quota !== undefined) settings.push(['cpu.cfs_quota_us', String(cpu.quota)]);
  if (cpu?.cpus) settings.push(['cpuset.cpus', cpu.cpus]);
  if (cpu?.mems) settings.push(['cpuset.mems', cpu.mems]);
  settings.push(...(await memorySettings(name, memory ?? {}, layout)));
  if (pids) settings.push(['pids.max', atMost(pids.limit)]);
  for (const { pageSize, limit } of hugepageLimits ?? [])
    settings.push([`hugetlb.${pageSize}.limit_in_bytes`, String(limit)]);
  return settings;
}

/**
 * The kernel requires memory <= memory + swap at each write, so an increase starts with the latter and a
 * decrease with the former.
 */
async function memorySettings(
  name: string,
  { limit, swap }: NonNullable<Resources['memory']>,
  layout: CgroupLayout,
): Promise<Setting[]> {
  const memory: Setting[] = limit === undefined ? [] : [['memory.limit_in_bytes', String(limit)]];
  if (swap === undefined) return memory;
  const both: Setting = ['memory.memsw.limit_in_bytes', String(swap)];
  const present = Number(
    (await readFileIfThere(
      join(cgroupFolder(layout, 'memory', name) ?? '', 'memory.memsw.limit_in_bytes'),
    )) ?? 0,
  );
  return swap < 0 || swap > present ? [both, ...memory] : [...memory, both];
}

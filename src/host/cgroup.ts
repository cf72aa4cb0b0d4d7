// Control groups: where their trees are mounted, where a container's group lies
// in them, and making, removing and killing the groups that crisp itself made.
// For sandbox-run, sandbox-stop and the probes; cgroup-stats.ts reads what they
// count, cgroup-resources.ts sets their limits.
//
//   v1      one tree per controller (some share one): /sys/fs/cgroup/memory/crisp/POD
//   hybrid  v1, and a v2 tree without controllers beside it
//   v2      one tree: /sys/fs/cgroup/crisp/POD
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { dirname, join, normalize } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CrispError } from '../errors.js';
import { isAbsent } from './files.js';

export interface CgroupLayout {
  readonly version: 'v1' | 'v2';
  /** v1: controller ("memory", "name=systemd") -> the mount point of its tree. Empty on v2. */
  readonly controllers: Readonly<Record<string, string>>;
  /** The v2 tree: the only one on v2, the one beside the others on a hybrid host. */
  readonly unified: string | undefined;
}

/** What the mounts of a mount namespace make of its cgroups. @param mountinfo the text of /proc/PID/mountinfo */
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
  return option.startsWith('name=') || /^(cpu|cpuacct|cpuset|memory|devices|freezer|net_cls|net_prio|blkio|perf_event|hugetlb|pids|rdma|misc)$/.test(option);
}

/** The layout of our own mount namespace, which does not change while we run. */
export function cgroupLayout(): CgroupLayout {
  here ??= readLayout(readFileSync('/proc/self/mountinfo', 'utf8'));
  return here;
}
let here: CgroupLayout | undefined;

/** A v2 tree beside v1's counts as v1: the controllers are there. */
export function cgroupVersion(): 'v1' | 'v2' { return cgroupLayout().version; }

/** The driver that the config asks for; auto: systemd where it is running. */
export function cgroupDriver(wanted: 'auto' | 'cgroupfs' | 'systemd'): 'cgroupfs' | 'systemd' {
  return wanted === 'auto' ? (existsSync('/run/systemd/system') ? 'systemd' : 'cgroupfs') : wanted;
}

/**
 * A group as the CRI and OCI name it -> its path below the trees.
 * "/kubepods/podX/ID" is one already; "SLICE:PREFIX:ID" is the scope PREFIX-ID
 * that systemd makes in SLICE; and ".../a-b.slice" is /a.slice/a-b.slice, because
 * a dash in a slice's name stands for a level (systemd.slice(5)).
 */
export function cgroupPath(name: string): string {
  const [slice = '', prefix, id] = name.split(':');
  if (prefix !== undefined && id !== undefined) return join(slicePath(slice || 'system.slice'), `${prefix}-${id}.scope`);
  return name.endsWith('.slice') ? slicePath(name) : normalize(`/${name}`).replace(/(.)\/$/, '$1');
}

function slicePath(slice: string): string {
  const parts = (slice.split('/').at(-1) ?? '').replace(/\.slice$/, '').split('-').filter(Boolean);
  return `/${parts.map((_, index) => `${parts.slice(0, index + 1).join('-')}.slice`).join('/')}`;
}

/** The folder of a group in the tree of a v1 controller, or on v2 in the one tree; undefined: no such tree. */
export function cgroupFolder(layout: CgroupLayout, controller: string, name: string): string | undefined {
  const tree = layout.version === 'v2' ? layout.unified : layout.controllers[controller];
  return tree === undefined ? undefined : join(tree, cgroupPath(name));
}

function trees(layout: CgroupLayout): string[] {
  return [...new Set([...Object.values(layout.controllers), ...(layout.unified === undefined ? [] : [layout.unified])])];
}

/**
 * Makes a pod's group that nobody else makes: the kubelet makes those it names,
 * systemd makes its slices, and the runtimes make those of the containers below.
 */
export async function makePodCgroup(name: string, layout = cgroupLayout()): Promise<void> {
  const path = cgroupPath(name);
  if (path.endsWith('.slice')) return;
  if (layout.version === 'v2') await makeUnified(layout.unified ?? '', path);
  else await Promise.all([...new Set(Object.values(layout.controllers))].map((tree) => makeIn(tree, path, tree === layout.controllers['cpuset'])));
}

async function makeIn(tree: string, path: string, isCpuset: boolean): Promise<void> {
  for (const folder of ancestors(tree, path)) {
    await mkdir(folder, { recursive: true });
    // A new v1 cpuset has no CPU and no memory node, and takes no process until it has some (cpuset(7)).
    if (isCpuset) for (const file of ['cpuset.cpus', 'cpuset.mems']) await inherit(folder, file);
  }
}

async function inherit(folder: string, file: string): Promise<void> {
  if ((await readFile(join(folder, file), 'utf8')).trim() === '') await writeFile(join(folder, file), await readFile(join(dirname(folder), file)));
}

/** On v2 a group has the controllers that its parent hands down in cgroup.subtree_control. */
async function makeUnified(tree: string, path: string): Promise<void> {
  for (const folder of ancestors(tree, path)) {
    const parent = dirname(folder);
    const controllers = (await readFile(join(parent, 'cgroup.controllers'), 'utf8')).trim().split(' ').filter(Boolean);
    for (const controller of controllers) {
      // One by one: a controller that the host keeps for itself (cpu beside real-time tasks: EINVAL) must not hold up the others.
      await writeFile(join(parent, 'cgroup.subtree_control'), `+${controller}`).catch(() => undefined);
    }
    await mkdir(folder, { recursive: true });
  }
}

/** TREE/a, TREE/a/b, … TREE/PATH. */
function ancestors(tree: string, path: string): string[] {
  const parts = path.split('/').filter(Boolean);
  return parts.map((_, index) => join(tree, ...parts.slice(0, index + 1)));
}

/**
 * Removes a group that crisp made, with the empty ones left below it, in every
 * tree, and its parent (/crisp) where that has become empty. Absent is fine.
 * @throws Internal when processes still run in it
 */
export async function removePodCgroup(name: string, layout = cgroupLayout()): Promise<void> {
  const path = cgroupPath(name);
  await Promise.all(trees(layout).map(async (tree) => {
    await removeTree(join(tree, path));
    const parent = join(tree, dirname(path));
    if (parent !== join(tree, '/')) await rmdirIfEmpty(parent);
  }));
}

async function removeTree(folder: string): Promise<void> {
  for (const child of await subgroups(folder)) await removeTree(child);
  for (let attempt = 1; !(await rmdirIfEmpty(folder)); attempt++) {
    if (attempt === removeAttempts) throw new CrispError('Internal', `the cgroup ${folder} cannot be removed: processes are left in it`, { stage: 'remove cgroup' });
    await sleep(attempt * 10);
  }
}
/** About half a second: a process that has ended leaves its group only when it is reaped. */
const removeAttempts = 10;

/** false: it is in use. */
async function rmdirIfEmpty(folder: string): Promise<boolean> {
  try { await rmdir(folder); return true; } catch (error) {
    if (isAbsent(error)) return true;
    if (['EBUSY', 'ENOTEMPTY'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw error;
  }
}

async function subgroups(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder, { withFileTypes: true })).filter((entry) => entry.isDirectory()).map((entry) => join(folder, entry.name));
  } catch (error) { if (isAbsent(error)) return []; throw error; }
}

/** Kills every process of a group and of those below it; returns when none is left. @throws Internal after 5 s */
export async function killCgroup(name: string, layout = cgroupLayout()): Promise<void> {
  const folder = cgroupFolder(layout, 'pids', name) ?? cgroupFolder(layout, 'memory', name);
  if (folder === undefined || !existsSync(folder)) return;
  if (existsSync(join(folder, 'cgroup.kill'))) await writeFile(join(folder, 'cgroup.kill'), '1'); // v2 since Linux 5.14; nothing can fork away from it
  for (let waitedMs = 0; ; waitedMs += 10) {
    const pids = await processesOf(folder);
    if (pids.length === 0) return;
    if (waitedMs >= 5_000) throw new CrispError('Internal', `processes ${pids.slice(0, 5).join(', ')} of cgroup ${folder} survive SIGKILL`, { stage: 'kill cgroup' });
    for (const pid of pids) try { process.kill(pid, 'SIGKILL'); } catch { /* ESRCH: it has ended */ }
    await sleep(10);
  }
}

/** The pids in a folder of a tree and below it. */
export async function processesOf(folder: string): Promise<number[]> {
  let own: string;
  try { own = await readFile(join(folder, 'cgroup.procs'), 'utf8'); } catch (error) { if (isAbsent(error) || isGone(error)) return []; throw error; }
  const below = await Promise.all((await subgroups(folder)).map(processesOf));
  return [...own.split('\n').filter(Boolean).map(Number).filter((pid) => pid > 0), ...below.flat()];
}

/** ENODEV: the group was removed while its file was open. */
export function isGone(error: unknown): boolean { return (error as NodeJS.ErrnoException).code === 'ENODEV'; }

// The current traces of a daemon on the machine, as sorted lines: a snapshot
// before and one after show the leftovers. Called by daemon.ts.
import { execFile } from 'node:child_process';
import type { Dirent } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Machine } from './machine.js';

const runFile = promisify(execFile);

export interface Traces {
  readonly machine: Machine;
  /** The private folder of the daemon; its mounts and processes name it. */
  readonly folder: string;
  readonly root: string;
  readonly state: string;
  readonly bridge: string;
  /** Where host-local keeps its leases. */
  readonly leases: string;
  /** Ids of pods and containers that the daemon made: cgroups are called after them. */
  readonly ids: ReadonlySet<string>;
  /** Processes that belong to the test itself. */
  readonly ourPids: readonly number[];
}

export async function traces(of: Traces): Promise<string[]> {
  const groups = await Promise.all([
    mounts(of),
    cgroups(of),
    processes(of),
    leases(of),
    links(of),
    rules(of),
    files(of),
  ]);
  return groups.flat().sort();
}

/** Namespace pins, rootfs and shared memory are all mounts below our folders. */
async function mounts({ machine, folder, state }: Traces): Promise<string[]> {
  return (await machine.mounts())
    .filter((path) => path.startsWith(`${folder}/`) && path !== state)
    .map((path) => `mount ${path}`);
}

async function cgroups({ ids }: Traces): Promise<string[]> {
  return (await cgroupsOf(ids)).map((path) => `cgroup ${path}`);
}

/** The folders of all trees that are called after one of the ids. */
export async function cgroupsOf(ids: ReadonlySet<string>): Promise<string[]> {
  const found: string[] = [];
  const walk = async (folder: string, depth: number): Promise<void> => {
    for (const entry of await entries(folder)) {
      if (!entry.isDirectory()) continue;
      const path = join(folder, entry.name);
      if ([...ids].some((id) => entry.name.includes(id))) found.push(path);
      if (depth > 0) await walk(path, depth - 1);
    }
  };
  await walk('/sys/fs/cgroup', 6);
  return found;
}

/** The daemon's programs, their children, and the processes in the containers. */
export async function ownProcesses({
  folder,
  ids,
  ourPids,
}: Pick<Traces, 'folder' | 'ids' | 'ourPids'>): Promise<{ pid: number; argv: string }[]> {
  const found: { pid: number; argv: string }[] = [];
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid || ourPids.includes(pid)) continue;
    const argv = (await read(`/proc/${pid}/cmdline`)).replaceAll('\0', ' ').trim();
    if (!argv) continue; // a kernel thread, or one that has ended
    const group = await read(`/proc/${pid}/cgroup`);
    if (argv.includes(folder) || [...ids].some((id) => group.includes(id))) found.push({ pid, argv });
  }
  return found;
}

async function processes(of: Traces): Promise<string[]> {
  return (await ownProcesses(of)).map(({ pid, argv }) => `process ${pid} ${argv}`);
}

/** A lease is a file called after the address; the rest of the folder is host-local's memory. */
async function leases({ leases: folder }: Traces): Promise<string[]> {
  return (await below(folder))
    .filter((path) => !/\/(lock|last_reserved_ip\.\d+)$/.test(path))
    .map((path) => `lease ${path}`);
}

async function links({ bridge }: Traces): Promise<string[]> {
  return (await entries(`/sys/class/net/${bridge}/brif`)).map((entry) => `veth ${entry.name}`);
}

async function rules({ bridge }: Traces): Promise<string[]> {
  return (await natRulesOf(bridge)).map((rule) => `nat ${rule.join(' ')}`);
}

/** The arguments that made the rules of CNI's plugins; they name the network, ours after the bridge, in a comment. */
export async function natRulesOf(bridge: string): Promise<string[][]> {
  const { stdout } = await runFile('iptables-save', ['-t', 'nat'], { maxBuffer: 64 << 20 });
  return stdout
    .split('\n')
    .filter((line) => line.startsWith('-A ') && line.includes(bridge))
    .map(argumentsOf);
}

/** Words, quoted ones with their inner quotes, as iptables-save writes them. */
function argumentsOf(line: string): string[] {
  return [...line.matchAll(/"((?:[^"\\]|\\.)*)"|\S+/g)].map(
    ([word, quoted]) => quoted?.replaceAll(/\\(.)/g, '$1') ?? word,
  );
}

async function files({ machine, root, state }: Traces): Promise<string[]> {
  // /proc/PID/root shows the state folder's tmpfs, which only the machine's namespace has
  const kept = [
    ...(await below(machine.path(state))),
    ...(await below(machine.path(join(root, 'containers')))),
    ...(await below(machine.path(join(root, 'network')))),
    ...(await below(machine.path(join(root, 'pulls')))),
    ...(await below(machine.path(join(root, 'intents')))),
  ];
  return kept
    .map((path) => path.slice(machine.path('').length))
    .filter((path) => path.startsWith(`${root}/`) || path.slice(state.length + 1).includes('/')) // the top-level folders of the state folder stay
    .filter((path) => !path.startsWith(`${state}/storage/`))
    .map((path) => `file ${path}`);
}

/** All files below a folder, and folders that are empty; "" for an absent one. */
async function below(folder: string): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await entries(folder)) {
    const path = join(folder, entry.name);
    const inside = entry.isDirectory() ? await below(path) : [];
    found.push(...(entry.isDirectory() && inside.length > 0 ? inside : [path]));
  }
  return found;
}

async function entries(folder: string): Promise<Dirent[]> {
  try {
    return await readdir(folder, { withFileTypes: true });
  } catch {
    return [];
  }
}
async function read(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    return '';
  }
}

// Removes the leftovers of daemons of killed test runs. When jest dies
// for any reason, the daemon and the holder of the mount namespace die
// with it; the containers and their monitors continue, as designed.  Called
// by daemon.ts before it makes a daemon.
//
// Several runs share the machine, so only files are removed whose owner is known
// and has ended: a folder names its owner by pid and start time.
import { execFile } from 'node:child_process';
import { readdir, readFile, readlink, rm, rmdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { cgroupProcesses, cgroupsIn, removeCgroup } from '../../src/host/cgroup.js';
import {
  childrenOf,
  identify,
  isAlive,
  waitUntilEnded,
  signalProcess,
  type ProcessIdentity,
} from '../../src/host/proc.js';
import { cgroupsOf, natRulesOf } from './leftovers.js';

const runFile = promisify(execFile);
const ownerFile = 'owner.json';
interface Owner extends ProcessIdentity {
  readonly bridge?: string;
}

/** Says that the folder is ours while we live; before anything is started in it. */
export async function claim(folder: string, bridge?: string): Promise<void> {
  await writeFile(join(folder, ownerFile), JSON.stringify({ ...(await identify(process.pid)), bridge }));
}

export async function removeAbandoned(parent = tmpdir()): Promise<void> {
  for (const name of await readdir(parent)) {
    if (!name.startsWith('crisp-')) continue;
    const folder = join(parent, name);
    let owner: Owner;
    try {
      owner = JSON.parse(await readFile(join(folder, ownerFile), 'utf8')) as Owner;
    } catch {
      continue;
    } // not one of ours, or being made
    if (!(await isAlive(owner))) await removeDaemon(folder, owner.bridge);
  }
}

async function removeDaemon(folder: string, bridge?: string): Promise<void> {
  const processes = await processesOf(folder);
  const ids = new Set(await heldNetworks(folder));
  for (const { pid } of processes)
    for (const [id] of (await text(`/proc/${pid}/cgroup`)).matchAll(/\b[0-9a-f]{64}\b/g)) ids.add(id);
  await endCommandsIn(folder, processes);
  for (const group of (await cgroupsOf(ids)).sort().reverse()) await rmdir(group).catch(() => undefined); // it went with another one
  if (bridge) await removeNetwork(bridge);
  for (const path of await mountsBelow(folder)) await runFile('umount', ['--lazy', path]); // of one in the host's own mount namespace
  await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
}

async function end(processes: readonly ProcessIdentity[]): Promise<void> {
  for (const target of processes) await signalProcess(target, 'SIGKILL');
  for (const target of processes) await waitUntilEnded(target, 60_000);
}

/**
 * Ends the commands with a file of the folder in their arguments, and their children; a killed lxc-start
 * leaves the cgroups of its CT.
 */
export async function endCommandsIn(folder: string, processes?: readonly ProcessIdentity[]): Promise<void> {
  await end(processes ?? (await processesOf(folder)));
  for (const group of await cgroupsOfFakes(folder)) await removeCgroup(group);
}

/**
 * The cgroups of the CTs of a fake node: all fake nodes and the machine share a tree, in which cgroups have
 * the name of the VMID.
 */
export async function cgroupsOfFakes(folder: string): Promise<string[]> {
  const ids = new Set(
    [...(await text(join(folder, 'calls'))).matchAll(/^create (\d+)/gm)].map(([, id = '']) => id),
  );
  const groups = await cgroupsOfCts((vmid) => ids.has(vmid));
  const isAnother = await Promise.all(groups.map((group) => runsOnAnotherNode(basename(group), folder)));
  return groups.filter((_, index) => !isAnother[index]);
}

/** Test files run beside each other, and a fake node of another one may have given a CT the same id. */
async function runsOnAnotherNode(vmid: string, folder: string): Promise<boolean> {
  const commands = await Promise.all(
    (await cgroupProcesses(`/lxc.monitor/${vmid}`)).map((pid) => text(`/proc/${pid}/cmdline`)),
  );
  return commands.some(Boolean) && !commands.some((command) => command.includes(`${folder}/`));
}

/** The processes in CTs, and their watchers. */
export async function cgroupsOfCts(wanted: (vmid: string) => boolean): Promise<string[]> {
  return (
    await Promise.all(
      ['/lxc', '/lxc.monitor'].map(async (path) =>
        [...(await cgroupsIn(path))].filter(wanted).map((vmid) => `${path}/${vmid}`),
      ),
    )
  ).flat();
}

/** Those in its mount namespace, which alone has a state folder of that name, those whose command names a file in it (lxc-start of a CT), and their children in the containers. */
async function processesOf(folder: string): Promise<ProcessIdentity[]> {
  const found = new Map<number, ProcessIdentity>();
  const add = async (pid: number): Promise<void> => {
    const known = found.has(pid) ? undefined : await identify(pid);
    if (!known) return;
    found.set(pid, known);
    for (const child of await childrenOf(pid)) await add(child);
  };
  const ours = await readlink('/proc/self/ns/mnt');
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    // In our own namespace that folder may be mounted as well (a daemon with onHost), and all the host's processes are in it.
    const namespace = await readlink(`/proc/${name}/ns/mnt`).catch(() => ours);
    if (
      (namespace !== ours && (await text(`/proc/${name}/mountinfo`)).includes(` ${folder}/state `)) ||
      (await text(`/proc/${name}/cmdline`)).includes(`${folder}/`)
    )
      await add(Number(name));
  }
  return [...found.values()];
}

/** The pods whose addresses are held: a file each, which is kept when the state folder is removed. */
async function heldNetworks(folder: string): Promise<string[]> {
  const files = await readdir(join(folder, 'root', 'network')).catch(() => []);
  return files.flatMap((file) => /^[0-9a-f]{64}/.exec(file) ?? []);
}

/** The bridge, and the chains that CNI's plugins made for its pods. */
async function removeNetwork(bridge: string): Promise<void> {
  const rules = await natRulesOf(bridge);
  const chains = new Set(rules.flat().filter((chain) => /^CNI-(DN-)?[0-9a-f]{20,}$/.test(chain)));
  const iptables = (...args: string[]) =>
    runFile('iptables', ['--wait', '-t', 'nat', ...args]).catch(() => undefined); // its plugins may still be at it
  for (const rule of rules) await iptables('-D', ...rule.slice(1));
  for (const chain of chains) {
    await iptables('-F', chain);
    await iptables('-X', chain);
  }
  await runFile('ip', ['link', 'del', bridge]).catch(() => undefined); // there is none before the first pod
}

/** In our own namespace, the last one first. */
async function mountsBelow(folder: string): Promise<string[]> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n');
  return lines
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`${folder}/`))
    .reverse();
}

async function text(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    return '';
  }
}

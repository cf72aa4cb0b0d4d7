// The probe: whether idmapped overlays work here, which decides whether CTs are
// unprivileged, and one throw-away CT from create to delete.  It takes about
// four seconds on a node, nearly all of it pct.
import { chown, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { toCrispError } from '../../errors.js';
import { makeFolder, remove } from '../../host/files.js';
import { mountIdMapped } from '../../host/idmap.js';
import { mount, unmountBelow } from '../../host/mounts.js';
import { run } from '../../host/run.js';
import { pinNamespaces, unpinNamespaces } from '../../network/namespaces.js';
import type { Spec } from '../../oci/spec.js';
import type { ContainerPlan, ContainerRef, Exit, Features, Probe, SandboxPlan } from '../backend.js';
import type { PctBackend } from './backend.js';
import { unprivilegedIds, type PctBackendOptions } from './options.js';

/** With the supplemental group that it was given, and without. */
const exitCodes = { withGroup: 42, without: 41 };
const group = 50;
const waitMs = 20_000;
const features: Features = { recursiveReadOnlyMounts: false, userNamespaces: false, checkpoint: false };

/** Sets backend.shifts, backend.hostManaged and backend.givesGroups. Never throws. */
export async function probe(backend: PctBackend, options: PctBackendOptions): Promise<Probe> {
  const id = `crisp-probe-${backend.name}-${process.pid}-${counter++}`;
  const folder = join(options.state, 'probe', id);
  let version = '';
  try {
    const release = await releaseOf(options.lxc.tools.pvesh);
    version = `pve-manager ${release}`;
    backend.hostManaged = setsAddresses(release);
    makeFolder(folder, 0o711);
    const namespaces = options.lxc.unprivileged === 'never' ? undefined : await shiftedRootfs(folder).catch((error: unknown) => {
      if (options.lxc.unprivileged === 'always') throw error;
      return undefined;
    });
    backend.shifts = namespaces !== undefined;
    if (!namespaces) await plainRootfs(join(folder, 'rootfs'));
    await runThrowAway(backend, id, folder, namespaces ?? {});
    return { ready: true, reason: '', version, features };
  } catch (error) {
    return { ready: false, reason: toCrispError(error).report, version, features };
  } finally {
    await unmountBelow(join(folder, 'rootfs'));
    await unmountBelow(join(folder, 'shifted'));
    await unpinNamespaces(join(folder, 'ns'));
    await remove(folder);
  }
}
let counter = 0;

async function releaseOf(pvesh: string): Promise<string> {
  const { stdout } = await run([pvesh, 'get', '/version', '--output-format', 'json'], { timeoutMs: 30_000, stage: 'version of Proxmox' });
  const { version } = JSON.parse(stdout) as { version?: string };
  return version ?? '';
}

/** host-managed came with pve-container 6.0.15, which is Proxmox VE 9.1. */
function setsAddresses(release: string): boolean {
  const [major = 0, minor = 0] = release.split('.').map(Number);
  return major > 9 || (major === 9 && minor >= 1);
}

/** What the probe runs on: the programs of the node itself. */
async function plainRootfs(path: string): Promise<void> {
  for (const name of ['usr', 'proc', 'sys', 'dev', 'tmp']) await mkdir(join(path, name), { recursive: true, mode: 0o755 });
  for (const name of ['bin', 'lib', 'lib64']) await symlink(`usr/${name}`, join(path, name));
}

/** As images/rootfs.ts makes one for a pod. @throws where the kernel or a filesystem cannot do it */
async function shiftedRootfs(folder: string): Promise<SandboxPlan['namespaces']> {
  const [lower, shifted, rootfs] = ['lower', 'shifted', 'rootfs'].map((name) => join(folder, name)) as [string, string, string];
  await plainRootfs(lower);
  const namespaces = await pinNamespaces(join(folder, 'ns'), { network: true, ipc: true, uts: true, user: unprivilegedIds }, { sysctls: {} });
  for (const name of ['shifted', 'rootfs', 'upper', 'work']) await mkdir(join(folder, name), { mode: 0o755 });
  await mountIdMapped(lower, shifted, namespaces.user ?? '');
  const root = unprivilegedIds.uids[0]?.hostID ?? 0;
  for (const name of ['upper', 'work']) await chown(join(folder, name), root, root);
  await mount('overlay', 'overlay', rootfs, `lowerdir=${shifted},upperdir=${join(folder, 'upper')},workdir=${join(folder, 'work')}`);
  return namespaces;
}

async function runThrowAway(backend: PctBackend, id: string, folder: string, namespaces: SandboxPlan['namespaces']): Promise<void> {
  const spec = probeSpec(join(folder, 'rootfs'), namespaces);
  await writeFile(join(folder, 'config.json'), JSON.stringify(spec));
  const sandbox: SandboxPlan = { id, name: 'probe', namespace: 'crisp', uid: '', attempt: 0, labels: {}, annotations: {}, folder, hostname: undefined, namespaces, cgroupParent: '', ...(namespaces.user ? { idMaps: unprivilegedIds } : {}) };
  const logPath = join(folder, 'log'); // where liblxc 6 says why a start fails
  const plan: ContainerPlan = { id, name: 'probe', attempt: 0, image: 'none', imageId: 'none', sandbox, folder, spec, logPath, stdin: false, stdinOnce: false, stopSignal: '15' };
  const state = await backend.create(plan);
  const container: ContainerRef = { id, folder, logPath, state };
  try {
    await backend.start(container);
    const exit = await exitOf(backend, container);
    if (!Object.values(exitCodes).includes(exit.exitCode)) throw new Error(`the probe CT exited with ${exit.exitCode} instead of ${exitCodes.withGroup}`);
    backend.givesGroups = exit.exitCode === exitCodes.withGroup;
  } finally {
    await backend.delete(container);
  }
}

function probeSpec(rootfs: string, namespaces: SandboxPlan['namespaces']): Spec {
  const joined = Object.entries(namespaces).map(([type, path]) => ({ type: type as keyof typeof namespaces, path }));
  const own = (['network', 'ipc', 'uts', 'pid'] as const).filter((type) => !namespaces[type]).map((type) => ({ type }));
  return {
    ociVersion: '1.0.2',
    process: { user: { uid: 0, gid: 0, additionalGids: [group] }, args: ['/bin/sh', '-c', `case " $(id -G) " in *" ${group} "*) exit ${exitCodes.withGroup};; esac; exit ${exitCodes.without}`], env: ['PATH=/usr/bin:/bin'], cwd: '/' },
    root: { path: rootfs },
    mounts: [{ destination: '/usr', type: 'bind', source: '/usr', options: ['rbind', 'rslave', 'ro'] }],
    linux: { namespaces: [{ type: 'mount' }, ...joined, ...own], maskedPaths: ['/proc/kcore'] },
  };
}

async function exitOf(backend: PctBackend, container: ContainerRef): Promise<Exit> {
  for (let waited = 0; waited < waitMs; waited += 20) {
    const exit = await backend.exits.read(container.id, container.folder);
    if (exit) return exit;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`the probe CT did not end within ${waitMs} ms`);
}

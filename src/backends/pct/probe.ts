// The probe: tests whether idmapped overlays work here, which decides whether CTs
// share the layers of their image or each get a copy, and runs one temporary CT
// from create to delete.  It takes about four seconds on a node, nearly all of it
// pct.
import { realpathSync } from 'node:fs';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CrispError, toCrispError } from '../../errors.js';
import { expectPassage, makeClosedFolder, remove } from '../../host/files.js';
import { mount, unmountBelow } from '../../host/mounts.js';
import { run } from '../../host/run.js';
import { mountWritable, shiftOf } from '../../images/overlay.js';
import { log } from '../../log.js';
import { pinNamespaces, unpinNamespaces } from '../../pod/namespaces.js';
import type { Spec } from '../../shapes/spec.js';
import type { ContainerPlan, ContainerRef, Exit, Features, Probe } from '../backend.js';
import { notReady } from '../probe-failure.js';
import type { PctContext } from './context.js';
import { create } from './create.js';
import type { Findings } from './findings.js';
import type { SandboxPlan } from '../../shapes/sandbox.js';
import { rootGroupOf } from '../../oci/namespaces.js';
import { clearProbes, probeId } from '../probe-teardown.js';
import type { Volume } from './guest-options.js';
import { removeContainer } from './remove.js';
import { start } from './start.js';
import { unprivilegedIds, type PctBackendOptions } from './options.js';

/** With its supplemental group, and without. */
const exitCodes = { withGroup: 42, without: 41 };
const group = 50;
const waitMs = 20_000;
const features: Features = { recursiveReadOnlyMounts: false, userNamespaces: false };
const lacks = {
  recursiveReadOnlyMounts: 'liblxc does not support recursive read-only mounts',
  userNamespaces: 'CTs can only have the ids of unprivileged CTs on the node',
};

/** Never throws. */
export async function probe(ctx: PctContext): Promise<Probe> {
  const { options } = ctx;
  const found: Findings = { ...ctx.found };
  const trial: PctContext = { ...ctx, found };
  const id = probeId(options);
  const folder = join(options.state, 'probe', id);
  const layers = join(options.root, 'containers', id); // the folder of writable layers; leftovers of a crash are removed at the next start
  let version = '';
  try {
    const release = await releaseOf(options.lxc);
    version = `pve-manager ${release}`;
    found.hostManaged = setsAddresses(release);
    found.environmentReachesHooks = !(await knowsRuntimeEnvironment(options.lxc));
    await clearProbes(
      { name: options.name, delete: (container) => removeContainer(trial, container) },
      join(options.state, 'probe'),
    );
    if (options.lxc.unprivileged) await expectPassage(dirname(folder));
    makeClosedFolder(folder, options.lxc.unprivileged ? rootGroupOf(unprivilegedIds) : undefined);
    const namespaces = options.lxc.unprivileged
      ? await pinNamespaces(
          join(folder, 'ns'),
          { network: true, ipc: true, uts: true, user: unprivilegedIds },
          { sysctls: {} },
        )
      : {};
    const why =
      namespaces.user === undefined
        ? undefined
        : await shiftedRootfs(folder, layers, namespaces).then(() => undefined, toCrispError);
    found.copies = why && (await storageOfCopies(options, why));
    if (why || namespaces.user === undefined) await plainRootfs(join(folder, 'rootfs'));
    found.givesGroups = await runThrowAway(trial, id, folder, namespaces);
    return { ready: true, reason: '', version, features, lacks, found };
  } catch (error) {
    return { ...notReady(error), version, features, lacks };
  } finally {
    await unmountBelow(join(folder, 'rootfs'));
    await unmountBelow(join(folder, 'shifted'));
    await unpinNamespaces(join(folder, 'ns'));
    await Promise.all([folder, layers].map(remove));
  }
}

/** With the timeout of pct calls: pvesh is Perl as well, and as slow. */
async function releaseOf({ tools, pct_timeout_seconds: seconds }: PctBackendOptions['lxc']): Promise<string> {
  const { stdout } = await run([tools.pvesh, 'get', '/version', '--output-format', 'json'], {
    timeoutMs: seconds * 1000,
    stage: 'version of Proxmox',
  });
  const { version } = JSON.parse(stdout) as { version?: string };
  return version ?? '';
}

/** host-managed was added in pve-container 6.0.15 (Proxmox VE 9.1). */
function setsAddresses(release: string): boolean {
  const [major = 0, minor = 0] = release.split('.').map(Number);
  return major > 9 || (major === 9 && minor >= 1);
}

/** lxc.environment.runtime was added in liblxc 6.0.5 (lxc.container.conf(5)). */
async function knowsRuntimeEnvironment({ tools }: PctBackendOptions['lxc']): Promise<boolean> {
  const { stdout } = await run([tools.lxc_info, '--version'], {
    timeoutMs: 10_000,
    stage: 'version of liblxc',
  });
  const [major = 0, minor = 0, patch = 0] = (/\d+(\.\d+)*/.exec(stdout)?.[0] ?? '').split('.').map(Number);
  return major > 6 || (major === 6 && (minor > 0 || patch >= 5));
}

/** The rootfs of the probe: the programs of the node itself. */
async function plainRootfs(path: string): Promise<void> {
  for (const name of ['usr', 'proc', 'sys', 'dev', 'tmp'])
    await mkdir(join(path, name), { recursive: true, mode: 0o755 });
  for (const name of ['bin', 'lib', 'lib64']) await symlink(`usr/${name}`, join(path, name));
}

/**
 * The same mount as for a container, on the filesystems of containers. @throws if the kernel or one of these
 * does not support it
 */
async function shiftedRootfs(
  folder: string,
  layer: string,
  namespaces: SandboxPlan['namespaces'],
): Promise<void> {
  const store = join(layer, 'store');
  await plainRootfs(join(store, 'lower'));
  const [target, shifted] = [join(folder, 'rootfs'), join(folder, 'shifted')];
  const shift = shiftOf({ namespaces, idMaps: unprivilegedIds });
  await mountWritable({ target, store, layer, shifted, shift }, (from, options) =>
    mount('overlay', 'overlay', target, ['lowerdir=lower', ...options].join(','), { cwd: from }),
  );
}

/**
 * If idmapped overlays do not work each CT gets a volume: a plain folder, if a storage supports it. @param
 * why the reason @throws Unsupported if no storage accepts volumes
 */
async function storageOfCopies({ lxc }: PctBackendOptions, why: CrispError): Promise<Volume> {
  const { stdout } = await run([lxc.tools.pvesm, 'status', '--content', 'rootdir'], {
    timeoutMs: lxc.pct_timeout_seconds * 1000,
    stage: 'find storage',
  });
  const active = [...stdout.matchAll(/^(\S+) +(\S+) +active /gm)].map(([, storage = '', type = '']) => ({
    storage,
    sizeGib: ['dir', 'btrfs'].includes(type) ? 0 : lxc.rootfs.size_gib,
  }));
  const [found] = [...active.filter(({ sizeGib }) => sizeGib === 0), ...active];
  if (!found)
    throw new CrispError(
      'Unsupported',
      `unprivileged CTs cannot share the layers of an image here, and no storage takes volumes for copies: ${why.message}`,
      {
        stage: 'probe',
        stderr: why.stderr ?? '',
        hint: 'give a storage the content rootdir (`pvesm set`), or set lxc.unprivileged: false',
      },
    );
  log.warn(
    { error: why.report, ...found },
    'idmapped overlays do not work here: each CT gets a copy of its image',
  );
  return found;
}

/** @returns whether its process has its supplemental group */
async function runThrowAway(
  ctx: PctContext,
  id: string,
  folder: string,
  namespaces: SandboxPlan['namespaces'],
): Promise<boolean> {
  const spec = probeSpec(join(folder, 'rootfs'), namespaces);
  await writeFile(join(folder, 'config.json'), JSON.stringify(spec));
  const sandbox: SandboxPlan = {
    id,
    name: 'probe',
    namespace: 'crisp',
    uid: '',
    attempt: 0,
    labels: {},
    annotations: {},
    folder,
    hostname: undefined,
    namespaces,
    cgroupParent: '',
    ...(namespaces.user ? { idMaps: unprivilegedIds } : {}),
  };
  const logPath = join(realpathSync(folder), 'log'); // liblxc 6 writes the reason of a failed start there
  const plan: ContainerPlan = {
    id,
    name: 'probe',
    attempt: 0,
    image: 'none',
    imageId: id,
    sandbox,
    folder,
    spec,
    logPath,
    stdin: false,
    stdinOnce: false,
    stopSignal: '15',
  };
  const state = await create(ctx, plan);
  const container: ContainerRef = { id, folder, logPath, state };
  try {
    await start(ctx, container);
    const exit = await exitOf(ctx, container);
    if (!Object.values(exitCodes).includes(exit.exitCode))
      throw new Error(`the probe CT exited with ${exit.exitCode} instead of ${exitCodes.withGroup}`);
    return exit.exitCode === exitCodes.withGroup;
  } finally {
    await removeContainer(ctx, container);
    await ctx.archives.forget(plan.imageId);
  }
}

function probeSpec(rootfs: string, namespaces: SandboxPlan['namespaces']): Spec {
  const joined = Object.entries(namespaces).map(([type, path]) => ({
    type: type as keyof typeof namespaces,
    path,
  }));
  const own = (['network', 'ipc', 'uts', 'pid'] as const)
    .filter((type) => !namespaces[type])
    .map((type) => ({ type }));
  return {
    ociVersion: '1.0.2',
    process: {
      user: { uid: 0, gid: 0, additionalGids: [group] },
      args: [
        '/bin/sh',
        '-c',
        // A CT that ends before pct has seen its process is an error in the task log.
        `sleep 1; case " $(id -G) " in *" ${group} "*) exit ${exitCodes.withGroup};; esac; exit ${exitCodes.without}`,
      ],
      env: ['PATH=/usr/bin:/bin'],
      cwd: '/',
    },
    root: { path: rootfs },
    mounts: [{ destination: '/usr', type: 'bind', source: '/usr', options: ['rbind', 'rslave', 'ro'] }],
    linux: { namespaces: [{ type: 'mount' }, ...joined, ...own], maskedPaths: ['/proc/kcore'] },
  };
}

async function exitOf({ exits }: PctContext, container: ContainerRef): Promise<Exit> {
  const exit = await exits.wait(container.id, container.folder, waitMs);
  if (exit) return exit;
  throw new Error(`the probe CT did not end within ${waitMs} ms`);
}

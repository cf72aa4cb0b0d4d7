// The probe: runs temporary containers, from create to delete, to find out
// whether a runtime works on this host and which features it supports. Versions
// are not sufficient: a security fix of the runtime, a kernel or an LXC host has
// broken combinations that worked before.
import { realpathSync } from 'node:fs';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { lastLines, toCrispError } from '../../errors.js';
import { removePodCgroup } from '../../host/cgroup.js';
import { expectPassage, makeClosedFolder, readFileIfThere, remove } from '../../host/files.js';
import { bindMount, mount, unmountBelow } from '../../host/mounts.js';
import { cgroupsPath } from '../../oci/namespaces.js';
import type { Spec } from '../../shapes/spec.js';
import type { Backend, ContainerPlan, ContainerRef, Exit, Probe } from '../backend.js';
import { notReady } from '../probe-failure.js';
import type { SandboxPlan } from '../../shapes/sandbox.js';
import { clearProbes, probeCgroup, probeId } from '../probe-teardown.js';
import type { Exits } from '../exits.js';
import type { Runtime } from './runtime.js';

/** The functions of the backend for a probe. */
type Probed = Pick<Backend, 'name' | 'create' | 'start' | 'delete'> & {
  readonly runtime: Pick<Runtime, 'version'>;
  readonly exits: Pick<Exits, 'wait'>;
  readonly systemdCgroup: boolean;
};

const exitCodeExpected = 42;
const waitMs = 10_000;

/**
 * Runs a temporary container, and tests the optional features. Never throws.
 * @param folder for the bundles of probes
 */
export async function probe(backend: Probed, folder: string): Promise<Probe> {
  let version = '';
  try {
    version = await backend.runtime.version();
    await clearProbes(backend, folder);
    await runProbe(backend, folder, `exit ${exitCodeExpected}`);
    const [rro, userns] = await Promise.all([
      reasonNot(mountRecursivelyReadOnly(backend, folder)),
      reasonNot(useUserNamespace(backend, folder)),
    ]);
    return {
      ready: true,
      reason: '',
      version,
      features: { recursiveReadOnlyMounts: rro === undefined, userNamespaces: userns === undefined },
      lacks: {
        ...(rro === undefined ? {} : { recursiveReadOnlyMounts: rro }),
        ...(userns === undefined ? {} : { userNamespaces: userns }),
      },
    };
  } catch (error) {
    return {
      ...notReady(error),
      version,
      features: { recursiveReadOnlyMounts: false, userNamespaces: false },
      lacks: {},
    };
  }
}

/**
 * Runs `script` in a container on the host's own /usr. @param group the root group of its user namespace
 * @throws if it does not exit as expected
 */
async function runProbe(
  backend: Probed,
  parent: string,
  script: string,
  change: (spec: Spec, folder: string) => Promise<void> = async () => undefined,
  group?: number,
): Promise<void> {
  const id = probeId(backend);
  const folder = join(parent, id);
  const rootfs = join(folder, 'rootfs');
  makeClosedFolder(folder, group);
  let container: ContainerRef | undefined;
  try {
    for (const name of ['usr', 'proc', 'dev', 'tmp'])
      await mkdir(join(rootfs, name), { recursive: true, mode: 0o755 });
    for (const name of ['bin', 'lib', 'lib64']) await symlink(`usr/${name}`, join(rootfs, name));
    const spec = probeSpec(
      backend.systemdCgroup ? cgroupsPath('crisp.slice', id, true) : probeCgroup(id),
      rootfs,
      script,
    );
    await change(spec, folder);
    await writeFile(join(folder, 'config.json'), JSON.stringify(spec));
    const plan = probePlan(id, folder, spec);
    const state = await backend.create(plan);
    container = { id, folder, logPath: plan.logPath, state };
    await backend.start(container);
    const exit = await exitOf(backend, container);
    if (exit.exitCode !== exitCodeExpected)
      throw new Error(
        `the probe container exited with ${exit.exitCode} instead of ${exitCodeExpected}${await lastWords(plan.logPath)}`,
      );
  } finally {
    if (container) await backend.delete(container);
    await unmountBelow(folder);
    if (!backend.systemdCgroup) await removePodCgroup(probeCgroup(id));
    await remove(folder);
  }
}

async function exitOf(backend: Probed, container: ContainerRef): Promise<Exit> {
  const exit = await backend.exits.wait(container.id, container.folder, waitMs);
  if (exit) return exit;
  throw new Error(`the probe container did not end within ${waitMs} ms`);
}

async function mountRecursivelyReadOnly(backend: Probed, folder: string): Promise<void> {
  await runProbe(
    backend,
    folder,
    `echo > /mnt/below/file || exit ${exitCodeExpected}; echo what is mounted below can be written to; exit 1`,
    async (spec, own) => {
      const source = join(own, 'source');
      await mkdir(join(source, 'below'), { recursive: true });
      await mkdir(join(spec.root.path, 'mnt'));
      await bindMount(source, source);
      await mount('tmpfs', 'tmpfs', join(source, 'below'), 'size=64k');
      spec.mounts.push({ destination: '/mnt', type: 'bind', source, options: ['rbind', 'rro'] });
    },
  );
}

/** A user namespace with a mount that is idmapped into it: a file of root must belong to root inside. */
async function useUserNamespace(backend: Probed, folder: string): Promise<void> {
  await expectPassage(folder);
  const map = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
  await runProbe(
    backend,
    folder,
    `u=$(stat -c %u /mnt) && [ $u = 0 ] && exit ${exitCodeExpected}; echo "in an idmapped mount, a folder of root is that of uid $u"; exit 1`,
    async (spec, own) => {
      const source = join(own, 'source');
      await mkdir(source, { recursive: true });
      await mkdir(join(spec.root.path, 'mnt'));
      spec.linux.namespaces.push({ type: 'user' });
      spec.linux.uidMappings = map;
      spec.linux.gidMappings = map;
      spec.mounts.push({
        destination: '/mnt',
        type: 'bind',
        source,
        options: ['rbind', 'idmap'],
        uidMappings: map,
        gidMappings: map,
      });
    },
    map[0]?.hostID,
  );
}

/** undefined: it works. */
async function reasonNot(work: Promise<void>): Promise<string | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    return toCrispError(error).message;
  }
}

/** The output of the container, without the prefixes of its log. */
async function lastWords(logPath: string): Promise<string> {
  const said = ((await readFileIfThere(logPath, { maxBytes: 64 << 10, larger: 'end' })) ?? '')
    .replace(/^\S+ (stdout|stderr) [FP] /gm, '')
    .trim();
  return said && `: ${lastLines(said, 300)}`;
}

function probeSpec(cgroup: string, rootfs: string, script: string): Spec {
  return {
    ociVersion: '1.0.2',
    process: {
      user: { uid: 0, gid: 0 },
      args: ['/bin/sh', '-c', script],
      env: ['PATH=/usr/bin:/bin'],
      cwd: '/',
    },
    root: { path: rootfs },
    mounts: [
      { destination: '/usr', type: 'bind', source: '/usr', options: ['rbind', 'ro'] },
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
    ],
    linux: {
      namespaces: [{ type: 'pid' }, { type: 'mount' }, { type: 'ipc' }, { type: 'uts' }, { type: 'network' }],
      cgroupsPath: cgroup,
    },
  };
}

function probePlan(id: string, folder: string, spec: Spec): ContainerPlan {
  const sandbox: SandboxPlan = {
    id,
    name: id,
    namespace: '',
    uid: '',
    attempt: 0,
    labels: {},
    annotations: {},
    folder,
    hostname: undefined,
    namespaces: {},
    cgroupParent: '',
  };
  return {
    id,
    name: id,
    attempt: 0,
    image: '',
    imageId: '',
    sandbox,
    folder,
    spec,
    logPath: join(realpathSync(folder), 'log'),
    stdin: true,
    stdinOnce: false,
    stopSignal: 'SIGKILL',
  };
}

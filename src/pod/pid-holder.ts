// The holder of a pod-wide pid namespace: its first process, which keeps it and
// reaps its orphans (catatonit -P).  Called by pod.ts.
//
// Every container of the pod sees it as process 1, so an attacker must gain nothing from it:
// it is a separate container, started by an OCI runtime (docs/adr/0010).
//
//   FOLDER/config.json   its confinement, and its cgroup: every process in that belongs to crisp
//   FOLDER/rootfs        its root: /catatonit and mount points, mounted read-only
//   FOLDER/runtime       the runtime's --root, separate from that of containers
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { OciRuntime } from '../backends/backend.js';
import { CrispError } from '../errors.js';
import { cgroupPath, cgroupProcesses, killCgroup, removeCgroup } from '../host/cgroup.js';
import { makeFolder, readFileIfThere, remove } from '../host/files.js';
import {
  identify,
  waitUntilEnded,
  waitUntilIdle,
  signalProcess,
  type ProcessIdentity,
} from '../host/proc.js';
import { findProgram } from '../host/programs.js';
import { runDetached } from '../host/run.js';
import type { IdMaps, SandboxPlan } from '../shapes/sandbox.js';
import { within } from '../host/wait.js';
import type { Spec } from '../shapes/spec.js';

/** The programs for a holder, as absolute paths. */
export interface HolderTools {
  readonly runtime: OciRuntime;
  readonly init: string;
}

export interface PidHolderPlan {
  readonly tools: HolderTools;
  /** Folder made by startPidHolder(), below the pod's folder. */
  readonly folder: string;
  /**
   * The pod's namespaces, which it joins; for kinds that the pod does not have it gets new ones, never the
   * host's.
   */
  readonly namespaces: SandboxPlan['namespaces'];
  /** The mapping of namespaces.user. */
  readonly idMaps?: IdMaps | undefined;
  /** In the format of the driver: see cgroupsPath() of oci/namespaces.ts. */
  readonly cgroupsPath: string;
  readonly systemdCgroup: boolean;
  readonly oomScoreAdj: number;
}

const stage = 'hold pid namespace';
const startPatienceMs = 20_000;
const endPatienceMs = 5_000;
/**
 * An unused id: the largest that all runtimes accept (runc has 31 bits), beyond all accounts and ranges of
 * subordinate ids.
 */
const nobodysId = 2 ** 31 - 2;

/**
 * Finds catatonit and the first installed of these runtimes.
 * @throws ToolMissing, which names the package
 */
export async function findHolderTools(runtimes: readonly OciRuntime[]): Promise<HolderTools> {
  const init = await findProgram('catatonit').catch(() => undefined);
  if (init === undefined)
    throw new CrispError(
      'ToolMissing',
      'catatonit is not installed: pods that share one pid namespace cannot run',
      {
        stage,
        tool: 'catatonit',
        hint: 'apt install catatonit',
      },
    );
  for (const { path, args } of runtimes) {
    const found = await findProgram(path).catch(() => undefined);
    if (found !== undefined) return { init, runtime: { path: found, args } };
  }
  throw new CrispError(
    'ToolMissing',
    'no OCI runtime is installed: it starts the first process of pods that share one pid namespace',
    { stage, tool: runtimes[0]?.path ?? 'crun', hint: 'apt install crun (or runc)' },
  );
}

/**
 * Starts the holder. It outlives the daemon.
 * @returns the namespace's path, for the runtimes of the pod's containers, and the holder
 * @throws NamespaceFailed with the runtime's message; call stopPidHolder() then to clean
 * up
 */
export async function startPidHolder(
  plan: PidHolderPlan,
): Promise<{ path: string; holder: ProcessIdentity }> {
  const { folder, tools } = plan;
  const [pidFile, words] = [join(folder, 'pid'), join(folder, 'log')];
  makeFolder(folder, 0o711);
  for (const name of ['', 'proc', 'dev']) mkdirSync(join(folder, 'rootfs', name), { mode: 0o755 });
  writeFileSync(join(folder, 'rootfs/catatonit'), '', { mode: 0o444 });
  writeFileSync(join(folder, 'config.json'), JSON.stringify(holderSpec(plan)), { mode: 0o600 });
  const starter = await runDetached(
    [
      tools.runtime.path,
      ...tools.runtime.args,
      `--root=${runtimeRoot(folder)}`,
      `--log=${words}`,
      ...(plan.systemdCgroup ? ['--systemd-cgroup'] : []),
      'run',
      '--detach',
      `--pid-file=${pidFile}`,
      `--bundle=${folder}`,
      'holder',
    ],
    // The process gets the runtime's own streams: /dev/null would be the host's, and its owner would be
    // changed.
    { cwd: folder, ownStreams: true },
  );
  const exitCode = (await within(starter.exited, startPatienceMs)) ? await starter.exited : 'late';
  const pid = exitCode === 0 ? Number(await readFileIfThere(pidFile)) : NaN;
  const holder = Number.isInteger(pid) && pid > 0 ? await identify(pid) : undefined;
  if (holder) return { path: `/proc/${holder.pid}/ns/pid`, holder };
  const said = (await readFileIfThere(words))?.trim();
  throw new CrispError(
    'NamespaceFailed',
    exitCode === 'late'
      ? `the holder of the pod's pid namespace did not start within ${startPatienceMs} ms`
      : "the holder of the pod's pid namespace did not start",
    {
      stage,
      tool: tools.runtime.path.replace(/^.*\//, ''),
      ...(said ? { stderr: said } : {}),
      hint: 'see the message of the OCI runtime; `crisp check` runs a container with it',
    },
  );
}

/**
 * Ends the holder that was started in this folder, or whose start was
 * interrupted, and all remaining processes in its pid namespace; removes its
 * cgroup and the folder. Idempotent.
 * @param holder from the pod's record: available even if the folder was lost
 */
export async function stopPidHolder(folder: string, holder?: ProcessIdentity): Promise<void> {
  // A killed daemon may have left a running runtime behind.
  for (const program of await waitUntilIdle(folder, endPatienceMs)) await signalProcess(program, 'SIGKILL');
  const group = await cgroupOf(folder);
  const ending = [
    holder,
    ...(group === undefined ? [] : await Promise.all((await cgroupProcesses(group)).map(identify))),
  ].filter((process) => process !== undefined);
  for (const each of ending) await signalProcess(each, 'SIGKILL');
  for (const each of ending) await waitUntilEnded(each, endPatienceMs); // the whole namespace ends with the holder; its group is empty before that (pid_namespaces(7))
  if (group !== undefined) {
    await killCgroup(group);
    await removeCgroup(cgroupPath(group));
  }
  await remove(folder);
}

/** The bundle that startPidHolder() has written; undefined: nothing was started here. */
async function cgroupOf(folder: string): Promise<string | undefined> {
  const text = await readFileIfThere(join(folder, 'config.json'));
  if (text === undefined) return undefined;
  try {
    return (JSON.parse(text) as Spec).linux.cgroupsPath;
  } catch {
    return undefined; // the write was interrupted, before anything was started
  }
}

/** The folder of a pod's holder. @param pod the pod's folder */
export function holderFolder(pod: string): string {
  return join(pod, 'holder');
}

function runtimeRoot(folder: string): string {
  return join(folder, 'runtime');
}

/** Exported only for the tests. */
export function holderSpec({
  tools,
  folder,
  namespaces,
  idMaps,
  cgroupsPath,
  oomScoreAdj,
}: Omit<PidHolderPlan, 'systemdCgroup'>): Spec {
  const [uid, gid] = [idMaps?.uids, idMaps?.gids].map((map) => lastOf(map) ?? nobodysId) as [number, number];
  return {
    ociVersion: '1.0.2',
    process: {
      user: { uid, gid },
      args: ['/catatonit', '-P'],
      env: [],
      cwd: '/',
      capabilities: { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] },
      noNewPrivileges: true,
      oomScoreAdj,
    },
    root: { path: join(folder, 'rootfs'), readonly: true },
    mounts: [
      {
        destination: '/catatonit',
        type: 'bind',
        source: tools.init,
        options: ['bind', 'ro', 'nosuid', 'nodev'],
      },
      // The runtimes require a /proc; this one has only the entries of the pod's own processes.
      {
        destination: '/proc',
        type: 'proc',
        source: 'proc',
        options: ['ro', 'nosuid', 'nodev', 'noexec', 'subset=pid'],
      },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['ro', 'nosuid', 'noexec', 'size=4k'] },
    ],
    linux: {
      namespaces: [
        { type: 'mount' },
        { type: 'pid' },
        ...(['network', 'ipc', 'uts'] as const).map((type) => ({ type, ...pathOf(namespaces[type]) })),
        ...(namespaces.user ? [{ type: 'user' as const, path: namespaces.user }] : []),
      ],
      ...(idMaps ? { uidMappings: [...idMaps.uids], gidMappings: [...idMaps.gids] } : {}),
      cgroupsPath,
      resources: { devices: [{ allow: false, access: 'rwm' }] },
      seccomp: {
        defaultAction: 'SCMP_ACT_ERRNO',
        syscalls: [{ names: systemCalls, action: 'SCMP_ACT_ALLOW' }],
      },
    },
  };
}

function pathOf(path: string | undefined): { path?: string } {
  return path === undefined ? {} : { path };
}

/** The last id of a user namespace, the only one that is likely to be unused. */
function lastOf(map: IdMaps['uids'] | undefined): number | undefined {
  return map && Math.max(...map.map(({ containerID, size }) => containerID + size - 1));
}

/**
 * The calls that catatonit needs to start, to wait for signals and to reap,
 * and the calls that the runtime makes after it has applied the filter (for
 * runc everything up to execve(2)). None of them makes a process, a socket or
 * a mount, or signals another process; without capabilities none changes an
 * id.
 */
const systemCalls = `
  execve exit exit_group restart_syscall
  arch_prctl set_tid_address set_robust_list rseq prlimit64 ugetrlimit getrandom
  brk mmap mmap2 munmap mprotect madvise
  rt_sigprocmask rt_sigaction rt_sigreturn sigreturn sigaltstack signalfd4
  openat read write close close_range fcntl fcntl64 fstat newfstatat fstatat64 fstatfs fstatfs64
  getdents64 readlink readlinkat faccessat faccessat2 getcwd chdir pipe2 fchown
  wait4 waitid getpid gettid getppid getuid geteuid getgid getegid
  prctl capget capset setgroups setgid setresgid setuid setresuid
  futex nanosleep clock_gettime clock_nanosleep sched_yield epoll_create1 epoll_pwait epoll_ctl
`
  .trim()
  .split(/\s+/);

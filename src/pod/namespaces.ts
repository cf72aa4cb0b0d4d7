// The namespaces of a pod, pinned as files so that no process has to keep them
// alive, and their kernel settings.  Called by pod.ts and recovery.
//
//   FOLDER/net, ipc, uts, user   bind mounts of /proc/PID/ns/*
//
// A pid namespace ends with its first process, so a shared one needs a holder:
// see pid-holder.ts.
import { closeSync, constants, openSync, statfsSync, writeFileSync, writeSync } from 'node:fs';
import { rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { CrispError } from '../errors.js';
import { currentNamespace, inNamespaces, inNewNamespaces } from '../host/enter.js';
import { isAbsent, makeFolder, remove } from '../host/files.js';
import { bindMount, unmount } from '../host/mounts.js';
import { CommandError, run, runStreaming } from '../host/run.js';
import { mountFilesystem, mountFlag, setHostname, setInterfaceUp } from '../host/syscalls.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import type { IdMapping } from '../shapes/spec.js';

export type Pinned = Partial<Record<'network' | 'ipc' | 'uts' | 'user', string>>;

export interface WantedNamespaces {
  readonly network: boolean;
  readonly ipc: boolean;
  readonly uts: boolean;
  /** Also makes a user namespace with these mappings, which owns the others. */
  readonly user?: { readonly uids: readonly IdMapping[]; readonly gids: readonly IdMapping[] } | undefined;
}

export interface NamespaceSettings {
  /** At most 64 bytes (sethostname(2)); needs the uts namespace. */
  readonly hostname?: string | undefined;
  /** Checked by checkPodSysctls() before. */
  readonly sysctls: Readonly<Record<string, string>>;
}

/**
 * The name of each kind under /proc/PID/ns, which is also the option of unshare and nsenter, and the name of
 * the pin.
 */
const kernelName = { user: 'user', network: 'net', ipc: 'ipc', uts: 'uts' } as const;
const enterable = ['network', 'ipc', 'uts'] as const;
const kinds = ['user', ...enterable] as const;
const timeoutMs = 20_000;
const stage = 'pin namespaces';
const maxHostnameBytes = 64;
/** Bytes of unshare's output. */
const maxWords = 2048;
/** statfs(2)'s type of a namespace file (linux/magic.h: NSFS_MAGIC). */
const nsfsMagic = 0x6e736673;

/**
 * Makes the requested namespaces, sets the hostname and sysctls in them, and
 * pins them in `folder` (created if needed). Leaves nothing behind on
 * failure.
 * @throws InvalidArgument, SysctlFailed (naming the sysctl), NamespaceFailed
 */
export async function pinNamespaces(
  folder: string,
  wanted: WantedNamespaces,
  settings: NamespaceSettings,
): Promise<Pinned> {
  if (Buffer.byteLength(settings.hostname ?? '') > maxHostnameBytes) {
    throw new CrispError(
      'InvalidArgument',
      `the hostname "${settings.hostname}" is longer than ${maxHostnameBytes} bytes`,
      { stage },
    );
  }
  const files = namespaceFiles(folder);
  const pinned: Pinned = {};
  for (const kind of kinds) if (wanted[kind]) pinned[kind] = files[kind];
  const paths = Object.values(pinned);
  if (paths.length === 0) return pinned;
  makeFolder(folder);
  try {
    for (const path of paths) writeFileSync(path, '', { mode: 0o600 });
    if (wanted.user) await pinUnderUserNamespace(pinned, wanted.user, settings);
    else pinNew(pinned, settings);
  } catch (error) {
    await unpinNamespaces(folder);
    throw failure('cannot make the namespaces of the pod', error);
  }
  return pinned;
}

/** The path at which pinNamespaces() pins each kind. */
export function namespaceFiles(folder: string): Required<Pinned> {
  return Object.fromEntries(kinds.map((kind) => [kind, join(folder, kernelName[kind])])) as Required<Pinned>;
}

/** Pins the namespaces of a process again at the paths of `pinned`; existing pins are kept. */
export async function repinNamespaces(folder: string, pinned: Pinned, pid: number): Promise<void> {
  makeFolder(folder);
  for (const kind of kinds) {
    const path = pinned[kind];
    if (path === undefined || (await isNamespaceFile(path))) continue;
    writeFileSync(path, '', { mode: 0o600 });
    await bindMount(`/proc/${pid}/ns/${kernelName[kind]}`, path);
  }
}

/** Undoes pinNamespaces(): unmounts and removes the pins, and the folder once it is empty. Idempotent. */
export async function unpinNamespaces(folder: string): Promise<void> {
  const paths = Object.values(namespaceFiles(folder));
  const mounted: string[] = [];
  for (const path of paths) if (await isNamespaceFile(path)) mounted.push(path);
  const [first, ...others] = mounted;
  if (first) await unmount(first, ...others);
  await Promise.all(paths.map(remove));
  await rmdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (!isAbsent(error) && error.code !== 'ENOTEMPTY') throw error;
  });
}

/**
 * Whether a namespace is pinned at the path; false after a reboot, when the file is a regular file or gone.
 */
export async function isNamespaceFile(path: string): Promise<boolean> {
  try {
    return statfsSync(path).type === nsfsMagic;
  } catch (error) {
    if (isAbsent(error)) return false;
    throw error;
  }
}

/**
 * The first path of a pod at which no namespace is pinned any more. A shared pid namespace is not pinned: the
 * holder keeps it.
 */
export async function lostPin(namespaces: SandboxPlan['namespaces']): Promise<string | undefined> {
  for (const kind of kinds) {
    const path = namespaces[kind];
    if (path !== undefined && !(await isNamespaceFile(path))) return path;
  }
  return undefined;
}

/**
 * Sets the loopback interface of a network namespace up; in a new namespace it is down. @throws
 * NamespaceFailed
 */
export async function bringLoopbackUp(netns: string): Promise<void> {
  try {
    inNamespaces({ network: netns }, () => {
      setInterfaceUp('lo');
    });
  } catch (error) {
    throw failure("cannot set the pod's loopback interface up", error, 'loopback up');
  }
}

/**
 * In one synchronous function on the only thread: no other code runs in the new namespaces (host/enter.ts).
 */
function pinNew(pinned: Pinned, settings: NamespaceSettings): void {
  const wanted = enterable.filter((kind) => pinned[kind]);
  inNewNamespaces(wanted, () => {
    apply(pinned, settings);
    for (const kind of wanted)
      mountFilesystem(currentNamespace(kind), pinned[kind] ?? '', null, mountFlag.bind);
  });
}

/**
 * In the namespaces of the current thread: settings are written to /proc/sys, which shows each thread its
 * own.
 */
function apply(pinned: Pinned, { hostname, sysctls }: NamespaceSettings): void {
  for (const [name, value] of Object.entries(sysctls)) {
    try {
      writeSetting(join('/proc/sys', ...sysctlPath(name)), value);
    } catch (error) {
      throw sysctlFailed([name], error);
    }
  }
  if (hostname && pinned.uts) setHostname(hostname);
}

/** Never creates a file, unlike writeFileSync. */
function writeSetting(path: string, value: string): void {
  const file = openSync(path, constants.O_WRONLY);
  try {
    writeSync(file, `${value}\n`);
  } finally {
    closeSync(file);
  }
}

function sysctlFailed(names: readonly string[], cause: unknown): CrispError {
  return new CrispError('SysctlFailed', `cannot set ${names.join(', ')} in the pod`, {
    stage,
    stderr: cause instanceof CommandError ? cause.stderr : (cause as Error).message,
    cause,
  });
}

function failure(what: string, error: unknown, at = stage): CrispError {
  if (error instanceof CrispError) return error;
  return new CrispError('NamespaceFailed', `${what}: ${(error as Error).message}`, {
    stage: at,
    cause: error,
  });
}

/**
 * The daemon writes the mappings, since the kernel requires privileges in the
 * parent namespace; so a process has to wait in the new namespaces until they
 * are written and pinned: cat, which shows that it runs (it echoes) and exits
 * when its stdin is closed, also if the daemon dies.
 */
async function pinUnderUserNamespace(
  pinned: Pinned,
  mappings: NonNullable<WantedNamespaces['user']>,
  settings: NamespaceSettings,
): Promise<void> {
  const wanted = kinds.filter((kind) => pinned[kind]);
  const stdin = new PassThrough();
  stdin.write('\n');
  let echoed: () => void;
  const standing = new Promise<void>((resolve) => {
    echoed = resolve;
  });
  const stdout = new Writable({
    write: (_chunk, _encoding, done) => {
      echoed();
      done();
    },
  });
  let words = '';
  const stderr = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      words = (words + chunk.toString()).slice(0, maxWords);
      done();
    },
  });
  const process = await runStreaming(
    ['unshare', ...wanted.map((kind) => `--${kernelName[kind]}`), 'cat'],
    { stdin, stdout, stderr },
    { timeoutMs, stage, errorId: 'NamespaceFailed' },
  );
  try {
    await Promise.race([standing, process.ended]);
    await writeFile(`/proc/${process.pid}/uid_map`, mapLines(mappings.uids));
    await writeFile(`/proc/${process.pid}/gid_map`, mapLines(mappings.gids));
    await Promise.all(
      wanted.map((kind) => bindMount(`/proc/${process.pid}/ns/${kernelName[kind]}`, pinned[kind] ?? '')),
    );
  } catch (error) {
    if (error instanceof CommandError)
      throw new CrispError(error.id, error.message, { stage, tool: 'unshare', stderr: words, cause: error });
    if (error instanceof CrispError) throw error;
    throw new CrispError('NamespaceFailed', `cannot map the ids of the pod: ${(error as Error).message}`, {
      stage,
      cause: error,
    });
  } finally {
    stdin.end();
    await process.ended.catch(() => undefined); // a relevant failure has been thrown already
  }
  // From outside the user namespace: root of the host may set values that the pod's root may not.
  const { user: _, ...others } = pinned;
  const sysctls = Object.entries(settings.sysctls);
  inNamespaces(others, () => {
    apply(pinned, { ...settings, sysctls: Object.fromEntries(sysctls.filter(([name]) => !isOfIpc(name))) });
  });
  const ofIpc = sysctls.filter(([name]) => isOfIpc(name));
  if (ofIpc.length > 0) await applyAsPodsRoot(pinned, ofIpc);
}

/**
 * On newer kernels only the pod's root may change the settings of its ipc
 * namespace, on older ones only the host's root. A process with several threads,
 * like the daemon, cannot enter a user namespace (setns(2)), so sysctl(8) does
 * this.
 */
async function applyAsPodsRoot(
  pinned: Pinned,
  sysctls: readonly (readonly [string, string])[],
): Promise<void> {
  const { user, ipc } = pinned;
  const assignments = sysctls.map(([name, value]) => `${sysctlPath(name).join('/')}=${value}`);
  const write = ['sysctl', '--quiet', '--write', ...assignments];
  try {
    await run(['nsenter', `--user=${user}`, `--ipc=${ipc}`, ...write], {
      timeoutMs,
      stage,
      errorId: 'NamespaceFailed',
    });
  } catch {
    inNamespaces({ ipc: ipc ?? '' }, () => {
      apply(pinned, { sysctls: Object.fromEntries(sysctls) });
    });
  }
}

function isOfIpc(sysctl: string): boolean {
  return /^(kernel\.(shm|msg|sem)|fs\.mqueue\.)/.test(sysctlPath(sysctl).join('.'));
}

/** The lines of /proc/PID/uid_map (user_namespaces(7)); the kernel accepts them in one write only. */
function mapLines(mappings: readonly IdMapping[]): string {
  return mappings.map(({ containerID, hostID, size }) => `${containerID} ${hostID} ${size}\n`).join('');
}

/**
 * Refuses sysctls of the host, or of namespaces that this pod shares with the
 * host; sysctls of a namespace of the pod are allowed (sysctl names as in the
 * pod's securityContext: dots or slashes).
 * @throws InvalidArgument naming the sysctl
 */
export function checkPodSysctls(
  sysctls: Readonly<Record<string, string>>,
  host: { readonly hostNetwork: boolean; readonly hostIpc: boolean },
): void {
  for (const [name, value] of Object.entries(sysctls)) {
    const refuse = (why: string) =>
      new CrispError('InvalidArgument', `sysctl ${name}: ${why}`, {
        hint: "only sysctls of the pod's own network and ipc namespaces can be set",
      });
    const path = sysctlPath(name);
    if (!path.every((part) => /^[\w:@-][\w.:@-]*$/.test(part)) || value.includes('\0'))
      throw refuse('not a sysctl');
    const full = path.join('/');
    if (/^net\/./.test(full)) {
      if (host.hostNetwork) throw refuse("the pod is on the host's network");
    } else if (/^kernel\/(shm|msg)\w*$|^kernel\/sem$|^fs\/mqueue\/./.test(full)) {
      if (host.hostIpc) throw refuse("the pod shares the host's ipc namespace");
    } else throw refuse('it is not namespaced, so it would change the host');
  }
}

/**
 * The folders and the file under /proc/sys. As in sysctl(8), the first of .
 * and / that occurs is the separator; the other is then part of a name
 * ("net.ipv4.conf.eth0/1.mtu").
 */
function sysctlPath(name: string): string[] {
  return /[./]/.exec(name)?.[0] === '/'
    ? name.split('/')
    : name.split('.').map((part) => part.replaceAll('/', '.'));
}

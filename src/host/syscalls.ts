// System calls without a function in Node, by koffi (docs/adr/0012).
//
// Each call is synchronous and must only be used if the kernel can answer it in
// microseconds from memory. Calls that may wait for a disk or another machine
// are not made on the main thread: they have "async" in their name or are made
// by another process.  A call that fails throws a SystemError with the name of
// its errno. Structures are those of 64-bit Linux, constants are from
// linux/*.h.
import koffi from 'koffi';
import { constants, setPriority } from 'node:os';

// The symbols of the C library with which Node itself is linked.
const libc = koffi.load(null);

/** A failed system call, in the form of Node's own errors: `code` is "ENOENT" and so on. */
export class SystemError extends Error {
  override readonly name = 'SystemError';
  readonly code: string;
  constructor(
    readonly syscall: string,
    errno: number,
    what?: string,
  ) {
    const code = nameOfErrno(errno);
    super(`${syscall}${what === undefined ? '' : ` ${what}`}: ${wordsOfErrno(errno)}`);
    this.code = code;
  }
}

/** From the system's own list: libuv's (getSystemErrorName()) is incomplete. */
function nameOfErrno(errno: number): string {
  const names = Object.entries(constants.errno);
  return names.find(([, number]) => number === errno)?.[0] ?? `errno ${errno}`;
}

const cStrerror = libc.func('const char *strerror(int errno)');

/** strerror(3): "Connection refused". */
export function wordsOfErrno(errno: number): string {
  return cStrerror(errno) as string;
}

/** errno belongs to the calling thread, so it is read before anything else runs on it. */
function check(result: number, syscall: string, what?: string): number {
  if (result < 0) throw new SystemError(syscall, koffi.errno(), what);
  return result;
}

const O_CLOEXEC = 0o2000000;

// ------------------------------------------------------------- descriptors

const cPipe2 = libc.func('int pipe2(_Out_ int *fds, int flags)');
const cClose = libc.func('int close(int fd)');
const cDup3 = libc.func('int dup3(int from, int to, int flags)');
const cFcntl = libc.func('int fcntl(int fd, int command, int argument)');
const cIoctlInt = libc.func('int ioctl(int fd, unsigned long request, _Inout_ int *value)');

/** pipe2(2): a pipe with close-on-exec set on both ends. */
export function pipe(): { read: number; write: number } {
  const fds = [-1, -1];
  check(cPipe2(fds, O_CLOEXEC) as number, 'pipe2');
  return { read: fds[0] ?? -1, write: fds[1] ?? -1 };
}

/** close(2), for a descriptor that is not owned by an object of Node. */
export function close(fd: number): void {
  cClose(fd);
}

/** dup3(2): makes `to` a duplicate of `from`; the previous file of `to` is closed. */
export function replaceDescriptor(from: number, to: number): void {
  check(cDup3(from, to, O_CLOEXEC) as number, 'dup3');
}

/** fcntl(2), F_DUPFD_CLOEXEC: a duplicate with the lowest free number from `minimum` on. */
export function duplicateFrom(fd: number, minimum: number): number {
  return check(cFcntl(fd, 1030, minimum) as number, 'fcntl');
}

const cMemfdCreate = libc.func('int memfd_create(const char *name, unsigned int flags)');

/** memfd_create(2): a file in memory that is removed with its last descriptor. */
export function memoryFile(name: string): number {
  return check(cMemfdCreate(name, 1) as number, 'memfd_create'); // MFD_CLOEXEC
}

/**
 * The same for a program, which can be sealed. Linux before 6.3 has no MFD_EXEC, and runs every such file.
 * @throws SystemError: EACCES if vm.memfd_noexec forbids it
 */
export function programFile(name: string): number {
  const flags = 1 | 2; // MFD_CLOEXEC, MFD_ALLOW_SEALING
  const file = cMemfdCreate(name, flags | 16) as number; // MFD_EXEC
  if (file >= 0 || koffi.errno() !== constants.errno.EINVAL) return check(file, 'memfd_create');
  return check(cMemfdCreate(name, flags) as number, 'memfd_create');
}

/**
 * Seals a file in memory (fcntl(2), F_ADD_SEALS): nobody can change its content or size any more; and makes it
 * immutable (ioctl_iflags(2)): its mode, owner and attributes can only be changed with CAP_LINUX_IMMUTABLE.
 * @throws SystemError: EPERM without CAP_LINUX_IMMUTABLE, ENOTTY on a kernel without these flags in memory
 */
export function seal(file: number): void {
  check(cFcntl(file, 1033, 15) as number, 'fcntl F_ADD_SEALS'); // SEAL, SHRINK, GROW, WRITE
  check(cIoctlInt(file, 0x4008_6602, [0x10]) as number, 'ioctl FS_IOC_SETFLAGS'); // FS_IMMUTABLE_FL
}

/** The number of unread bytes in a pipe (FIONREAD of pipe(7)). */
export function bytesWaiting(fd: number): number {
  const value = [0];
  check(cIoctlInt(fd, 0x541b, value) as number, 'ioctl FIONREAD');
  return value[0] ?? 0;
}

// --------------------------------------------------------------- processes

const cSpawn = libc.func(
  'int posix_spawn(_Out_ int *pid, const char *path, void *actions, void *attributes, const char **argv, const char **envp)',
);
const cActionsInit = libc.func('int posix_spawn_file_actions_init(void *actions)');
const cActionsDestroy = libc.func('int posix_spawn_file_actions_destroy(void *actions)');
const cActionsDup2 = libc.func('int posix_spawn_file_actions_adddup2(void *actions, int from, int to)');
const cActionsOpen = libc.func(
  'int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, unsigned int mode)',
);
const cActionsChdir = libc.func('int posix_spawn_file_actions_addchdir_np(void *actions, const char *path)');
const cActionsCloseFrom = libc.func('int posix_spawn_file_actions_addclosefrom_np(void *actions, int from)');
const cAttributesInit = libc.func('int posix_spawnattr_init(void *attributes)');
const cAttributesFlags = libc.func('int posix_spawnattr_setflags(void *attributes, short flags)');
const cAttributesDefault = libc.func('int posix_spawnattr_setsigdefault(void *attributes, const void *set)');
const cAttributesMask = libc.func('int posix_spawnattr_setsigmask(void *attributes, const void *set)');
const cWaitid = libc.func('int waitid(int type, unsigned int id, void *info, int options)');
const cWaitpid = libc.func('int waitpid(int pid, int *status, int options)');
const cSyscall = libc.func('long syscall(long number, ...)');

/** Larger than the structures of any C library (glibc on x86-64: 80, 336 and 128 bytes). */
const opaqueBytes = 1024;
const spawnFlags = { SETSIGDEF: 0x04, SETSIGMASK: 0x08, SETSID: 0x80 };

/** Made once: the attributes of a program with and without a session of its own. */
const attributes = [false, true].map((session) => {
  const made = Buffer.alloc(opaqueBytes);
  const everySignal = Buffer.alloc(opaqueBytes, 0xff); // not by sigfillset(3), which omits two signals that the child would then ignore
  cAttributesInit(made);
  cAttributesDefault(made, everySignal); // Node ignores SIGPIPE, which would be inherited
  cAttributesMask(made, Buffer.alloc(opaqueBytes));
  cAttributesFlags(made, spawnFlags.SETSIGDEF | spawnFlags.SETSIGMASK | (session ? spawnFlags.SETSID : 0));
  return made;
});

export interface SpawnPlan {
  /** An absolute path; of /proc/self, in the child. */
  readonly path: string;
  readonly argv: readonly string[];
  /** "NAME=value". */
  readonly env: readonly string[];
  readonly cwd: string | undefined;
  /** Its descriptors 0, 1, 2 and so on; undefined is /dev/null. It has no others. */
  readonly descriptors: readonly (number | undefined)[];
  /** It gets a session, and so a process group, of its own. */
  readonly session: boolean;
}

/**
 * posix_spawn(3), which shares the daemon's memory with the child until its exec instead of
 * copying the page tables, so that its duration does not depend on the daemon's size. The
 * calling thread is suspended until that exec, for which the child needs a CPU; therefore a
 * thread of the pool makes the call. The caller keeps the descriptors open until then, and
 * has to wait for the child (reap).
 * @throws SystemError: ENOENT also for a missing working folder or interpreter
 */
export async function spawnProcess({
  path,
  argv,
  env,
  cwd,
  descriptors,
  session,
}: SpawnPlan): Promise<number> {
  for (const text of [path, cwd ?? '', ...argv, ...env])
    if (text.includes('\0')) throw new SystemError('posix_spawn', 22, 'with a zero byte in an argument'); // C would truncate the string there
  const actions = Buffer.alloc(opaqueBytes);
  const copies: number[] = [];
  const act = (result: unknown): void => {
    if (result !== 0) throw new SystemError('posix_spawn_file_actions', result as number);
  };
  act(cActionsInit(actions));
  try {
    descriptors.forEach((fd, target) => {
      if (fd === undefined) {
        act(cActionsOpen(actions, target, '/dev/null', 2, 0));
        return;
      }
      let from = fd;
      if (fd < descriptors.length) {
        from = duplicateFrom(fd, descriptors.length); // otherwise an earlier action may have replaced it
        copies.push(from);
      }
      act(cActionsDup2(actions, from, target));
    });
    if (cwd !== undefined) act(cActionsChdir(actions, cwd));
    act(cActionsCloseFrom(actions, descriptors.length));
    const pid = [0];
    const attribute = attributes[session ? 1 : 0];
    const error = await new Promise<number>((resolve, reject) => {
      cSpawn.async(
        ...[pid, path, actions, attribute, [...argv, null], [...env, null]],
        (failure: Error | null, result: number) => {
          if (failure) reject(failure);
          else resolve(result);
        },
      );
    });
    if (error !== 0) throw new SystemError('posix_spawn', error, path);
    return pid[0] ?? 0;
  } finally {
    for (const copy of copies) close(copy);
    cActionsDestroy(actions);
  }
}

/** How a process ended: its exit code or the number of the signal. */
export type Exit = { readonly code: number } | { readonly signal: number };

/**
 * How a child has ended (waitid(2)); undefined: still running. It stays a zombie, and its pid is not reused,
 * until reap().
 */
export function endOf(pid: number): Exit | undefined {
  const info = Buffer.alloc(128); // siginfo_t
  check(cWaitid(1, pid, info, 1 | 4 | 0x1000000) as number, 'waitid'); // P_PID; WNOHANG, WEXITED, WNOWAIT
  const [how, child, status] = [info.readInt32LE(8), info.readInt32LE(16), info.readInt32LE(24)];
  if (child === 0) return undefined;
  return how === 1 ? { code: status } : { signal: status }; // CLD_EXITED
}

/**
 * waitpid(2) for a child that has ended and is not waited for elsewhere; its pid may be reused from now on. On
 * a thread of the pool, since the kernel removes the folder of the process in /proc from its caches, which
 * takes 20 ms and more on a busy machine.
 */
export function reap(pid: number): void {
  cWaitpid.async(pid, null, 0, (failure: Error | null) => {
    if (failure) cWaitpid(pid, null, 0); // koffi has too many calls under way
  });
}

/** pidfd_open(2), Linux 5.3: a descriptor that always refers to this process, readable when it has ended. */
export function openProcess(pid: number): number {
  return check(Number(cSyscall(434, 'int', pid, 'unsigned int', 0)), 'pidfd_open');
}

/** pidfd_send_signal(2). @throws SystemError: ESRCH if it has ended */
export function signalDescriptor(pidfd: number, signal: number): void {
  check(
    Number(cSyscall(424, 'int', pidfd, 'int', signal, 'void *', null, 'unsigned int', 0)),
    'pidfd_send_signal',
  );
}

const cMallocTrim = libc.func('int malloc_trim(size_t pad)');

/** Gives the free pages of all arenas of malloc(3) back to the kernel (malloc_trim(3)). */
export function trimMalloc(): void {
  cMallocTrim(0);
}

const cSchedSetscheduler = libc.func('int sched_setscheduler(int pid, int policy, const void *parameters)');

/**
 * Raises the priority of the calling thread, but not of its children: their processes and threads
 * start at nice 0 again (SCHED_RESET_ON_FORK of sched(7)).
 * @throws without CAP_SYS_NICE
 */
export function preferThread(nice: number): void {
  const priority = Buffer.alloc(4); // struct sched_param
  check(cSchedSetscheduler(0, 0x4000_0000, priority) as number, 'sched_setscheduler'); // SCHED_OTHER | SCHED_RESET_ON_FORK
  setPriority(0, nice); // on Linux, of the calling thread
}

// ------------------------------------------------------------------- mounts

const cMount = libc.func(
  'int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)',
);
const cUmount = libc.func('int umount2(const char *target, int flags)');

/** sys/mount.h */
export const mountFlag = { ro: 1, nosuid: 2, nodev: 4, noexec: 8, bind: 4096 } as const;
/** mount(2) reads one page of options and truncates the rest; this is the size of the smallest pages. */
const mostMountData = 4095;

/** mount(2). Only for sources that cannot hang: crisp's own filesystems and the kernel's. */
export function mountFilesystem(
  source: string,
  target: string,
  type: string | null,
  flags: number,
  data: string | null = null,
): void {
  if (data !== null && Buffer.byteLength(data) > mostMountData)
    throw new SystemError('mount', 7, `${target} (its options are longer than a page)`);
  check(cMount(source, target, type, flags, data) as number, 'mount', target);
}

/**
 * umount2(2) on another thread, since it may have to write to a disk.
 * @returns whether it was unmounted; the errno of the other thread is not
 * available
 */
export function unmountAsync(target: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    cUmount.async(target, 0, (error: Error | null, result: number) => {
      if (error) reject(error);
      else resolve(result === 0);
    });
  });
}

/**
 * umount2(2) with MNT_DETACH: detached from the tree at once, and unmounted when it is not in use any more.
 */
export function unmountLazily(target: string): void {
  check(cUmount(target, 2) as number, 'umount2', target);
}

const cStatx = libc.func(
  'int statx(int folder, const char *path, int flags, unsigned int mask, void *found)',
);

/**
 * Whether a path is the root of a mount, by statx(2) with STATX_ATTR_MOUNT_ROOT (Linux 5.8), from the
 * attributes that the kernel has in memory: a server is not asked, and a link is not followed.
 * @throws SystemError
 */
export function isMountRoot(path: string): boolean {
  const found = Buffer.alloc(256); // struct statx
  check(cStatx(AT_FDCWD, path, 0x4000 | 0x100, 0, found) as number, 'statx', path); // AT_STATX_DONT_SYNC | AT_SYMLINK_NOFOLLOW
  return (found.readBigUInt64LE(8) & 0x2000n) !== 0n; // stx_attributes
}

/** open_tree(2) with OPEN_TREE_CLONE, Linux 5.2: a detached copy of the mount at an open descriptor. */
export function cloneMount(fd: number): number {
  const flags = 1 | O_CLOEXEC | AT_EMPTY_PATH;
  return check(Number(cSyscall(428, 'int', fd, 'const char *', '', 'unsigned int', flags)), 'open_tree');
}

/** mount_setattr(2) with MOUNT_ATTR_IDMAP, Linux 5.12, for a detached mount. */
export function idMapMount(mount: number, userNamespace: number): void {
  const attr = Buffer.alloc(32); // struct mount_attr: attr_set, attr_clr, propagation, userns_fd, of 64 bits each
  attr.writeBigUInt64LE(0x00100000n, 0);
  attr.writeBigUInt64LE(BigInt(userNamespace), 24);
  check(
    Number(
      cSyscall(
        442,
        'int',
        mount,
        'const char *',
        '',
        'unsigned int',
        AT_EMPTY_PATH,
        'void *',
        attr,
        'size_t',
        attr.length,
      ),
    ),
    'mount_setattr',
  );
}

/** move_mount(2), Linux 5.2: attaches a detached mount. */
export function attachMount(mount: number, target: string): void {
  check(
    Number(
      cSyscall(
        429,
        'int',
        mount,
        'const char *',
        '',
        'int',
        AT_FDCWD,
        'const char *',
        target,
        'unsigned int',
        4, // MOVE_MOUNT_F_EMPTY_PATH
      ),
    ),
    'move_mount',
    target,
  );
}
const AT_EMPTY_PATH = 0x1000;
const AT_FDCWD = -100;

// --------------------------------------------------------------- namespaces

const cUnshare = libc.func('int unshare(int flags)');
const cSetns = libc.func('int setns(int fd, int type)');
const cSethostname = libc.func('int sethostname(const void *name, size_t length)');

/** CLONE_NEW* of linux/sched.h. */
export const namespaceFlag = { network: 0x40000000, ipc: 0x08000000, uts: 0x04000000 } as const;

/** unshare(2), for the calling thread only. For host/enter.ts. */
export function unshare(flags: number): void {
  check(cUnshare(flags) as number, 'unshare');
}

/** setns(2), for the calling thread only. For host/enter.ts. */
export function setNamespace(fd: number): void {
  check(cSetns(fd, 0) as number, 'setns');
}

/** sethostname(2), in the uts namespace of the calling thread. */
export function setHostname(name: string): void {
  const bytes = Buffer.from(name);
  check(cSethostname(bytes, bytes.length) as number, 'sethostname');
}

// ------------------------------------------------------------------ sockets

const cSocket = libc.func('int socket(int family, int type, int protocol)');
const cIoctlBytes = libc.func('int ioctl(int fd, unsigned long request, void *bytes)');
const cSendto = libc.func(
  'long sendto(int fd, const void *bytes, size_t length, int flags, const void *address, unsigned int addressLength)',
);

/** The constants, like O_CLOEXEC, are those of x86 and ARM (asm-generic). */
const family = { unix: 1, inet: 2, inet6: 10 } as const;
const socketType = { stream: 1, datagram: 2 } as const;
const SOCK_NONBLOCK = 0o4000;

/** socket(2): the socket stays in the current network namespace of the thread. */
export function openSocket(of: keyof typeof family, type: keyof typeof socketType): number {
  return check(cSocket(family[of], socketType[type] | O_CLOEXEC | SOCK_NONBLOCK, 0) as number, 'socket');
}

/**
 * Sets an interface up (netdevice(7): SIOCGIFFLAGS, SIOCSIFFLAGS) in the network namespace of the calling
 * thread.
 */
export function setInterfaceUp(name: string): void {
  const fd = openSocket('inet', 'datagram');
  try {
    const request = Buffer.alloc(40); // struct ifreq: the name in 16 bytes, then the flags
    request.write(name, 0, 15);
    check(cIoctlBytes(fd, 0x8913, request) as number, 'ioctl SIOCGIFFLAGS', name);
    request.writeInt16LE(request.readInt16LE(16) | 1, 16); // IFF_UP
    check(cIoctlBytes(fd, 0x8914, request) as number, 'ioctl SIOCSIFFLAGS', name);
  } finally {
    close(fd);
  }
}

/**
 * Sends one datagram to a unix socket, "@..." for an abstract one (unix(7)); does not block on a full queue.
 */
export function sendDatagram(path: string, text: string): void {
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : path);
  const address = Buffer.concat([Buffer.from([family.unix, 0]), name]);
  const bytes = Buffer.from(text);
  const fd = openSocket('unix', 'datagram');
  try {
    check(Number(cSendto(fd, bytes, bytes.length, 0, address, address.length)), 'sendto', path);
  } finally {
    close(fd);
  }
}

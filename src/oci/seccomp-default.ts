// The seccomp profile of RuntimeDefault, in Docker's format (seccomp.ts resolves
// it for one container).  It is an allow list that depends on the capabilities of
// the container.
//
// The allowed calls, also by capability, are the same as in containerd 2.2
// (contrib/seccomp/seccomp_default.go, August 2026) and in Docker's profile. There
// are two differences:
// - A call that the profile refuses by name fails with EPERM. A call that it does
//     not name fails with ENOSYS, as on a kernel without it: a call that is newer than this list, or than libseccomp (without fchmodat2 in Debian 12),
//     has a fallback in the C libraries for ENOSYS only.
//   - Address families are compared by their lower 32 bits, which is what the
//     kernel reads: 0x1_0000_0028 is AF_VSOCK to socket(2), and greater than
//     AF_VSOCK to a filter that compares all 64.
import type { DockerProfile } from './seccomp.js';

/** errno(3) */
const EPERM = 1,
  ENOSYS = 38;
const allow = 'SCMP_ACT_ALLOW',
  refuse = 'SCMP_ACT_ERRNO';
type Rule = NonNullable<DockerProfile['syscalls']>[number];

/** Allowed for every container. Names that an architecture does not have are skipped. */
const always = words(`
  read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek
  open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 ioctl flock
  stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64
  access faccessat faccessat2 chmod fchmod fchmodat fchmodat2 umask
  chown chown32 fchown fchown32 lchown lchown32 fchownat utime utimes futimesat utimensat utimensat_time64
  truncate truncate64 ftruncate ftruncate64 fallocate fadvise64 fadvise64_64 readahead
  sync fsync fdatasync syncfs sync_file_range sendfile sendfile64 copy_file_range splice tee vmsplice
  chdir fchdir getcwd getdents getdents64 mkdir mkdirat rmdir mknod mknodat
  link linkat symlink symlinkat readlink readlinkat unlink unlinkat rename renameat renameat2
  getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
  listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
  name_to_handle_at cachestat statmount listmount
  inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark

  select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64
  epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
  eventfd eventfd2 signalfd signalfd4 pipe pipe2
  timerfd_create timerfd_settime timerfd_settime64 timerfd_gettime timerfd_gettime64
  io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64

  mmap mmap2 munmap mremap mprotect madvise mincore msync brk mseal remap_file_pages map_shadow_stack
  mlock mlock2 mlockall munlock munlockall membarrier memfd_create memfd_secret
  pkey_alloc pkey_free pkey_mprotect

  fork vfork execve execveat exit exit_group wait4 waitid waitpid
  kill tkill tgkill pause alarm nanosleep restart_syscall rseq
  pidfd_open pidfd_send_signal process_mrelease ptrace process_vm_readv process_vm_writev
  rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend
  rt_sigtimedwait rt_sigtimedwait_time64 sigaltstack sigprocmask sigreturn
  futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue get_robust_list set_robust_list
  set_tid_address get_thread_area set_thread_area
  getpid getppid gettid getpgid getpgrp setpgid getsid setsid prctl seccomp uretprobe
  landlock_create_ruleset landlock_add_rule landlock_restrict_self
  lsm_get_self_attr lsm_set_self_attr lsm_list_modules

  getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32
  getresuid getresuid32 getresgid getresgid32 getgroups getgroups32
  setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32
  setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32
  capget capset

  sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
  sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min
  sched_rr_get_interval sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set getcpu
  getrlimit ugetrlimit setrlimit prlimit64 getrusage times sysinfo uname getrandom

  time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64
  clock_nanosleep clock_nanosleep_time64 adjtimex clock_adjtime clock_adjtime64
  getitimer setitimer timer_create timer_delete timer_getoverrun
  timer_gettime timer_gettime64 timer_settime timer_settime64

  socketcall socketpair bind listen accept accept4 connect shutdown getsockname getpeername
  getsockopt setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64

  ipc shmget shmat shmdt shmctl semget semop semctl semtimedop semtimedop_time64 msgget msgsnd msgrcv msgctl
  mq_open mq_unlink mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64 mq_notify mq_getsetattr
`);

/** Docker's name of an architecture -> calls that only it has. */
const ofArchitecture: Readonly<Record<string, readonly string[]>> = {
  amd64: words('arch_prctl modify_ldt'),
  arm64: words('arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls'),
  ppc64le: words('sync_file_range2 swapcontext'),
  riscv64: words('riscv_flush_icache riscv_hwprobe'),
  s390x: words('s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr'),
};

/** The calls that a capability allows. */
const openedBy: Readonly<Record<string, readonly string[]>> = {
  CAP_SYS_ADMIN: words(`
    bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
    open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
  `),
  CAP_BPF: words('bpf'),
  CAP_DAC_READ_SEARCH: words('open_by_handle_at'),
  CAP_PERFMON: words('perf_event_open'),
  CAP_SYSLOG: words('syslog'),
  CAP_SYS_BOOT: words('reboot'),
  CAP_SYS_CHROOT: words('chroot'),
  CAP_SYS_MODULE: words('init_module finit_module delete_module'),
  CAP_SYS_NICE: words('get_mempolicy set_mempolicy set_mempolicy_home_node mbind'),
  CAP_SYS_PACCT: words('acct'),
  CAP_SYS_PTRACE: words('kcmp pidfd_getfd process_madvise'),
  CAP_SYS_RAWIO: words('iopl ioperm'),
  CAP_SYS_TIME: words('settimeofday stime clock_settime clock_settime64'),
  CAP_SYS_TTY_CONFIG: words('vhangup'),
};

/**
 * Never allowed: keyrings and userfaultfd are not namespaced, io_uring bypasses seccomp, the others concern
 * the host or are obsolete.
 */
const never = words(`
  add_key request_key keyctl userfaultfd io_uring_setup io_uring_enter io_uring_register
  kexec_load kexec_file_load pivot_root swapon swapoff nfsservctl
  migrate_pages move_pages open_tree_attr
  _sysctl sysfs ustat uselib create_module get_kernel_syms query_module vm86 vm86old
`);

/**
 * clone(2) without a flag for a namespace that needs CAP_SYS_ADMIN. CLONE_NEWTIME
 * overlaps with the exit signal, and so exists for clone3 and unshare only.
 */
const namespaceFlags = [
  0x0002_0000, // CLONE_NEWNS
  0x0200_0000, // CLONE_NEWCGROUP
  0x0400_0000, // CLONE_NEWUTS
  0x0800_0000, // CLONE_NEWIPC
  0x1000_0000, // CLONE_NEWUSER
  0x2000_0000, // CLONE_NEWPID
  0x4000_0000, // CLONE_NEWNET
];
/** On s390x the stack comes first (clone(2)). */
function cloneRules(index: 0 | 1, conditions: Pick<Rule, 'includes' | 'excludes'>): Rule[] {
  const masked = (mask: number, valueTwo: number) => [
    { index, value: mask, valueTwo, op: 'SCMP_CMP_MASKED_EQ' },
  ];
  const all = namespaceFlags.reduce((sum, flag) => sum + flag, 0);
  return [
    { names: ['clone'], action: allow, args: masked(all, 0), ...conditions },
    // One rule each: runtimes treat several conditions on one argument as alternatives.
    ...namespaceFlags.map((flag) => ({
      names: ['clone'],
      action: refuse,
      errnoRet: EPERM,
      args: masked(flag, flag),
      ...conditions,
    })),
  ];
}

/**
 * All address families (AF_MAX is 46) except AF_ALG (38) and AF_VSOCK (40), each
 * block by the bits that its numbers share. i386's socketcall(2) has its arguments
 * in memory, which a filter cannot read; 32-bit C libraries still use it.
 */
const socketRules: Rule[] = [
  ...(
    [
      [0, 32],
      [32, 4],
      [36, 2],
      [39, 1],
      [41, 1],
      [42, 2],
      [44, 2],
    ] as const
  ).map(([first, count]) => family(first, 2 ** 32 - count, { action: allow })),
  ...[38, 40].map((number) => family(number, 2 ** 32 - 1, { action: refuse, errnoRet: EPERM })),
];
function family(valueTwo: number, mask: number, verdict: Pick<Rule, 'action' | 'errnoRet'>): Rule {
  return {
    names: ['socket'],
    ...verdict,
    args: [{ index: 0, value: mask, valueTwo, op: 'SCMP_CMP_MASKED_EQ' }],
  };
}

/** PER_LINUX and PER_LINUX32, both also with UNAME26; the last one only queries (personality(2)). */
const personalities = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const gated = [...new Set(Object.values(openedBy).flat())].filter(
  (name) => name !== 'clone' && name !== 'clone3',
);
const privilegedCapability = ['CAP_SYS_ADMIN'];

/**
 * The profile, before it is resolved for the capabilities, the kernel and the architecture of a container.
 */
export const defaultProfile: DockerProfile = {
  defaultAction: refuse,
  defaultErrnoRet: ENOSYS,
  archMap: [
    { architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'] },
    { architecture: 'SCMP_ARCH_AARCH64', subArchitectures: ['SCMP_ARCH_ARM'] },
    { architecture: 'SCMP_ARCH_S390X', subArchitectures: ['SCMP_ARCH_S390'] },
  ],
  syscalls: [
    { names: always, action: allow },
    ...Object.entries(ofArchitecture).map(([architecture, names]) => ({
      names: [...names],
      action: allow,
      includes: { arches: [architecture] },
    })),
    ...socketRules,
    ...personalities.map((value) => ({
      names: ['personality'],
      action: allow,
      args: [{ index: 0, value, op: 'SCMP_CMP_EQ' }],
    })),
    ...cloneRules(0, { excludes: { caps: privilegedCapability, arches: ['s390x'] } }),
    ...cloneRules(1, { includes: { arches: ['s390x'] }, excludes: { caps: privilegedCapability } }),
    // Its flags are in memory. With ENOSYS the C libraries use clone(2) instead.
    { names: ['clone3'], action: refuse, errnoRet: ENOSYS, excludes: { caps: privilegedCapability } },
    ...Object.entries(openedBy).map(([capability, names]) => ({
      names: [...names],
      action: allow,
      includes: { caps: [capability] },
    })),
    ...gated.map((name) => ({
      names: [name],
      action: refuse,
      errnoRet: EPERM,
      excludes: {
        caps: Object.entries(openedBy).flatMap(([capability, names]) =>
          names.includes(name) ? [capability] : [],
        ),
      },
    })),
    { names: never, action: refuse, errnoRet: EPERM },
  ],
};

function words(text: string): string[] {
  return text.split(/\s+/).filter(Boolean);
}

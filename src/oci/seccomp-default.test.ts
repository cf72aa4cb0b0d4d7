// The verdicts of the profile, by the rules of libseccomp: a call has the action of the rule whose
// conditions on its arguments are met, and the default action without one.
import { describe, expect, test } from '@jest/globals';
import { defaultProfile } from './seccomp-default.js';
import { parseProfile, resolveProfile } from './seccomp.js';

const allowed = 'allowed';
const EPERM = 1;
const ENOSYS = 38;

interface On {
  readonly args?: readonly bigint[];
  readonly capabilities?: readonly string[];
  readonly machine?: NodeJS.Architecture;
}
/** "allowed", or the error number. @throws if rules contradict each other */
function verdict(call: string, { args = [], capabilities = [], machine = 'x64' }: On = {}): string | number {
  const { syscalls = [], defaultErrnoRet } = resolveProfile(defaultProfile, capabilities, machine);
  const met = syscalls.filter(
    (rule) =>
      rule.names.includes(call) &&
      (rule.args ?? []).every(({ index, value, valueTwo = 0, op }) => {
        const given = args[index] ?? 0n;
        if (op === 'SCMP_CMP_EQ') return given === BigInt(value);
        if (op === 'SCMP_CMP_MASKED_EQ') return (given & BigInt(value)) === BigInt(valueTwo);
        throw new Error(`unknown comparison ${op}`);
      }),
  );
  const verdicts = new Set(
    met.map(({ action, errnoRet }) => (action === 'SCMP_ACT_ALLOW' ? allowed : (errnoRet ?? -1))),
  );
  if (verdicts.size > 1) throw new Error(`contradicting rules for ${call}`);
  return [...verdicts][0] ?? defaultErrnoRet ?? -1;
}

test('the profile is a valid file of its format', () => {
  expect(parseProfile(JSON.stringify(defaultProfile))).toEqual(defaultProfile);
});

test('everyday calls are allowed on every architecture', () => {
  for (const machine of ['x64', 'arm64', 'riscv64', 's390x', 'ppc64'] as const)
    for (const call of [
      'read',
      'openat',
      'execve',
      'futex',
      'mmap',
      'clock_gettime',
      'recvmmsg',
      'mq_getsetattr',
    ])
      expect([call, machine, verdict(call, { machine })]).toEqual([call, machine, allowed]);
});

test('a call that the profile does not know does not exist: C libraries then use an older one', () => {
  expect(verdict('call_of_the_future')).toBe(ENOSYS);
  expect(verdict('clone3')).toBe(ENOSYS); // its flags are in memory, where no filter reads them
  expect(verdict('clone3', { capabilities: ['CAP_SYS_ADMIN'] })).toBe(allowed);
});

test.each([
  ...['add_key', 'keyctl', 'request_key', 'userfaultfd', 'io_uring_setup', 'io_uring_enter'],
  ...['io_uring_register', 'kexec_load', 'kexec_file_load', 'pivot_root', 'swapon', 'move_pages', 'vm86'],
])('%s is never allowed', (call) => {
  const capabilities = ['CAP_SYS_ADMIN', 'CAP_SYS_BOOT', 'CAP_SYS_PTRACE', 'CAP_SYS_NICE', 'CAP_SYS_MODULE'];
  expect([verdict(call), verdict(call, { capabilities })]).toEqual([EPERM, EPERM]);
});

// By capabilities(7).
const opens: Readonly<Record<string, readonly string[]>> = {
  CAP_SYS_ADMIN: ['mount', 'umount2', 'setns', 'unshare', 'sethostname', 'bpf', 'perf_event_open', 'syslog'],
  CAP_BPF: ['bpf'],
  CAP_PERFMON: ['perf_event_open'],
  CAP_SYSLOG: ['syslog'],
  CAP_DAC_READ_SEARCH: ['open_by_handle_at'],
  CAP_SYS_BOOT: ['reboot'],
  CAP_SYS_CHROOT: ['chroot'],
  CAP_SYS_MODULE: ['init_module', 'finit_module', 'delete_module'],
  CAP_SYS_NICE: ['mbind', 'set_mempolicy', 'get_mempolicy'],
  CAP_SYS_PACCT: ['acct'],
  CAP_SYS_PTRACE: ['kcmp', 'pidfd_getfd', 'process_madvise'],
  CAP_SYS_RAWIO: ['iopl', 'ioperm'],
  CAP_SYS_TIME: ['settimeofday', 'clock_settime'],
  CAP_SYS_TTY_CONFIG: ['vhangup'],
};
test.each(Object.keys(opens))('%s opens its calls and no others', (capability) => {
  for (const call of new Set(Object.values(opens).flat()))
    expect([call, verdict(call, { capabilities: [capability] })]).toEqual([
      call,
      opens[capability]?.includes(call) ? allowed : EPERM,
    ]);
});

test.each([
  ['arch_prctl', 'x64'],
  ['modify_ldt', 'x64'],
  ['breakpoint', 'arm64'],
  ['set_tls', 'arm64'],
  ['swapcontext', 'ppc64'],
  ['riscv_flush_icache', 'riscv64'],
  ['s390_runtime_instr', 's390x'],
] as const)('%s is a call of %s alone', (call, of) => {
  for (const machine of ['x64', 'arm64', 'riscv64', 's390x', 'ppc64'] as const)
    expect(verdict(call, { machine })).toBe(machine === of ? allowed : ENOSYS);
});

test('a 64-bit machine runs its 32-bit programs under the same rules', () => {
  const of = (machine: NodeJS.Architecture): unknown =>
    resolveProfile(defaultProfile, [], machine).architectures;
  expect(of('x64')).toEqual(['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32']);
  expect(of('arm64')).toEqual(['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM']);
  expect(of('s390x')).toEqual(['SCMP_ARCH_S390X', 'SCMP_ARCH_S390']);
});

describe('socket', () => {
  const [afAlg, afVsock, afMax] = [38, 40, 46];
  test('has every address family but two, in its lower 32 bits, which are all that the kernel reads', () => {
    for (const high of [0n, 1n << 32n, 0xffff_ffffn << 32n])
      for (let family = 0; family < afMax; family++)
        expect([family, verdict('socket', { args: [high | BigInt(family)] })]).toEqual([
          family,
          family === afAlg || family === afVsock ? EPERM : allowed,
        ]);
  });
  test.each([afMax, 47, 64, 128, 0x8000_0000])('has no family %i', (family) => {
    expect(verdict('socket', { args: [BigInt(family)] })).toBe(ENOSYS);
  });
});

describe('clone', () => {
  // sched.h
  const namespaces = {
    ...{ CLONE_NEWNS: 0x20000n, CLONE_NEWCGROUP: 0x2000000n, CLONE_NEWUTS: 0x4000000n },
    ...{ CLONE_NEWIPC: 0x8000000n, CLONE_NEWUSER: 0x10000000n, CLONE_NEWPID: 0x20000000n },
    CLONE_NEWNET: 0x40000000n,
  };
  /** CLONE_VM to CLONE_SETTLS and more, with SIGCHLD: a thread, and what fork(3) asks for. */
  const [thread, fork] = [0x3d0f00n, 0x1200011n];
  const call = (flags: bigint, machine: NodeJS.Architecture = 'x64', capabilities: string[] = []): unknown =>
    verdict('clone', {
      args: machine === 's390x' ? [0x7fffn << 32n, flags] : [flags, 0x7e000000n],
      machine,
      capabilities,
    });

  test.each(['x64', 'arm64', 's390x'] as const)(
    'makes threads and processes on %s, and no namespaces',
    (machine) => {
      expect([call(thread, machine), call(fork, machine)]).toEqual([allowed, allowed]);
      for (const [name, flag] of Object.entries(namespaces)) {
        expect([name, call(flag | fork, machine)]).toEqual([name, EPERM]);
        expect(call(flag, machine, ['CAP_SYS_ADMIN'])).toBe(allowed);
      }
      expect(call(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNET, machine)).toBe(EPERM);
    },
  );
});

test('personality changes nothing but the reported kernel and the word size', () => {
  const linux32 = 0x8n;
  const uname26 = 0x20000n;
  const ask = 0xffffffffn;
  for (const value of [0n, linux32, uname26, uname26 | linux32, ask])
    expect(verdict('personality', { args: [value] })).toBe(allowed);
  const noRandomization = 0x40000n;
  for (const value of [noRandomization, 1n, 0xfffffffen])
    expect(verdict('personality', { args: [value] })).toBe(ENOSYS);
});

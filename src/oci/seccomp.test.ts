import { describe, expect, test } from '@jest/globals';
import { defaultProfile } from './seccomp-default.js';
import { parseProfile, resolveProfile, type DockerProfile } from './seccomp.js';

const allow = 'SCMP_ACT_ALLOW';
const profile = (syscalls: DockerProfile['syscalls'], more: Partial<DockerProfile> = {}): DockerProfile => ({
  defaultAction: 'SCMP_ACT_ERRNO',
  ...more,
  syscalls,
});
const names = (
  from: DockerProfile,
  capabilities: string[] = [],
  machine: NodeJS.Architecture = 'x64',
  kernel = '6.1.0-13-amd64',
): string[] =>
  (resolveProfile(from, capabilities, machine, kernel).syscalls ?? []).flatMap((rule) => rule.names);

test('a rule applies if all its capabilities are present and none of the excluded ones', () => {
  const rules = profile([
    { names: ['always'], action: allow },
    { names: ['both'], action: allow, includes: { caps: ['CAP_A', 'CAP_B'] } },
    { names: ['unless'], action: allow, excludes: { caps: ['CAP_A', 'CAP_C'] } },
    { names: [], action: allow },
  ]);
  expect(names(rules)).toEqual(['always', 'unless']);
  expect(names(rules, ['CAP_A'])).toEqual(['always']);
  expect(names(rules, ['CAP_A', 'CAP_B'])).toEqual(['always', 'both']);
});

test('architectures and kernels', () => {
  const rules = profile([
    { name: 'old-style', action: allow, includes: { arches: ['amd64', 'x32'] } },
    { names: ['not-arm'], action: allow, excludes: { arches: ['arm64'] } },
    { names: ['new'], action: allow, includes: { minKernel: '4.8' } },
    { names: ['gone'], action: allow, excludes: { minKernel: '6.0' } },
  ]);
  expect(names(rules)).toEqual(['old-style', 'not-arm', 'new']);
  expect(names(rules, [], 'arm64', '4.10.1')).toEqual(['new', 'gone']);
  expect(names(rules, [], 'arm64', '4.4')).toEqual(['gone']);
});

test('the map has this machine and the architectures that it can run', () => {
  const archMap = [
    { architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86'] },
    { architecture: 'SCMP_ARCH_AARCH64', subArchitectures: null },
  ];
  expect(resolveProfile(profile([], { archMap }), [], 'x64').architectures).toEqual([
    'SCMP_ARCH_X86_64',
    'SCMP_ARCH_X86',
  ]);
  expect(resolveProfile(profile([], { archMap }), [], 'arm64').architectures).toEqual(['SCMP_ARCH_AARCH64']);
  expect(resolveProfile(profile([], { archMap }), [], 'riscv64').architectures).toEqual([]);
  expect(resolveProfile(profile([], { architectures: ['SCMP_ARCH_ARM'] }), []).architectures).toEqual([
    'SCMP_ARCH_ARM',
  ]);
});

test('arguments, error numbers and flags are kept', () => {
  const resolved = resolveProfile(
    profile(
      [
        {
          names: ['x'],
          action: 'SCMP_ACT_ERRNO',
          errnoRet: 1,
          args: [
            { index: 0, value: 8, valueTwo: 0, op: 'SCMP_CMP_EQ' },
            { index: 1, value: 7, valueTwo: 7, op: 'SCMP_CMP_MASKED_EQ' },
          ],
        },
      ],
      { defaultErrnoRet: 38, flags: ['SECCOMP_FILTER_FLAG_LOG'] },
    ),
    [],
  );
  expect(resolved).toEqual({
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: 38,
    flags: ['SECCOMP_FILTER_FLAG_LOG'],
    architectures: [],
    syscalls: [
      {
        names: ['x'],
        action: 'SCMP_ACT_ERRNO',
        errnoRet: 1,
        args: [
          { index: 0, value: 8, op: 'SCMP_CMP_EQ' },
          { index: 1, value: 7, valueTwo: 7, op: 'SCMP_CMP_MASKED_EQ' },
        ],
      },
    ],
  });
});

describe('the default profile', () => {
  type Verdict = { action: string; errno?: number | undefined };
  /** The result of a filter with these rules, as in libseccomp: rules on arguments are alternatives. */
  function verdict(
    name: string,
    {
      caps = [],
      machine = 'x64',
      args = [],
    }: {
      caps?: string[];
      machine?: NodeJS.Architecture;
      args?: number[];
    } = {},
  ): Verdict {
    const resolved = resolveProfile(defaultProfile, caps, machine, '6.1.0');
    const holds = ({
      index,
      value,
      valueTwo,
      op,
    }: {
      index: number;
      value: number;
      valueTwo?: number;
      op: string;
    }) => {
      const given = BigInt(args[index] ?? 0);
      return op === 'SCMP_CMP_EQ'
        ? given === BigInt(value)
        : (given & BigInt(value)) === BigInt(valueTwo ?? 0);
    };
    const found = (resolved.syscalls ?? [])
      .filter((rule) => rule.names.includes(name) && (rule.args ?? []).every(holds))
      .map(({ action, errnoRet }): Verdict => ({ action, errno: errnoRet }));
    const [first = { action: resolved.defaultAction, errno: resolved.defaultErrnoRet }] = found;
    for (const other of found) expect([name, other]).toEqual([name, first]); // rules never contradict each other
    return first;
  }
  const refused = { action: 'SCMP_ACT_ERRNO', errno: 1 };
  const unknown = { action: 'SCMP_ACT_ERRNO', errno: 38 };
  const allowed = { action: allow };

  test.each([
    [
      'CAP_SYS_ADMIN',
      [
        'mount',
        'umount2',
        'unshare',
        'setns',
        'bpf',
        'perf_event_open',
        'sethostname',
        'syslog',
        'move_mount',
        'fsopen',
        'quotactl',
      ],
    ],
    ['CAP_BPF', ['bpf']],
    ['CAP_DAC_READ_SEARCH', ['open_by_handle_at']],
    ['CAP_PERFMON', ['perf_event_open']],
    ['CAP_SYSLOG', ['syslog']],
    ['CAP_SYS_BOOT', ['reboot']],
    ['CAP_SYS_CHROOT', ['chroot']],
    ['CAP_SYS_MODULE', ['init_module', 'finit_module', 'delete_module']],
    ['CAP_SYS_NICE', ['mbind', 'set_mempolicy']],
    ['CAP_SYS_PACCT', ['acct']],
    ['CAP_SYS_PTRACE', ['kcmp', 'pidfd_getfd', 'process_madvise']],
    ['CAP_SYS_RAWIO', ['iopl', 'ioperm']],
    ['CAP_SYS_TIME', ['clock_settime', 'settimeofday', 'stime']],
    ['CAP_SYS_TTY_CONFIG', ['vhangup']],
  ])('%s allows %j', (capability, calls) => {
    for (const name of calls) {
      expect([name, verdict(name)]).toEqual([name, refused]);
      expect([name, verdict(name, { caps: ['CAP_CHOWN'] })]).toEqual([name, refused]);
      expect([name, verdict(name, { caps: [capability] })]).toEqual([name, allowed]);
    }
  });

  test.each([
    'io_uring_setup',
    'userfaultfd',
    'keyctl',
    'add_key',
    'request_key',
    'kexec_load',
    'swapon',
    'pivot_root',
  ])('no capability allows %s', (name) => {
    for (const caps of [[], ['CAP_SYS_ADMIN', 'CAP_SYS_PTRACE', 'CAP_SYS_BOOT']])
      expect(verdict(name, { caps })).toEqual(refused);
  });

  test.each(['x64', 'arm64', 's390x'] as const)(
    'clone creates processes and threads, and no namespaces, on %s',
    (machine) => {
      const clone = (flags: number, caps: string[] = []): Verdict =>
        verdict('clone', { caps, machine, args: machine === 's390x' ? [0, flags] : [flags] });
      expect(clone(17)).toEqual(allowed); // fork: SIGCHLD
      expect(clone(0x3d0f00)).toEqual(allowed); // a thread of glibc
      for (const flag of [
        0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
      ]) {
        expect([flag, clone(flag + 17)]).toEqual([flag, refused]);
        expect([flag, clone(flag + 17, ['CAP_SYS_ADMIN'])]).toEqual([flag, allowed]);
      }
      expect(verdict('clone3', { machine })).toEqual(unknown);
      expect(verdict('clone3', { machine, caps: ['CAP_SYS_ADMIN'] })).toEqual(allowed);
    },
  );

  test('sockets of all families but AF_ALG and AF_VSOCK are allowed, whatever the bits that the kernel ignores', () => {
    for (const high of [0, 2 ** 32, 2 ** 40])
      for (let family = 0; family < 46; family++)
        expect([family, verdict('socket', { args: [high + family] })]).toEqual([
          family,
          [38, 40].includes(family) ? refused : allowed,
        ]);
    expect(verdict('socket', { args: [48] })).toEqual(unknown);
  });

  test('an unknown call returns ENOSYS, and few personalities are allowed', () => {
    expect(verdict('newer_than_this_list')).toEqual(unknown);
    expect(verdict('personality', { args: [8] })).toEqual(allowed);
    expect(verdict('personality', { args: [0x0040000] })).toEqual(unknown);
  });

  test('the 32-bit architectures of a machine are covered as well', () => {
    expect(resolveProfile(defaultProfile, [], 'x64').architectures).toEqual([
      'SCMP_ARCH_X86_64',
      'SCMP_ARCH_X86',
      'SCMP_ARCH_X32',
    ]);
    expect(resolveProfile(defaultProfile, [], 'arm64').architectures).toEqual([
      'SCMP_ARCH_AARCH64',
      'SCMP_ARCH_ARM',
    ]);
    expect(names(defaultProfile, [], 'arm64')).toContain('set_tls');
    expect(names(defaultProfile, [], 'arm64')).not.toContain('modify_ldt');
  });

  test('is a valid profile file', () => {
    expect(parseProfile(JSON.stringify(defaultProfile))).toEqual(defaultProfile);
  });
});

test.each([
  ['{', /JSON/],
  ['{}', /defaultAction/],
  ['{"defaultAction":"allow"}', /defaultAction/],
  [
    '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":"x","action":"SCMP_ACT_ALLOW"}]}',
    /syscalls\.0\.names/,
  ],
  [
    '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":18446744073709551615,"op":"SCMP_CMP_EQ"}]}]}',
    /syscalls\.0\.args\.0\.value/,
  ],
])('%s is not a valid profile', (text, expected) => {
  expect(() => parseProfile(text)).toThrow(expected);
});

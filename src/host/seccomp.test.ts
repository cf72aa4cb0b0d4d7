// The compiled filters, run by an interpreter of classic BPF: what a profile says is what the filter answers.
import { expect, test } from '@jest/globals';
import type { Seccomp } from '../shapes/spec.js';
import { compileSeccomp } from './seccomp.js';

const isArm = process.arch === 'arm64';
const native = isArm ? 0xc000_00b7 : 0xc000_003e; // AUDIT_ARCH_AARCH64, AUDIT_ARCH_X86_64
const foreign = isArm ? 0x4000_0028 : 0x4000_0003; // AUDIT_ARCH_ARM, AUDIT_ARCH_I386
const calls = isArm
  ? { read: 63, write: 64, kill: 129, personality: 92, getpid: 172 }
  : { read: 0, write: 1, kill: 62, personality: 135, getpid: 39 };

/** SECCOMP_RET_* of linux/seccomp.h. */
const ret = {
  kill: 0,
  killProcess: 0x8000_0000,
  trap: 0x3_0000,
  errno: 0x5_0000,
  trace: 0x7ff0_0000,
  log: 0x7ffc_0000,
  allow: 0x7fff_0000,
};

/** The answer of a filter (struct sock_filter: u16 code, u8 jt, u8 jf, u32 k) to a call (struct seccomp_data). */
function answerOf(program: Buffer, call: number, args: readonly bigint[] = [], arch = native): number {
  const data = Buffer.alloc(64);
  data.writeUInt32LE(call, 0);
  data.writeUInt32LE(arch, 4);
  for (const [index, value] of args.entries()) data.writeBigUInt64LE(value, 16 + 8 * index);
  let accumulator = 0;
  for (let at = 0; ; at++) {
    const code = program.readUInt16LE(8 * at);
    const [yes, no, k] = [
      program[8 * at + 2] ?? 0,
      program[8 * at + 3] ?? 0,
      program.readUInt32LE(8 * at + 4),
    ];
    const jump = (taken: boolean): void => {
      at += taken ? yes : no;
    };
    if (code === 0x20) accumulator = data.readUInt32LE(k);
    else if (code === 0x54) accumulator = (accumulator & k) >>> 0;
    else if (code === 0x05) at += k;
    else if (code === 0x15) jump(accumulator === k);
    else if (code === 0x25) jump(accumulator > k);
    else if (code === 0x35) jump(accumulator >= k);
    else if (code === 0x45) jump((accumulator & k) !== 0);
    else if (code === 0x06) return k;
    else throw new Error(`no such instruction: ${code}`);
  }
}

type Rule = NonNullable<Seccomp['syscalls']>[number];
async function compiled(profile: object): Promise<Buffer> {
  const program = await compileSeccomp(profile as Seccomp);
  if (!program) throw new Error('not compiled: is libseccomp installed?');
  return program;
}
const rule = (names: string[], action: string, more: Partial<Rule> = {}): Rule => ({
  names,
  action,
  ...more,
});

test.each([
  ['SCMP_ACT_KILL', undefined, ret.kill],
  ['SCMP_ACT_KILL_THREAD', undefined, ret.kill],
  ['SCMP_ACT_KILL_PROCESS', undefined, ret.killProcess],
  ['SCMP_ACT_TRAP', undefined, ret.trap],
  ['SCMP_ACT_ERRNO', undefined, ret.errno + 1],
  ['SCMP_ACT_ERRNO', 38, ret.errno + 38],
  ['SCMP_ACT_ERRNO', 65_536 + 13, ret.errno + 13],
  ['SCMP_ACT_TRACE', undefined, ret.trace + 1],
  ['SCMP_ACT_TRACE', 77, ret.trace + 77],
  ['SCMP_ACT_LOG', undefined, ret.log],
])('%s with errno %p is the answer of its calls, and of a default', async (action, errnoRet, answer) => {
  const program = await compiled({
    defaultAction: 'SCMP_ACT_ALLOW',
    syscalls: [rule(['read', 'kill'], action, { errnoRet })],
  });
  expect(answerOf(program, calls.read)).toBe(answer);
  expect(answerOf(program, calls.kill)).toBe(answer);
  expect(answerOf(program, calls.write)).toBe(ret.allow);
  const byDefault = await compiled({
    defaultAction: action,
    defaultErrnoRet: errnoRet,
    syscalls: [rule(['read'], 'SCMP_ACT_ALLOW')],
  });
  expect(answerOf(byDefault, calls.read)).toBe(ret.allow);
  expect(answerOf(byDefault, calls.write)).toBe(answer);
});

test.each([
  ['SCMP_CMP_NE', [4n, 6n]],
  ['SCMP_CMP_LT', [4n]],
  ['SCMP_CMP_LE', [4n, 5n]],
  ['SCMP_CMP_EQ', [5n]],
  ['SCMP_CMP_GE', [5n, 6n]],
  ['SCMP_CMP_GT', [6n]],
])('%s compares an argument with its value', async (op, matching) => {
  const program = await compiled({
    defaultAction: 'SCMP_ACT_ERRNO',
    syscalls: [rule(['personality'], 'SCMP_ACT_ALLOW', { args: [{ index: 2, value: 5, op }] })],
  });
  const allowed = [4n, 5n, 6n].filter(
    (value) => answerOf(program, calls.personality, [5n, 0n, value]) === ret.allow,
  );
  expect(allowed).toEqual(matching);
});

test('SCMP_CMP_MASKED_EQ compares the bits of its mask', async () => {
  const args = [{ index: 0, value: 0xf0, valueTwo: 0x50, op: 'SCMP_CMP_MASKED_EQ' }];
  const program = await compiled({
    defaultAction: 'SCMP_ACT_ERRNO',
    syscalls: [rule(['personality'], 'SCMP_ACT_ALLOW', { args })],
  });
  const answers = [0x50n, 0x5an, 0x65n, 0x150n].map((value) => answerOf(program, calls.personality, [value]));
  expect(answers).toEqual([ret.allow, ret.allow, ret.errno + 1, ret.allow]);
});

test('a mask without a second value has no bit of it set', async () => {
  const args = [{ index: 0, value: 0x3, op: 'SCMP_CMP_MASKED_EQ' }];
  const program = await compiled({
    defaultAction: 'SCMP_ACT_ERRNO',
    syscalls: [rule(['personality'], 'SCMP_ACT_ALLOW', { args })],
  });
  expect([4n, 1n].map((value) => answerOf(program, calls.personality, [value]))).toEqual([
    ret.allow,
    ret.errno + 1,
  ]);
});

test('conditions on several arguments must all hold, with all 64 bits of each', async () => {
  const args = [
    { index: 1, value: 2 ** 33 + 7, op: 'SCMP_CMP_EQ' },
    { index: 3, value: 9, op: 'SCMP_CMP_GE' },
    { index: 0, value: 1, op: 'SCMP_CMP_NE' },
  ];
  const program = await compiled({
    defaultAction: 'SCMP_ACT_ERRNO',
    syscalls: [rule(['personality'], 'SCMP_ACT_ALLOW', { args })],
  });
  const high = 2n ** 33n + 7n;
  const allowed = (...values: bigint[]): boolean =>
    answerOf(program, calls.personality, values) === ret.allow;
  expect(allowed(0n, high, 0n, 9n)).toBe(true);
  expect(allowed(0n, high, 0n, 8n)).toBe(false);
  expect(allowed(0n, 7n, 0n, 9n)).toBe(false);
  expect(allowed(1n, high, 0n, 9n)).toBe(false);
});

test('another architecture of the processor is killed unless the profile names it', async () => {
  const profile = { defaultAction: 'SCMP_ACT_ALLOW', syscalls: [rule(['kill'], 'SCMP_ACT_ERRNO')] };
  const own = isArm ? 'SCMP_ARCH_AARCH64' : 'SCMP_ARCH_X86_64';
  const other = isArm ? 'SCMP_ARCH_ARM' : 'SCMP_ARCH_X86';
  const [alone, both] = [
    await compiled({ ...profile, architectures: [own] }),
    await compiled({ ...profile, architectures: [own, other] }),
  ];
  const killOf32Bits = 37; // of ARM and of x86
  expect(answerOf(alone, killOf32Bits, [], foreign)).toBe(ret.kill);
  expect(answerOf(both, killOf32Bits, [], foreign)).toBe(ret.errno + 1);
  expect(answerOf(both, 1, [], foreign)).toBe(ret.allow);
  for (const program of [alone, both, await compiled(profile)])
    expect(answerOf(program, calls.kill)).toBe(ret.errno + 1);
});

test('a call that is newer than the library has the default, and the rest of its rule holds', async () => {
  const program = await compiled({
    defaultAction: 'SCMP_ACT_ERRNO',
    syscalls: [rule(['call_of_the_future', 'read'], 'SCMP_ACT_ALLOW')],
  });
  expect([answerOf(program, calls.read), answerOf(program, calls.write)]).toEqual([ret.allow, ret.errno + 1]);
});

test('a rule with the default action changes nothing, and those after it hold', async () => {
  const program = await compiled({
    defaultAction: 'SCMP_ACT_ALLOW',
    syscalls: [rule(['read'], 'SCMP_ACT_ALLOW'), rule(['write'], 'SCMP_ACT_ERRNO')],
  });
  expect([answerOf(program, calls.read), answerOf(program, calls.write)]).toEqual([ret.allow, ret.errno + 1]);
});

test('a profile without rules is its default', async () => {
  expect(answerOf(await compiled({ defaultAction: 'SCMP_ACT_LOG' }), calls.getpid)).toBe(ret.log);
});

const condition = { index: 0, value: 1, op: 'SCMP_CMP_EQ' };
test.each<[string, object]>([
  ['a listener', { listenerPath: '/run/x' }],
  ['an unknown default', { defaultAction: 'SCMP_ACT_NOTIFY' }],
  ['an unknown action', { syscalls: [rule(['read'], 'SCMP_ACT_NOTIFY')] }],
  ['an unknown architecture', { architectures: ['SCMP_ARCH_NONE'] }],
  [
    'an unknown comparison',
    {
      syscalls: [rule(['read'], 'SCMP_ACT_ERRNO', { args: [{ ...condition, op: 'X' }] })],
    },
  ],
  [
    'two conditions on one argument, of which runtimes make two rules',
    {
      syscalls: [rule(['read'], 'SCMP_ACT_ERRNO', { args: [condition, { ...condition, value: 2 }] })],
    },
  ],
  [
    'a condition on an argument that no call has',
    { syscalls: [rule(['read'], 'SCMP_ACT_ERRNO', { args: [{ ...condition, index: 9 }] })] },
  ],
  ['more than 1024 names', { syscalls: [rule(namesOf(1025), 'SCMP_ACT_ERRNO')] }],
])('a profile with %s is left to the runtime', async (_, change) => {
  expect(await compileSeccomp({ defaultAction: 'SCMP_ACT_ALLOW', ...change })).toBeUndefined();
});

test('1024 names, over several rules, are compiled here', async () => {
  const program = await compiled({
    defaultAction: 'SCMP_ACT_ALLOW',
    syscalls: [rule(namesOf(1000), 'SCMP_ACT_ERRNO'), rule([...namesOf(23), 'read'], 'SCMP_ACT_ERRNO')],
  });
  expect(answerOf(program, calls.read)).toBe(ret.errno + 1);
});

/** Calls that no library knows: they cost no time. */
function namesOf(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `call_${index}`);
}

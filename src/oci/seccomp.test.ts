import { expect, test } from '@jest/globals';
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

test('each machine has its own name in a map, and a listener belongs to the profile', () => {
  const names = {
    ...{ x64: 'X86_64', arm64: 'AARCH64', arm: 'ARM', riscv64: 'RISCV64', s390x: 'S390X' },
    ...{ ppc64: 'PPC64LE', loong64: 'LOONGARCH64' },
  };
  const archMap = Object.values(names).map((name) => ({ architecture: `SCMP_ARCH_${name}` }));
  for (const [machine, name] of Object.entries(names))
    expect(
      resolveProfile(profile([], { archMap }), [], machine as NodeJS.Architecture).architectures,
    ).toEqual([`SCMP_ARCH_${name}`]);
  expect(resolveProfile(profile([{ names: [], action: allow }]), []).syscalls).toEqual([]);
  const listener = { listenerPath: '/run/agent', listenerMetadata: 'x' };
  expect(resolveProfile(profile([], listener), [])).toMatchObject(listener);
  expect(Object.keys(resolveProfile(profile([]), [])).sort()).toEqual([
    'architectures',
    'defaultAction',
    'syscalls',
  ]);
});

test.each([
  ['6.1', '5.19.0', false],
  ['6.1', '6.0.99', false],
  ['6.1', '6.1.0-13-amd64', true],
  ['6.1', '6.10.2', true],
  ['6.1', '7.0', true],
  ['6', '6.0.1', true],
  ['6.11', '6.10.9', false],
])('a rule from kernel %s on applies to %s: %p', (minKernel, kernel, applies) => {
  const rules = profile([{ names: ['x'], action: allow, includes: { minKernel } }]);
  expect(names(rules, [], 'x64', kernel)).toEqual(applies ? ['x'] : []);
});

test.each([
  [{ index: 0, value: 0 }, true],
  [{ index: 5, value: 7, valueTwo: 0 }, true],
  [{ index: 6, value: 0 }, false],
  [{ index: -1, value: 0 }, false],
  [{ index: 0, value: -1 }, false],
])('a condition on the argument %j is valid: %p', (argument, valid) => {
  const rule = { names: ['x'], action: allow, errnoRet: 0, args: [{ ...argument, op: 'SCMP_CMP_EQ' }] };
  const parse = (): unknown => parseProfile(JSON.stringify(profile([rule], { defaultErrnoRet: 0 })));
  if (valid) parse();
  else expect(parse).toThrow(/args\.0\./);
});

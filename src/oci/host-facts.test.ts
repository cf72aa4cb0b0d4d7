// The facts of this host, compared with what other programs and files say of it.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkConfig } from '../config/config.js';
import { flagSource } from '../config/source.js';
import { log } from '../log.js';
import { parseNumberList, readHostFacts, type HostFacts } from './host-facts.js';
import { defaultProfile } from './seccomp-default.js';

const facts = (runtime: object = {}): HostFacts => readHostFacts(checkConfig([flagSource({ runtime })]));

test('the capabilities are those of the kernel, and of them those that crisp has itself', () => {
  const { capabilities, kernelCapabilities, lowestOomScoreAdj } = facts();
  const [, bounding = '0'] = /^CapBnd:\s*(\w+)$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  const bits = [...BigInt(`0x${bounding}`).toString(2)].filter((bit) => bit === '1').length;
  expect(capabilities).toHaveLength(bits);
  const last = Number(readFileSync('/proc/sys/kernel/cap_last_cap', 'utf8'));
  expect(kernelCapabilities).toHaveLength(last + 1);
  expect(kernelCapabilities.slice(0, 2)).toEqual(['CAP_CHOWN', 'CAP_DAC_OVERRIDE']);
  expect(kernelCapabilities).toEqual(expect.arrayContaining([...capabilities]));
  if (capabilities.includes('CAP_SYS_RESOURCE')) expect(lowestOomScoreAdj).toBe(-1000);
});

test('the processors and memory nodes are those that the kernel lists', () => {
  const { cpus, memoryNodes } = facts();
  expect(cpus).toHaveLength(Number(execFileSync('nproc', ['--all'])));
  expect(cpus[0]).toBe(0);
  const nodes = existsSync('/sys/devices/system/node')
    ? readdirSync('/sys/devices/system/node').filter((name) => /^node\d+$/.test(name))
    : ['node0'];
  expect(memoryNodes.map((node) => `node${node}`).sort()).toEqual(nodes.sort());
});

test('the cgroup driver is the configured one; the name and the trees are of this host', () => {
  expect(facts({ cgroup_driver: 'systemd' }).systemdCgroup).toBe(true);
  expect(facts({ cgroup_driver: 'cgroupfs' }).systemdCgroup).toBe(false);
  const { hostname: name, cgroup, hugepageSizes } = facts();
  expect([name, cgroup]).toEqual([hostname(), existsSync('/sys/fs/cgroup/memory') ? 'v1' : 'v2']);
  const controllers = readFileSync('/proc/cgroups', 'utf8');
  if (!/^hugetlb\t/m.test(controllers)) expect(hugepageSizes).toEqual([]);
  else if (existsSync('/sys/fs/cgroup/hugetlb'))
    expect(hugepageSizes).toHaveLength(readdirSync('/sys/kernel/mm/hugepages').length);
});

test('swap is limited only where the kernel counts it', () => {
  const { cgroup, swapAccounting } = facts();
  if (cgroup === 'v1')
    expect(swapAccounting).toBe(existsSync('/sys/fs/cgroup/memory/memory.memsw.usage_in_bytes'));
});

test('the security modules are those that are mounted', () => {
  expect(facts()).toMatchObject({
    apparmor: existsSync('/sys/kernel/security/apparmor'),
    selinux: existsSync('/sys/fs/selinux'),
  });
});

test('the limits of processes are the configured ones', () => {
  const { rlimits } = facts({ default_ulimits: { nofile: '77:88' } });
  expect(rlimits.find(({ type }) => type === 'RLIMIT_NOFILE')).toEqual({
    type: 'RLIMIT_NOFILE',
    soft: 77,
    hard: 88,
  });
});

describe('the seccomp profile', () => {
  let folder: string;
  beforeEach(() => {
    log.level = 'silent';
    folder = mkdtempSync(join(tmpdir(), 'crisp-facts-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  test('is that of crisp, or the configured file; none if the file cannot be used', () => {
    expect(facts().seccompProfile).toEqual(defaultProfile);
    const path = join(folder, 'profile.json');
    writeFileSync(path, '{"defaultAction":"SCMP_ACT_ALLOW"}');
    expect(facts({ seccomp_profile: path }).seccompProfile).toEqual({ defaultAction: 'SCMP_ACT_ALLOW' });
    writeFileSync(path, '{');
    expect(facts({ seccomp_profile: path }).seccompProfile).toBeUndefined();
    expect(facts({ seccomp_profile: join(folder, 'none') }).seccompProfile).toBeUndefined();
  });
});

test.each([
  ['0', [0]],
  ['0-2,5', [0, 1, 2, 5]],
  ['7,3-3', [7, 3]],
  ['', undefined],
  ['2-1', undefined],
  ['1,', undefined],
  ['0-', undefined],
  ['-1', undefined],
  ['a', undefined],
  ['100000', undefined],
])('the list %j has the numbers %j', (text, numbers) => {
  expect(parseNumberList(text)).toEqual(numbers);
});

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exists } from '../host/files.js';
import { mountPoints } from '../host/mounts.js';
import { run } from '../host/run.js';
import {
  bringLoopbackUp,
  checkPodSysctls,
  isNamespaceFile,
  pinNamespaces,
  unpinNamespaces,
} from './namespaces.js';
import { specIdMap } from '../../test/helpers/user-namespaces.js';

const all = { network: true, ipc: true, uts: true };
let base: string;
let folder: string;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'crisp-namespaces-'));
  folder = join(base, 'ns');
});
afterEach(async () => {
  await unpinNamespaces(folder);
  await rm(base, { recursive: true });
});

async function inside(options: readonly string[], ...command: string[]): Promise<string> {
  return (await run(['nsenter', ...options, ...command], { timeoutMs: 5_000 })).stdout.trim();
}

async function expectNothingLeft(): Promise<void> {
  expect((await mountPoints()).filter((mount) => mount.target.startsWith(base))).toEqual([]);
  expect(await readdir(base)).toEqual([]);
}

describe('pinned namespaces', () => {
  test('hold hostname and sysctls without a process in them', async () => {
    const sysctls = {
      'net.ipv4.ip_unprivileged_port_start': '80',
      'net/ipv4/conf/lo/forwarding': '1',
      'kernel.shm_rmid_forced': '1',
      'fs.mqueue.msg_max': '20',
    };
    const pinned = await pinNamespaces(folder, all, { hostname: 'pod-1', sysctls });
    expect(pinned).toEqual({
      network: join(folder, 'net'),
      ipc: join(folder, 'ipc'),
      uts: join(folder, 'uts'),
    });
    expect(await inside([`--uts=${pinned.uts}`], 'hostname')).toBe('pod-1');
    const both = [`--net=${pinned.network}`, `--ipc=${pinned.ipc}`];
    for (const [name, value] of Object.entries(sysctls))
      expect(await inside(both, 'sysctl', '-n', name)).toBe(value);
    expect((await run(['hostname'], { timeoutMs: 5_000 })).stdout.trim()).not.toBe('pod-1');
  });

  test('are only the requested ones', async () => {
    const pinned = await pinNamespaces(
      folder,
      { network: false, ipc: true, uts: false },
      { hostname: 'not-the-host', sysctls: {} },
    );
    expect(pinned).toEqual({ ipc: join(folder, 'ipc') });
    expect(await readdir(folder)).toEqual(['ipc']);
    expect((await run(['hostname'], { timeoutMs: 5_000 })).stdout.trim()).not.toBe('not-the-host');
    expect(
      await pinNamespaces(join(base, 'none'), { network: false, ipc: false, uts: false }, { sysctls: {} }),
    ).toEqual({});
    expect(await exists(join(base, 'none'))).toBe(false);
  });

  test('have their loopback set up on request', async () => {
    const { network = '' } = await pinNamespaces(folder, all, { sysctls: {} });
    expect(await inside([`--net=${network}`], 'ip', '-br', 'address', 'show', 'lo')).toMatch(/DOWN/);
    await bringLoopbackUp(network);
    expect(await inside([`--net=${network}`], 'ip', '-br', 'address', 'show', 'lo')).toContain('127.0.0.1/8');
  });

  test('are unpinned completely, also twice, except for foreign files beside them', async () => {
    const { network = '' } = await pinNamespaces(folder, all, { sysctls: {} });
    expect(await isNamespaceFile(network)).toBe(true);
    await unpinNamespaces(folder);
    await unpinNamespaces(folder);
    expect(await isNamespaceFile(network)).toBe(false);
    await expectNothingLeft();

    await pinNamespaces(base, all, { sysctls: {} });
    await run(['touch', join(base, 'other')], { timeoutMs: 5_000 });
    await unpinNamespaces(base);
    expect(await readdir(base)).toEqual(['other']);
  });

  test.each([
    ['net.ipv4.no_such_thing', '1'],
    ['net.ipv4.ip_unprivileged_port_start', 'many'],
    ['net.core.somaxconn', '-1'],
  ])('name the sysctl that fails, %s=%s, and are removed', async (name, value) => {
    await expect(
      pinNamespaces(folder, all, { hostname: 'pod', sysctls: { 'net.ipv4.ip_forward': '1', [name]: value } }),
    ).rejects.toMatchObject({ id: 'SysctlFailed', message: `cannot set ${name} in the pod` });
    await expectNothingLeft();
  });

  test('refuse a hostname that the kernel would truncate', async () => {
    await expect(pinNamespaces(folder, all, { hostname: 'h'.repeat(65), sysctls: {} })).rejects.toMatchObject(
      { id: 'InvalidArgument' },
    );
    await expectNothingLeft();
  });
});

describe('a user namespace', () => {
  const mapping = specIdMap(300_000);

  test('owns the others, and its mapping applies', async () => {
    const pinned = await pinNamespaces(
      folder,
      { ...all, user: { uids: mapping, gids: specIdMap(400_000) } },
      {
        hostname: 'mapped',
        sysctls: {
          'net.ipv4.ip_unprivileged_port_start': '7',
          'kernel.shm_rmid_forced': '1',
          'fs.mqueue.msg_max': '20',
        },
      },
    );
    expect(pinned.user).toBe(join(folder, 'user'));
    const options = [
      `--user=${pinned.user}`,
      `--net=${pinned.network}`,
      `--uts=${pinned.uts}`,
      `--ipc=${pinned.ipc}`,
    ];
    expect((await inside(options, 'cat', '/proc/self/uid_map')).split(/\s+/)).toEqual([
      '0',
      '300000',
      '65536',
    ]);
    expect((await inside(options, 'cat', '/proc/self/gid_map')).split(/\s+/)).toEqual([
      '0',
      '400000',
      '65536',
    ]);
    expect(await inside(options, 'hostname')).toBe('mapped');
    expect(await inside(options, 'sysctl', '-n', 'net.ipv4.ip_unprivileged_port_start')).toBe('7');
    expect(await inside(options, 'sysctl', '-n', 'kernel.shm_rmid_forced', 'fs.mqueue.msg_max')).toBe(
      '1\n20',
    );
    // Only the owner's root may: in a network namespace of the host's it would be refused.
    await inside(options, 'ip', 'link', 'set', 'lo', 'up');
    await inside(options, 'hostname', 'by-its-root');
    expect(await inside([`--uts=${pinned.uts}`], 'hostname')).toBe('by-its-root');
  });

  test('whose mapping the kernel refuses leaves nothing behind', async () => {
    const overlapping = [...mapping, { containerID: 10, hostID: 500_000, size: 10 }];
    await expect(
      pinNamespaces(folder, { ...all, user: { uids: overlapping, gids: mapping } }, { sysctls: {} }),
    ).rejects.toMatchObject({ id: 'NamespaceFailed' });
    await expectNothingLeft();
  });
});

describe('the sysctls of a pod', () => {
  const own = { hostNetwork: false, hostIpc: false };

  test.each([
    'net.ipv4.ip_unprivileged_port_start',
    'net/ipv4/conf/eth0.1/forwarding',
    'net.ipv4.conf.eth0/1.forwarding',
    'kernel.shmmax',
    'kernel.shm_rmid_forced',
    'kernel/msgmni',
    'kernel.sem',
    'fs.mqueue.msg_max',
  ])('%s is allowed', (name) => {
    expect(() => checkPodSysctls({ [name]: '1' }, own)).not.toThrow();
  });

  test.each([
    'kernel.core_pattern',
    'kernel/core_pattern',
    'kernel.hostname',
    'vm.overcommit_memory',
    'fs.file-max',
    'kernel.semaphore',
    'kernel.msg/../core_pattern',
    'net',
    'net/../kernel/core_pattern',
    'net.//.kernel.core_pattern',
    'net..kernel',
    'net.ipv4.*',
    '--system',
    '',
    'net.ipv4.a=b',
    'kernel.shm_rmid_forced/../core_pattern',
    '/net/ipv4/ip_forward',
  ])('%s is refused', (name) => {
    expect(() => checkPodSysctls({ [name]: '1' }, own)).toThrow(
      expect.objectContaining({ id: 'InvalidArgument' }),
    );
  });

  test("are refused where the pod uses the host's namespace", () => {
    expect(() =>
      checkPodSysctls({ 'net.ipv4.ip_forward': '1' }, { hostNetwork: true, hostIpc: false }),
    ).toThrow(/host's network/);
    expect(() => checkPodSysctls({ 'kernel.sem': '1' }, { hostNetwork: false, hostIpc: true })).toThrow(
      /ipc/,
    );
    expect(() => checkPodSysctls({ 'net.ipv4.ip_forward': '1', 'kernel.sem': '1' }, own)).not.toThrow();
  });
});

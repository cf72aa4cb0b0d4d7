import { afterEach, beforeEach, expect, test } from '@jest/globals';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { guestsOf, inCluster } from './cluster.js';

let pve: string;
beforeEach(() => {
  pve = mkdtempSync(join(tmpdir(), 'crisp-pve-'));
  for (const path of ['lxc', 'qemu-server', 'nodes/one/lxc', 'nodes/one/qemu-server', 'nodes/two/lxc'])
    mkdirSync(join(pve, path), { recursive: true });
});
afterEach(() => rmSync(pve, { recursive: true }));

test('the guests are the CTs and VMs of all nodes, and nothing else', async () => {
  const paths = [
    'lxc/101.conf',
    'qemu-server/102.conf',
    'nodes/one/lxc/103.conf',
    'nodes/one/qemu-server/104.conf',
    'nodes/two/lxc/105.conf',
    'lxc/106.conf.tmp',
    'lxc/x107.conf',
    'nodes/108.conf',
  ];
  for (const path of paths) writeFileSync(join(pve, path), '');
  expect([...(await guestsOf(pve))].sort()).toEqual([101, 102, 103, 104, 105]);
});

test('an unmounted cluster file system is an error, and no empty one', async () => {
  renameSync(join(pve, 'lxc'), join(pve, 'away'));
  for (const path of [pve, join(pve, 'none')])
    await expect(guestsOf(path)).rejects.toMatchObject({
      id: 'NoQuorum',
      message: expect.stringContaining(path),
      hint: expect.stringContaining('pve-cluster'),
    });
  renameSync(join(pve, 'away'), join(pve, 'lxc'));
  expect((await guestsOf(pve)).size).toBe(0);
});

test.each([
  ['ENOTCONN', 'NoQuorum'],
  ['ECONNABORTED', 'NoQuorum'],
  ['ENOENT', 'NoQuorum'],
])('%s during a look means the same: pmxcfs has ended', async (code, id) => {
  const look = (): Promise<never> => Promise.reject(Object.assign(new Error(code), { code }));
  await expect(inCluster(pve, look)).rejects.toMatchObject({ id });
});

test('any other error is its own, and the folder is held only meanwhile', async () => {
  const failure = Object.assign(new Error('broken'), { code: 'EIO' });
  await expect(inCluster(pve, () => Promise.reject(failure))).rejects.toBe(failure);
  const held = (): string[] =>
    readdirSync('/proc/self/fd').filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`) === pve;
      } catch {
        return false; // the folder that is read here
      }
    });
  expect(await inCluster(pve, async (at) => [readdirSync(join(at, 'nodes')).sort(), held().length])).toEqual([
    ['one', 'two'],
    1,
  ]);
  expect(held()).toEqual([]);
});

import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Vmids } from './vmids.js';

let pve: string;
beforeEach(() => {
  pve = mkdtempSync(join(tmpdir(), 'crisp-vmids-'));
  mkdirSync(join(pve, 'lxc'));
});
afterEach(() => rmSync(pve, { recursive: true }));
function guest(folder: string, vmid: number): void {
  mkdirSync(join(pve, folder), { recursive: true });
  writeFileSync(join(pve, folder, `${vmid}.conf`), '');
}

test('VMIDs of CTs and VMs of all nodes are in use', async () => {
  guest('lxc', 500);
  guest('qemu-server', 501);
  guest('nodes/a/lxc', 502);
  guest('nodes/b/qemu-server', 503);
  const vmids = new Vmids(pve, { first: 500, last: 505 }, 0);
  const take = (vmid: number) => Promise.resolve(vmid);
  expect(await vmids.propose(take)).toBe(504);
  guest('lxc', 504);
  expect(await vmids.propose(take)).toBe(505);
});

test('concurrent callers get different VMIDs', async () => {
  const vmids = new Vmids(pve, { first: 500, last: 519 });
  const found = await Promise.all(
    Array.from({ length: 20 }, () =>
      vmids.propose(async (vmid) => {
        await new Promise((resolve) => setTimeout(resolve, 5));
        return vmid;
      }),
    ),
  );
  expect(new Set(found).size).toBe(20);
});

test('a VMID is not reused before the whole range has been used', async () => {
  const vmids = new Vmids(pve, { first: 500, last: 502 }, 0.99);
  const found = [];
  for (let index = 0; index < 4; index++) found.push(await vmids.propose((vmid) => Promise.resolve(vmid)));
  expect(found).toEqual([502, 500, 501, 502]);
});

test('none is allocated while the guests of the cluster cannot be listed', async () => {
  rmSync(join(pve, 'lxc'), { recursive: true });
  await expect(
    new Vmids(pve, { first: 500, last: 502 }).propose(() => {
      throw new Error('proposed');
    }),
  ).rejects.toMatchObject({ id: 'NoQuorum' });
});

test('an exhausted range is a retryable error', async () => {
  guest('lxc', 500);
  await expect(
    new Vmids(pve, { first: 500, last: 500 }).propose((vmid) => Promise.resolve(vmid)),
  ).rejects.toMatchObject({ id: 'NoVmid', core: 'Locked' });
});

test('an id is kept for its taker until that ends, well or not', async () => {
  const vmids = new Vmids(pve, { first: 500, last: 500 });
  let end: () => void = () => undefined;
  let taken: Promise<number> | undefined;
  await new Promise<void>((begun) => {
    taken = vmids.propose((vmid) => {
      begun();
      return new Promise<number>((resolve) => (end = () => resolve(vmid)));
    });
  });
  await expect(vmids.propose((vmid) => Promise.resolve(vmid))).rejects.toMatchObject({ id: 'NoVmid' });
  end();
  expect(await taken).toBe(500);
  await expect(vmids.propose(() => Promise.reject(new Error('failed')))).rejects.toThrow('failed');
  expect(await vmids.propose((vmid) => Promise.resolve(vmid))).toBe(500);
});

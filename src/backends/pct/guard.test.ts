// The guard rail accepts only a CT of crisp: in its VMID range, with its tag and its
// mark, for the given container.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setAside } from '../../set-aside.js';
import { Guard } from './guard.js';
import { describe as description } from './guest-config.js';

const owner = 'pve1 /run/crisp';
const mine = 'a'.repeat(64);
const range = { first: 1000, last: 1999 };
let pveFolder: string;
let guard: Guard;

beforeEach(() => {
  pveFolder = mkdtempSync(join(tmpdir(), 'crisp-guard-'));
  for (const folder of ['lxc', 'qemu-server', 'nodes/other/lxc'])
    mkdirSync(join(pveFolder, folder), { recursive: true });
  guard = new Guard({ pveFolder, range, tag: 'crisp', owner });
});
afterEach(() => rmSync(pveFolder, { recursive: true }));

function seed(
  path: string,
  {
    tags = 'crisp;default',
    by = owner,
    container = mine,
    prefix = '',
    suffix = '',
    vmid = /\d+/.exec(path)?.[0] ?? '',
  } = {},
): void {
  const marked = description(['a CT'], { owner: by, containerId: container, vmid })
    .split('\n')
    .map((line) => `#${line.replaceAll(':', '%3A')}\n`)
    .join('');
  writeFileSync(join(pveFolder, path), `${prefix}${marked}tags: ${tags}\nhostname: x\n${suffix}`);
}

test('our own CT is accepted for its own container', async () => {
  seed('lxc/1000.conf');
  expect(await guard.owned(1000, mine)).toMatchObject({ tags: ['crisp', 'default'] });
  expect([...(await guard.all()).keys()]).toEqual([1000]);
});

test('the first and the last VMID of the range belong to it, their neighbours do not', async () => {
  for (const vmid of [999, 1000, 1999, 2000]) seed(`lxc/${vmid}.conf`);
  writeFileSync(join(pveFolder, 'lxc/999.conf'), 'lock: create\n');
  expect([...(await guard.all()).keys()].sort()).toEqual([1000, 1999]);
  for (const vmid of [1000, 1999]) expect(await guard.owned(vmid, mine)).toBeDefined();
  for (const vmid of [999, 2000])
    await expect(guard.owned(vmid, mine)).rejects.toMatchObject({ id: 'ForeignGuest' });
  for (const vmid of [1999, 2000]) writeFileSync(join(pveFolder, `lxc/${vmid}.conf`), 'lock: create\n');
  expect(await Promise.all([999, 1999, 2000].map((vmid) => guard.isRemnant(vmid)))).toEqual([
    false,
    true,
    false,
  ]);
});

test('a CT that is not on this node is gone, not foreign', async () => {
  seed('nodes/other/lxc/1001.conf');
  writeFileSync(join(pveFolder, 'qemu-server/1002.conf'), 'tags: crisp\n');
  for (const vmid of [1001, 1002, 1003]) expect(await guard.owned(vmid, mine)).toBeUndefined();
  expect((await guard.all()).size).toBe(0);
});

test('a CT is not reported as gone while pmxcfs is not mounted', async () => {
  const unmounted = expect.objectContaining({
    id: 'NoQuorum',
    core: 'Locked',
    hint: expect.stringContaining('pve-cluster'),
  });
  seed('lxc/1000.conf');
  renameSync(join(pveFolder, 'lxc'), join(pveFolder, 'nodes/lxc'));
  for (const vmid of [1000, 1001]) await expect(guard.owned(vmid, mine)).rejects.toEqual(unmounted);
  await expect(guard.all()).rejects.toEqual(unmounted);
  symlinkSync('nodes/lxc', join(pveFolder, 'lxc')); // as on a node
  expect(await guard.owned(1000, mine)).toBeDefined();
  expect(await guard.owned(1001, mine)).toBeUndefined();
  expect((await guard.all()).size).toBe(1);
});

test.each<[string, number, Parameters<typeof seed>[1], string]>([
  ['below the range', 999, {}, mine],
  ['above the range', 2000, {}, mine],
  ['without our tag', 1100, { tags: 'default;crispy' }, mine],
  ['with no tag', 1101, { tags: '' }, mine],
  ['of another node', 1102, { by: 'pve2 /run/crisp' }, mine],
  ['of the command line on this node', 1103, { by: 'pve1 /run/crisp-cli' }, mine],
  ['of a longer name', 1104, { by: `${owner}2` }, mine],
  ['of another container', 1105, { container: 'b'.repeat(64) }, mine],
  ['whose container is a path', 1108, { container: '../../../x' }, '../../../x'],
  ['that is a clone of ours', 1107, { vmid: '1000' }, mine],
  ['marked twice', 1106, { prefix: '#crisp-owner%3A somebody\n' }, mine],
])('a CT %s is refused', async (_, vmid, options, container) => {
  seed(`lxc/${vmid}.conf`, options);
  await expect(guard.owned(vmid, container)).rejects.toMatchObject({ id: 'ForeignGuest' });
});

test.each([NaN, -1000, 1000.5, Infinity, 1e21])('an invalid VMID (%p) is refused', async (vmid) => {
  await expect(guard.owned(vmid, mine)).rejects.toMatchObject({ id: 'ForeignGuest' });
});

test('property: of many random guests, only those with all four marks are accepted', async () => {
  let state = 20_261_123;
  const pick = <T>(from: readonly T[]): T => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return from[state % from.length] as T;
  };
  const ours = new Map<number, string>();
  const containers = ['a', 'b', 'c'].map((digit) => digit.repeat(64));
  const vmids: number[] = [];
  for (let index = 0; index < 500; index++) {
    const vmid = 900 + 3 * index;
    const tags = pick(['crisp', 'crisp;default', 'web', 'crisp-old', '']);
    const by = pick([owner, owner, 'pve2 /run/crisp', '']);
    const container = pick(containers);
    const suffix = pick(['', '[snap]\ntags: crisp\n']);
    seed(`lxc/${vmid}.conf`, { tags, by, container, suffix });
    vmids.push(vmid);
    if (vmid >= range.first && vmid <= range.last && tags.split(';').includes('crisp') && by === owner)
      ours.set(vmid, container);
  }
  expect(ours.size).toBeGreaterThan(20);
  for (const vmid of vmids) {
    for (const asked of containers) {
      const passed = await guard.owned(vmid, asked).then(
        (found) => found !== undefined,
        () => false,
      );
      expect({ vmid, asked, passed }).toEqual({ vmid, asked, passed: ours.get(vmid) === asked });
    }
  }
  expect(new Set((await guard.all()).keys())).toEqual(new Set(ours.keys()));
});

test('unreadable and invalid notes are set aside; the others are returned', async () => {
  seed('lxc/1000.conf');
  seed('lxc/1001.conf', { container: '../../../x' });
  mkdirSync(join(pveFolder, 'lxc/1002.conf'));
  expect([...(await guard.all()).keys()]).toEqual([1000]);
  const names = setAside
    .all()
    .filter(({ kind }) => kind === 'CT')
    .map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(['1001', '1002']));
  expect(names).not.toContain('1000');
});

test('what an interrupted pct leaves is its lock alone', async () => {
  for (const [index, text] of [
    'lock: create\n',
    ' lock:  destroyed ',
    'lock: backup\n',
    'lock: create\nhostname: x\n',
    '',
  ].entries())
    writeFileSync(join(pveFolder, `lxc/${1200 + index}.conf`), text);
  const found = await Promise.all([1200, 1201, 1202, 1203, 1204, 1205].map((vmid) => guard.isRemnant(vmid)));
  expect(found).toEqual([true, true, false, false, false, false]); // 1205 is not there
});

test('a CT of somebody else is not set aside, whatever of ours it has', async () => {
  setAside.replace('CT', []);
  seed('lxc/1301.conf', { tags: 'web' });
  seed('lxc/1302.conf', { by: 'pve2 /run/crisp' });
  seed('lxc/1303.conf', { vmid: '1000' });
  expect((await guard.all()).size).toBe(0);
  expect(setAside.all().map(({ name }) => name)).toEqual(['1303']); // our tag and our owner line
});

// Slices, with a stand-in for systemd.
import { afterEach, expect, jest, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const stopped: string[] = [];
const set: string[] = [];
jest.unstable_mockModule('./slices.js', () => ({
  startSlice: () => Promise.resolve(),
  stopSlice: (path: string) => Promise.resolve(void stopped.push(path)),
  setSliceProperties: (path: string) => Promise.resolve(void set.push(path)),
}));
const { removePodCgroup, writeResources } = await import('./cgroup.js');

let tree = '';
afterEach(() => rm(tree, { recursive: true, force: true }));

test('a stopped slice is removed from the v1 trees that systemd does not manage', async () => {
  tree = await mkdtemp(join(tmpdir(), 'crisp-slices-'));
  await mkdir(join(tree, 'crisp.slice', 'crisp-a.slice', 'left.scope'), { recursive: true });
  await removePodCgroup('crisp-a.slice', {
    version: 'v1',
    controllers: { freezer: tree },
    unified: undefined,
  });
  expect(stopped).toEqual(['/crisp.slice/crisp-a.slice']);
  expect(existsSync(join(tree, 'crisp.slice', 'crisp-a.slice'))).toBe(false);
});

test.each([
  ['v1', '/crisp.slice/crisp-a.slice', []],
  ['v2', '/crisp.slice/crisp-a.slice', ['/crisp.slice/crisp-a.slice']],
  ['v2', '/crisp/a', []],
] as const)('on %s the limits of %s are set in systemd for %j', async (version, name, told) => {
  tree = await mkdtemp(join(tmpdir(), 'crisp-slices-'));
  await mkdir(join(tree, name), { recursive: true });
  await writeFile(join(tree, name, 'pids.max'), '0');
  set.length = 0;
  const layout = {
    v1: { controllers: { pids: tree }, unified: undefined },
    v2: { controllers: {}, unified: tree },
  };
  await writeResources(name, { pids: { limit: 7 } }, { version, ...layout[version] });
  expect(await readFile(join(tree, name, 'pids.max'), 'utf8')).toBe('7');
  expect(set).toEqual(told);
});

// Slices, with a stand-in for systemd.
import { afterEach, expect, jest, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const stopped: string[] = [];
jest.unstable_mockModule('./slices.js', () => ({
  startSlice: () => Promise.resolve(),
  stopSlice: (path: string) => Promise.resolve(void stopped.push(path)),
  setSliceProperties: () => Promise.resolve(),
}));
const { removePodCgroup } = await import('./cgroup.js');

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

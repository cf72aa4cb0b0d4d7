// Which mounts a volume of Proxmox may replace.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SandboxPlan } from '../../shapes/sandbox.js';
import type { Mount, Spec } from '../../shapes/spec.js';
import type { ContainerRef } from '../backend.js';
import type { MountPoint } from './guest-options.js';
import { checkMountPoints, mountPointsOf, withoutMountPoints } from './mount-points.js';

let folder: string;
let data: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-points-'));
  data = join(folder, 'data');
  mkdirSync(data);
});
afterEach(() => rmSync(folder, { recursive: true }));

const bind = (destination: string, source: string): Mount => ({
  destination,
  type: 'bind',
  source,
  options: ['rbind'],
});
const specOf = (...mounts: Mount[]): Spec => ({ mounts }) as unknown as Spec;
const point = (path: string, index = 3): MountPoint => ({
  index,
  path,
  storage: 'local',
  sizeGib: 1,
  backup: false,
});
const planOf = (spec: Spec) => ({ id: 'this', name: 'web', sandbox: { id: 'pod' } as SandboxPlan, spec });
const check = (spec: Spec, points: MountPoint[], made: ContainerRef[] = []): Promise<void> =>
  checkMountPoints(made, planOf(spec), { mountPoints: points });
/** Another container, with config.json in its bundle. */
function other(spec: Spec, { id = 'other', name = 'db', sandboxId = 'pod' } = {}): ContainerRef {
  mkdirSync(join(folder, id));
  writeFileSync(join(folder, id, 'config.json'), JSON.stringify(spec));
  const state = { vmid: 900_001, uid: 0, stdin: 'none', terminal: false, sandboxId, name };
  return { id, folder: join(folder, id), logPath: '', state };
}

test('a point replaces the bind mount at its path, and no other', () => {
  const spec = specOf(bind('/data/', data), bind('/data/below', data), {
    destination: '/tmp',
    type: 'tmpfs',
    source: 'tmpfs',
  });
  const points = [point('/data'), point('/tmp', 4), point('/none', 5)];
  expect(mountPointsOf({ spec }, { mountPoints: points })).toEqual([points[0]]);
  expect(withoutMountPoints(spec, [point('/data')]).mounts.map(({ destination }) => destination)).toEqual([
    '/data/below',
    '/tmp',
  ]);
  expect(withoutMountPoints(spec, [])).toBe(spec);
});

test('a volume of this container alone is replaced', async () => {
  await check(specOf(bind('/data', data)), [point('/data')]);
  await check(specOf(bind('/data', data)), []);
});

test('a point below another mount would be hidden', async () => {
  const spec = specOf(bind('/srv/', data), bind('/srv/data', data));
  await expect(check(spec, [point('/srv/data')])).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringMatching(/mp3: \/srv\/data: \/srv\/, which .* would hide it/),
  });
  await check(spec, [point('/srv/data'), point('/srv', 4)]); // the other one is replaced as well
  await check(specOf(bind('/sr', data), bind('/srv/data', data)), [point('/srv/data')]);
});

test.each(['file', 'absent'])('a mounted %s is no folder, and no volume can replace it', async (name) => {
  writeFileSync(join(folder, 'file'), '');
  await expect(check(specOf(bind('/data', join(folder, name))), [point('/data')])).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringContaining('no folder'),
  });
});

test.each([
  ['this container', specWith('/data'), specWith('/elsewhere')],
  ['the other one', specWith('/elsewhere'), specWith('/data')],
])(
  'what the containers of a pod share cannot be a volume of one: the point is of %s',
  async (_, own, theirs) => {
    await expect(check(own(), [point('/data')], [other(theirs())])).rejects.toMatchObject({
      id: 'InvalidArgument',
      message: expect.stringMatching(/the containers db and web share/),
    });
  },
);
function specWith(destination: string): () => Spec {
  return () => specOf(bind(destination, data));
}

test('an earlier attempt, a container of another pod, itself, and one with other volumes share nothing', async () => {
  const same = specWith('/data')();
  await check(
    same,
    [point('/data')],
    [
      other(same, { id: 'earlier', name: 'web' }),
      other(same, { id: 'stranger', sandboxId: 'another' }),
      { ...other(same, { id: 'self' }), id: 'this' },
      other(specOf(bind('/data', folder)), { id: 'apart' }),
      { id: 'new', folder: '/none', logPath: '', state: undefined },
    ],
  );
});

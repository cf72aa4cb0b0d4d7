// The volumes of a CT with a user namespace.  The mounts and the namespace are real.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mountIdMapped } from '../../host/idmap.js';
import { mountPoints } from '../../host/mounts.js';
import { log } from '../../log.js';
import { pinNamespaces, unpinNamespaces } from '../../pod/namespaces.js';
import type { Mount, Spec } from '../../shapes/spec.js';
import { releaseBinds, shiftedBinds } from './binds.js';
import { unprivilegedIds } from './options.js';

let pod: string;
let namespaceFile: string;
let folder: string;
let source: string;
let bundle: string;

beforeAll(async () => {
  pod = mkdtempSync(join(tmpdir(), 'crisp-binds-pod-'));
  const pinned = await pinNamespaces(join(pod, 'ns'), { user: unprivilegedIds } as never, { sysctls: {} });
  namespaceFile = pinned.user ?? '';
});
afterAll(async () => {
  await unpinNamespaces(join(pod, 'ns'));
  rmSync(pod, { recursive: true });
});
beforeEach(() => {
  log.level = 'silent';
  folder = mkdtempSync(join(tmpdir(), 'crisp-binds-'));
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', folder]);
  [source, bundle] = [join(folder, 'source'), join(folder, 'bundle')];
  for (const path of [source, bundle]) mkdirSync(path);
  writeFileSync(join(source, 'file'), 'text');
});
afterEach(async () => {
  await releaseBinds(bundle);
  execFileSync('umount', [folder]);
  rmSync(folder, { recursive: true });
});

const bind = (options: string[], from = source): Mount => ({
  destination: '/data',
  type: 'bind',
  source: from,
  options,
});
async function shifted(mounts: Mount[], plain: string[] = []): Promise<(string | undefined)[]> {
  const spec = { mounts, process: { cwd: '/w' } } as Spec;
  const made = await shiftedBinds(spec, bundle, namespaceFile, plain);
  expect(made.process).toEqual(spec.process);
  expect(made.mounts.map((mount) => ({ ...mount, source: '' }))).toEqual(
    mounts.map((mount) => ({ ...mount, source: '' })),
  );
  return made.mounts.map((mount) => mount.source);
}
/** Whether the kernel has idmapped mounts of tmpfs (Linux 6.3). */
async function works(): Promise<boolean> {
  const at = join(bundle, 'views');
  mkdirSync(at);
  try {
    await mountIdMapped(source, at, namespaceFile);
    await releaseBinds(bundle);
    return true;
  } catch {
    return false;
  } finally {
    rmdirSync(at);
  }
}

test('a folder and a file of root are of root in the CT', async () => {
  if (!(await works())) return expect(await shifted([bind(['rbind'])])).toEqual([source]);
  const [dir = '', file = ''] = await shifted([bind(['rbind']), bind(['rbind', 'ro'], join(source, 'file'))]);
  expect([dir, file].map((path) => path.startsWith(`${bundle}/`))).toEqual([true, true]);
  expect(statSync(join(dir, 'file'))).toMatchObject({ uid: 100_000, gid: 100_000 });
  expect(statSync(file)).toMatchObject({ uid: 100_000, size: 4 });
  expect(statSync(join(source, 'file')).uid).toBe(0);
  await releaseBinds(bundle);
  expect((await mountPoints()).filter(({ target }) => target.startsWith(bundle))).toEqual([]);
});

test('a file alone is of root in the CT as well', async () => {
  if (!(await works())) return;
  const [file = ''] = await shifted([bind(['rbind'], join(source, 'file'))]);
  expect(statSync(file)).toMatchObject({ uid: 100_000, size: 4 });
});

test.each([
  ['with propagation from the host', bind(['rbind', 'rslave'])],
  ['with propagation to the host', bind(['rbind', 'rshared'])],
  ['of the kernel', { destination: '/cache', type: 'tmpfs', source: 'tmpfs' }],
])('a mount %s keeps its source: a view would not get later mounts', async (_, mount) => {
  expect(await shifted([mount])).toEqual([mount.source]);
  expect(existsSync(join(bundle, 'views'))).toBe(false);
});

test('a volume on a filesystem without idmapped mounts keeps its owners', async () => {
  const ramfs = join(folder, 'ramfs');
  mkdirSync(ramfs);
  execFileSync('mount', ['-t', 'ramfs', 'ramfs', ramfs]);
  try {
    expect(await shifted([bind(['rbind'], ramfs)])).toEqual([ramfs]);
  } finally {
    execFileSync('umount', [ramfs]);
  }
});

test('a source whose owners are right is seen through a folder that the CT can reach', async () => {
  chownSync(join(source, 'file'), 100_000, 100_000);
  chmodSync(source, 0o755);
  const [view = ''] = await shifted([bind(['rbind'])], [source]);
  expect(view.startsWith(`${bundle}/`)).toBe(true);
  expect(statSync(join(view, 'file')).uid).toBe(100_000);
  await releaseBinds(bundle);
  expect(existsSync(join(view, 'file'))).toBe(false);
  expect(existsSync(join(source, 'file'))).toBe(true);
});

test('a volume that is not there is an error', async () => {
  await expect(shifted([bind(['rbind'], join(folder, 'none'))])).rejects.toMatchObject({ code: 'ENOENT' });
});

// The places in a rootfs where things are mounted, made before the CT starts:
// liblxc makes them too, but not in a read-only rootfs.
import { chown, lstat, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../../errors.js';
import { isAbsent } from '../../host/files.js';

/** @param owner root of the CT, as the host has it */
export async function makeTargets(
  rootfs: string,
  targets: readonly { readonly path: string; readonly isFolder: boolean }[],
  owner: number,
): Promise<void> {
  for (const { path, isFolder } of targets)
    await makeTarget(rootfs, path.split('/').filter(Boolean), isFolder, owner);
}

/** Stops at a symlink, which could lead out of the rootfs: liblxc judges it when the rootfs is its root. */
async function makeTarget(
  at: string,
  names: readonly string[],
  isFolder: boolean,
  owner: number,
): Promise<void> {
  const [name, ...rest] = names;
  if (name === undefined) return;
  if (name === '..')
    throw new CrispError('InvalidArgument', 'a mount of a CT leaves its root filesystem by ".."', {
      stage: 'make mount targets',
    });
  const path = join(at, name);
  const found = await lstat(path).catch((error: unknown) => {
    if (isAbsent(error)) return undefined;
    throw error;
  });
  if (found?.isSymbolicLink()) return;
  if (!found) {
    if (rest.length > 0 || isFolder) await mkdir(path, { mode: 0o755 });
    else await writeFile(path, '', { mode: 0o644 });
    await chown(path, owner, owner);
  }
  await makeTarget(path, rest, isFolder, owner);
}

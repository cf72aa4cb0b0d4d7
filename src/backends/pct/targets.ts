// Makes the mount points in a rootfs before the CT starts: liblxc makes them
// too, but not in a read-only rootfs.
import { chown, lstat, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../../errors.js';
import { isAbsent } from '../../host/files.js';

/** @param owner the host's uid of the CT's root */
export async function makeTargets(
  rootfs: string,
  targets: readonly { readonly path: string; readonly isFolder: boolean }[],
  owner: number,
): Promise<void> {
  for (const { path, isFolder } of targets)
    await makeTarget(rootfs, path.split('/').filter(Boolean), isFolder, owner);
}

/** Stops at a symlink, which could lead out of the rootfs: liblxc resolves it with the rootfs as its root. */
async function makeTarget(
  at: string,
  names: readonly string[],
  isFolder: boolean,
  owner: number,
): Promise<void> {
  const [name, ...rest] = names;
  if (name === undefined) return;
  if (name === '..')
    throw new CrispError(
      'InvalidArgument',
      'the target of a mount leaves the root filesystem of the CT by ".."',
      {
        stage: 'make mount targets',
      },
    );
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

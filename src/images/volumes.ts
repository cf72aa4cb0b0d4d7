// The VOLUMEs of an image's config: folders that a container can write in, also
// where its root filesystem is read-only. Each begins as a copy of what the image
// has there, and goes with the container.
//
//   ROOT/containers/ID/volumes/N     one per volume (bind)
import { chownSync, closeSync, existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { CrispError } from '../errors.js';
import { openFolder } from '../host/beneath.js';
import { makeFolder, realPathOf } from '../host/files.js';
import { run } from '../host/run.js';
import type { ImageConfig } from '../shapes/image-config.js';
import { resolveInside } from '../oci/inspect.js';
import { checkedPath } from '../oci/paths.js';
import type { Volume } from '../oci/mounts.js';
import type { Shift } from './overlay.js';

export interface VolumesWish {
  readonly mode: Config['runtime']['image_volumes'];
  readonly image: Pick<ImageConfig, 'Volumes'>;
  /** The root filesystem of a container that does not run yet; nobody else can write in it. */
  readonly rootfs: string;
  /** A view that cannot be written to: mkdir has nothing to make. */
  readonly isView: boolean;
  /** Of the rootfs. */
  readonly shift: Shift | undefined;
  /** Where the request mounts something itself, as the container sees it. */
  readonly taken: readonly string[];
  /** Gets the copies. */
  readonly folder: string;
}

const stage = 'image volumes';
/** An image config is somebody else's; each volume is a copy and a mount. */
const mostVolumes = 64;
/** The disk decides, not the clock; this is for one that hangs. */
const copyTimeoutMs = 30 * 60_000;
const kernelFolders = ['/proc', '/sys', '/dev'];

/**
 * Makes the volumes of an image for a container.
 * @returns what is to be mounted
 * @throws InvalidArgument, PathEscapes for volumes that no container can have; StorageFailed
 */
export async function makeVolumes(wish: VolumesWish): Promise<Volume[]> {
  if (wish.mode === 'ignore') return [];
  const targets = await targetsOf(wish);
  if (wish.mode === 'mkdir') {
    if (!wish.isView) for (const target of targets) await makeInside(wish, target);
    return [];
  }
  const made: Volume[] = [];
  for (const [index, target] of targets.entries()) {
    const source = join(wish.folder, String(index));
    await copy(wish, target, source);
    made.push({ target, source });
  }
  return made;
}

/** Where they lie with the links of the image resolved; without those that something else lies over. */
async function targetsOf({ image, rootfs, taken }: VolumesWish): Promise<string[]> {
  const paths = Object.keys(image.Volumes ?? {});
  if (paths.length > mostVolumes)
    throw new CrispError(
      'InvalidArgument',
      `the image has ${paths.length} VOLUMEs, and a container can have ${mostVolumes}`,
      { stage },
    );
  const covered = [...kernelFolders, ...taken];
  const targets = new Set<string>();
  for (const path of paths) {
    const field = 'VOLUME of the image';
    const target = await resolveInside(
      rootfs,
      checkedPath(path.startsWith('/') ? path : `/${path}`, field),
      field,
    );
    if (target === '/' || covered.some((other) => target === other || target.startsWith(`${other}/`)))
      continue;
    targets.add(target);
  }
  return [...targets];
}

async function copy({ rootfs, folder, shift }: VolumesWish, target: string, source: string): Promise<void> {
  makeFolder(folder);
  const from = join(rootfs, target);
  if (!existsSync(from)) {
    makeFolder(source, 0o755);
    if (shift) chownSync(source, shift.rootUid, shift.rootGid);
    return;
  }
  expectFolder(from, target);
  // As they are: links are copied as links, and owners are those of the rootfs.
  await run(
    ['cp', '--archive', '--reflink=auto', '--one-file-system', '--no-target-directory', '--', from, source],
    {
      timeoutMs: copyTimeoutMs,
      stage,
      errorId: 'StorageFailed',
    },
  );
}

async function makeInside({ rootfs, shift }: VolumesWish, target: string): Promise<void> {
  const root = await realPathOf(rootfs);
  const made: string[] = [];
  if (existsSync(join(root, target))) expectFolder(join(root, target), target);
  closeSync(openFolder(join(root, target), 0o755, made));
  if (shift) for (const path of made) chownSync(path, shift.rootUid, shift.rootGid);
}

function expectFolder(path: string, target: string): void {
  if (!statSync(path).isDirectory())
    throw new CrispError('InvalidArgument', `VOLUME ${target} of the image is no folder in it`, { stage });
}

// The VOLUMEs of an image's config: folders that a container can write to, even
// if its root filesystem is read-only. Each starts as a copy of the image's
// content, and is removed with the container.
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

export interface VolumesOptions {
  readonly mode: Config['runtime']['image_volumes'];
  readonly image: Pick<ImageConfig, 'Volumes'>;
  /** The root filesystem of a container that does not run yet; nothing else can write to it. */
  readonly rootfs: string;
  /** A read-only view: mkdir makes nothing. */
  readonly isView: boolean;
  /** Of the rootfs. */
  readonly shift: Shift | undefined;
  /** Paths in the container at which the request itself has mounts. */
  readonly taken: readonly string[];
  /** Folder for the copies. */
  readonly folder: string;
}

const stage = 'image volumes';
/** The image config is untrusted, and each volume takes a copy and a mount. */
const mostVolumes = 64;
/** The duration depends on the disk; this timeout is for a hanging disk. */
const copyTimeoutMs = 30 * 60_000;
const kernelFolders = ['/proc', '/sys', '/dev'];

/**
 * Makes the volumes of an image for a container.
 * @returns the mounts
 * @throws InvalidArgument, PathEscapes for invalid volumes; StorageFailed
 */
export async function makeVolumes(options: VolumesOptions): Promise<Volume[]> {
  if (options.mode === 'ignore') return [];
  const targets = await targetsOf(options);
  if (options.mode === 'mkdir') {
    if (!options.isView) for (const target of targets) await makeInside(options, target);
    return [];
  }
  const made: Volume[] = [];
  for (const [index, target] of targets.entries()) {
    const source = join(options.folder, String(index));
    await copy(options, target, source);
    made.push({ target, source });
  }
  return made;
}

/** Their paths with the links of the image resolved; without volumes that another mount covers. */
async function targetsOf({ image, rootfs, taken }: VolumesOptions): Promise<string[]> {
  const paths = Object.keys(image.Volumes ?? {});
  if (paths.length > mostVolumes)
    throw new CrispError(
      'InvalidArgument',
      `the image has ${paths.length} VOLUMEs, and the maximum is ${mostVolumes}`,
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

async function copy(
  { rootfs, folder, shift }: VolumesOptions,
  target: string,
  source: string,
): Promise<void> {
  makeFolder(folder);
  const from = join(rootfs, target);
  if (!existsSync(from)) {
    makeFolder(source, 0o755);
    if (shift) chownSync(source, shift.rootUid, shift.rootGid);
    return;
  }
  expectFolder(from, target);
  // Links are copied as links, and owners are kept.
  await run(
    ['cp', '--archive', '--reflink=auto', '--one-file-system', '--no-target-directory', '--', from, source],
    {
      timeoutMs: copyTimeoutMs,
      stage,
      errorId: 'StorageFailed',
    },
  );
}

async function makeInside({ rootfs, shift }: VolumesOptions, target: string): Promise<void> {
  const root = await realPathOf(rootfs);
  const made: string[] = [];
  if (existsSync(join(root, target))) expectFolder(join(root, target), target);
  closeSync(openFolder(join(root, target), 0o755, made));
  if (shift) for (const path of made) chownSync(path, shift.rootUid, shift.rootGid);
}

function expectFolder(path: string, target: string): void {
  if (!statSync(path).isDirectory())
    throw new CrispError('InvalidArgument', `VOLUME ${target} of the image is not a folder`, { stage });
}

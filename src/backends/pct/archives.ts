// The archives that `pct create` unpacks: an empty one for CTs with a mounted
// rootfs, and one for each image that is used by CTs with a volume. Made once,
// shared by all.
//
//   ROOT/archives/empty.tar.gz, IMAGE-ID.tar
import { lstatSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { exists, makeFolder, namesIn, remove } from '../../host/files.js';
import { pidExists } from '../../host/proc.js';
import { run } from '../../host/run.js';
import { makeTargets } from './targets.js';

/** The duration depends on the disk; this timeout is for a hanging disk. */
const timeoutMs = 30 * 60_000;
/** Mount points for the files that are mounted in every CT: they could not be made in a read-only volume. */
const targets = [
  ...['/proc', '/sys', '/dev'].map((path) => ({ path, isFolder: true })),
  ...['/etc/hosts', '/etc/hostname', '/etc/resolv.conf'].map((path) => ({ path, isFolder: false })),
];

/** Makes each archive once, also when several callers need it at the same time. */
export class Archives {
  private readonly making = new Map<string, Promise<string>>();

  constructor(private readonly folder: string) {}

  /** The path of the empty archive, which may not exist yet. */
  get emptyPath(): string {
    return join(this.folder, 'empty.tar.gz');
  }

  /** Makes the empty archive if it does not exist. @returns its path */
  async empty(): Promise<string> {
    return this.once(this.emptyPath, (work) => writeFile(join(work, made), gzipSync(Buffer.alloc(10_240)))); // tar's end: two blocks of zeros, in a record of twenty
  }

  /** @param view the files of the image */
  async of(imageId: string, view: string): Promise<string> {
    return this.once(this.pathOf(imageId), (work) => pack(view, work));
  }

  private once(path: string, make: (work: string) => Promise<void>): Promise<string> {
    const making =
      this.making.get(path) ??
      exists(path)
        .then((isThere) => (isThere ? undefined : this.make(path, make)))
        .then(() => path)
        .finally(() => this.making.delete(path));
    this.making.set(path, making);
    return making;
  }

  /** To be called when the image is gone. */
  async forget(imageId: string): Promise<void> {
    const path = this.pathOf(imageId);
    await Promise.all([path, ...(await this.worksOf(path))].map(remove));
  }

  /** The path of an image's archive, which may not exist yet. */
  pathOf(imageId: string): string {
    return join(this.folder, `${imageId.replace('sha256:', '')}.tar`);
  }

  /** In a folder of its own: the daemon and the command line may make the same archive at the same time. */
  private async make(path: string, make: (work: string) => Promise<void>): Promise<void> {
    const work = workOf(path, process.pid);
    for (const left of await this.worksOf(path))
      if (left === work || !pidExists(left.split('-').at(-1) ?? '')) await remove(left); // left by a crash
    makeFolder(work, 0o755);
    try {
      await make(work);
      await rename(join(work, made), path);
    } finally {
      await remove(work);
    }
  }

  /** The working folders of this archive, in use or left by a crash. */
  private async worksOf(path: string): Promise<string[]> {
    return (await namesIn(this.folder))
      .filter((name) => name.startsWith(workOf(basename(path), '')))
      .map((name) => join(this.folder, name));
  }
}

/** The name of what is made in a folder for it. */
const made = 'archive';

function workOf(path: string, pid: number | ''): string {
  return `${path}.making-${pid}`;
}

async function pack(view: string, work: string): Promise<void> {
  const tar = [
    'tar',
    '--file',
    join(work, made),
    '--numeric-owner',
    '--xattrs',
    '--xattrs-include=*',
  ] as const;
  await run([...tar, '--create', '--directory', view, '.'], {
    timeoutMs,
    stage: 'archive image',
    errorId: 'StorageFailed',
  });
  const missing = targets.filter((target) => !isThere(join(view, target.path)));
  const more = join(work, 'targets');
  makeFolder(more, 0o755);
  await makeTargets(more, missing, 0);
  if (missing.length)
    await run(
      [
        ...tar,
        '--append',
        '--directory',
        more,
        ...new Set(missing.map(({ path: target }) => target.slice(1))),
      ],
      { timeoutMs, stage: 'archive image', errorId: 'StorageFailed' },
    );
}

function isThere(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

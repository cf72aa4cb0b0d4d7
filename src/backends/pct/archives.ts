// The archives that `pct create` unpacks: one with nothing in it for CTs whose
// rootfs is mounted already, and one for each image that CTs with a volume of
// their own are made from.  Made once, shared by all.
//
//   ROOT/archives/empty.tar.gz, IMAGE-ID.tar
import { lstatSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { exists, makeFolder, remove, writeFileAtomic } from '../../host/files.js';
import { run } from '../../host/run.js';
import { makeTargets } from './targets.js';

/** The disk decides, not the clock; this is for one that hangs. */
const timeoutMs = 30 * 60_000;
/** What is mounted in every CT: a read-only volume would have no place for it. */
const targets = [...['/proc', '/sys', '/dev'].map((path) => ({ path, isFolder: true })), ...['/etc/hosts', '/etc/hostname', '/etc/resolv.conf'].map((path) => ({ path, isFolder: false }))];

export class Archives {
  private readonly making = new Map<string, Promise<string>>();

  constructor(private readonly folder: string) {}

  get emptyPath(): string { return join(this.folder, 'empty.tar.gz'); }

  async empty(): Promise<string> {
    makeFolder(this.folder, 0o755);
    return this.once(this.emptyPath, (path) => writeFileAtomic(path, gzipSync(Buffer.alloc(10_240)), 0o644)); // tar's end: two blocks of zeros, in a record of twenty
  }

  /** @param view the files of the image */
  async of(imageId: string, view: string): Promise<string> { return this.once(this.pathOf(imageId), (path) => this.make(view, path)); }

  private once(path: string, make: (path: string) => Promise<void>): Promise<string> {
    const making = this.making.get(path) ?? exists(path).then((isThere) => (isThere ? undefined : make(path))).then(() => path).finally(() => this.making.delete(path));
    this.making.set(path, making);
    return making;
  }

  /** When the image is gone. */
  async forget(imageId: string): Promise<void> { await Promise.all([this.pathOf(imageId), workOf(this.pathOf(imageId))].map(remove)); }

  pathOf(imageId: string): string { return join(this.folder, `${imageId.replace('sha256:', '')}.tar`); }

  private async make(view: string, path: string): Promise<void> {
    const work = workOf(path);
    await remove(work); // of a crash
    makeFolder(work, 0o755);
    try {
      const archive = join(work, 'image.tar');
      const tar = ['tar', '--file', archive, '--numeric-owner', '--xattrs', '--xattrs-include=*'] as const;
      await run([...tar, '--create', '--directory', view, '.'], { timeoutMs, stage: 'archive image', errorId: 'StorageFailed' });
      const missing = targets.filter((target) => !isThere(join(view, target.path)));
      const more = join(work, 'targets');
      makeFolder(more, 0o755);
      await makeTargets(more, missing, 0);
      if (missing.length) await run([...tar, '--append', '--directory', more, ...new Set(missing.map(({ path: target }) => target.slice(1)))], { timeoutMs, stage: 'archive image', errorId: 'StorageFailed' });
      await rename(archive, path);
    } finally {
      await remove(work);
    }
  }
}

/** Where an archive is made. */
function workOf(path: string): string { return `${path}.making`; }

function isThere(path: string): boolean {
  try { lstatSync(path); return true; } catch { return false; }
}

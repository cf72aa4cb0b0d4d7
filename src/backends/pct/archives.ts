// The archives that `pct create` unpacks: one with nothing in it for CTs whose
// rootfs is mounted already, and one for each image that CTs with a volume of
// their own are made from.  Made once, shared by all.
//
//   ROOT/archives/empty.tar.gz, IMAGE-ID.tar
import { lstatSync } from 'node:fs';
import { mkdtemp, rename } from 'node:fs/promises';
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
    if (!(await exists(this.emptyPath))) await writeFileAtomic(this.emptyPath, gzipSync(Buffer.alloc(10_240)), 0o644); // tar's end: two blocks of zeros, in a record of twenty
    return this.emptyPath;
  }

  /** @param view the files of the image */
  async of(imageId: string, view: string): Promise<string> {
    const path = this.pathOf(imageId);
    const making = this.making.get(imageId);
    if (making) return making;
    if (await exists(path)) return path;
    const made = this.make(view, path).finally(() => this.making.delete(imageId));
    this.making.set(imageId, made);
    return made;
  }

  /** When the image is gone. */
  async forget(imageId: string): Promise<void> { await remove(this.pathOf(imageId)); }

  pathOf(imageId: string): string { return join(this.folder, `${imageId.replace('sha256:', '')}.tar`); }

  private async make(view: string, path: string): Promise<string> {
    makeFolder(this.folder, 0o755);
    const work = await mkdtemp(join(this.folder, '.making-'));
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
      return path;
    } finally {
      await remove(work);
    }
  }
}

function isThere(path: string): boolean {
  try { lstatSync(path); return true; } catch { return false; }
}

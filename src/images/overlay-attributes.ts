// Removes overlay's own attributes (trusted.overlay.*) from the layers of images
// before they are mounted. A layer is an archive and may contain any file
// attribute: with trusted.overlay.redirect or .metacopy a file shows the content
// of another file, which is not visible in the layers. An overlay with
// redirect_dir=on also follows them. The attribute opaque, which
// containers-storage writes for an emptied folder, is kept.
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../errors.js';
import { run } from '../host/run.js';
import { perlProgram } from '../installed.js';
import type { StorageLayout } from './layout.js';

const program = perlProgram('overlay-attributes.pl');
const stage = 'check layers';
/** About 10 µs per file. */
const timeoutMs = 600_000;
/** Marks a layer as checked, in its folder; a layer never changes after it was written. */
const mark = 'attributes-checked';

/** llistxattr, lgetxattr, lremovexattr in Linux's system call tables; the newer architectures share one. */
const shared = [12, 9, 15];
const numbers: Partial<Record<NodeJS.Architecture, readonly number[]>> = {
  x64: [195, 192, 198],
  arm64: shared,
  riscv64: shared,
  loong64: shared,
  ppc64: [216, 213, 219],
  s390x: [231, 228, 234],
};

/** Checks each layer once, and marks it as checked. */
export class OverlayAttributes {
  private readonly working = new Map<string, Promise<void>>();

  constructor(private readonly layout: StorageLayout) {}

  /**
   * Resolves when all layers have been checked; for a checked layer this takes one system call. @throws
   * StorageFailed, Unsupported
   */
  async strip(layerIds: readonly string[]): Promise<void> {
    const unmarked = layerIds.filter((id) => !existsSync(this.markOf(id)));
    const fresh = unmarked.filter((id) => !this.working.has(id));
    if (fresh.length > 0) {
      const work = this.stripAll(fresh).finally(() => {
        for (const id of fresh) this.working.delete(id);
      });
      for (const id of fresh) this.working.set(id, work);
    }
    await Promise.all(unmarked.map(async (id) => this.working.get(id)));
  }

  /** By one process for all: its start takes longer than the work on a usual layer. */
  private async stripAll(ids: readonly string[]): Promise<void> {
    const calls = numbers[process.arch];
    if (!calls)
      throw new CrispError('Unsupported', `images are not known to work on ${process.arch}`, { stage });
    await run(['perl', program, ...calls.map(String), ...ids.map((id) => this.layout.diff(id))], {
      timeoutMs,
      stage,
      errorId: 'StorageFailed',
    });
    await Promise.all(ids.map((id) => writeFile(this.markOf(id), '')));
  }

  private markOf(id: string): string {
    return join(this.layout.overlay, id, mark);
  }
}

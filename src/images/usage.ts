// The disk usage of the image store, as counted by du(1). A complete layer never
// changes, so it is counted once; the rest is small and counted when images or
// layers change. rootfs.ts also uses du() for writable layers.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../host/run.js';
import type { StorageLayout } from './layout.js';

interface Count {
  readonly bytes: number;
  readonly inodes: number;
}
const nothing: Count = { bytes: 0, inodes: 0 };
const timeoutMs = 120_000;

/** The usage of the store; layers that are already counted are not counted again. */
export class Usage {
  private readonly layers = new Map<string, Count>();
  private counted: { readonly key: string; readonly count: Promise<Count> } | undefined;

  constructor(private readonly layout: StorageLayout) {}

  /**
   * The mount point, the disk space in bytes, and the number of inodes of the store.
   * @throws ToolTimeout after two minutes
   */
  async read(): Promise<{ mountpoint: string; usedBytes: number; inodesUsed: number }> {
    const key = this.layout.version();
    const counted = this.counted?.key === key ? this.counted : (this.counted = { key, count: this.count() });
    try {
      const { bytes, inodes } = await counted.count;
      return { mountpoint: this.layout.root, usedBytes: bytes, inodesUsed: inodes };
    } catch (error) {
      if (this.counted === counted) this.counted = undefined; // the next caller tries again
      throw error;
    }
  }

  private async count(): Promise<Count> {
    const ids = await readdir(this.layout.overlay).catch(() => [] as string[]);
    const layers = ids.filter((id) => /^[0-9a-f]{64}$/.test(id));
    const inStore = await this.layout.readLayers();
    for (const known of this.layers.keys()) if (!layers.includes(known)) this.layers.delete(known);
    const unknown = layers.filter((id) => !this.layers.has(id));
    const counts = unknown.length ? await du(unknown.map((id) => join(this.layout.overlay, id))) : [];
    const growing: Count[] = [];
    unknown.forEach((id, index) => {
      const count = counts[index] ?? nothing;
      const layer = inStore.get(id);
      if (layer && !layer.flags?.incomplete) this.layers.set(id, count);
      else growing.push(count);
    });
    const [rest = nothing] = await du([this.layout.root], ['--exclude', `${this.layout.overlay}/[0-9a-f]*`]);
    return [...this.layers.values(), ...growing, rest].reduce(
      (sum, count) => ({ bytes: sum.bytes + count.bytes, inodes: sum.inodes + count.inodes }),
      nothing,
    );
  }
}

/** One count per folder, in the same order; undefined for a missing folder. */
export async function du(
  folders: readonly string[],
  options: readonly string[] = [],
): Promise<(Count | undefined)[]> {
  const [bytes, inodes] = await Promise.all(
    [['--block-size=1'], ['--inodes']].map(async (unit) => {
      // A folder may disappear while du reads it: the partial result is sufficient.
      const { stdout } = await run(
        ['du', '--summarize', '--one-file-system', ...unit, ...options, ...folders],
        { timeoutMs, okExitCodes: 'any' },
      );
      return new Map(
        stdout
          .split('\n')
          .map((line) => line.split('\t'))
          .map(([count, folder]) => [folder, Number(count)]),
      );
    }),
  );
  return folders.map((folder) => {
    const used = bytes?.get(folder);
    return used === undefined ? undefined : { bytes: used, inodes: inodes?.get(folder) ?? 0 };
  });
}

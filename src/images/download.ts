// The progress of a pull: the bytes to fetch, from the manifest, and the bytes
// received, from the files that skopeo writes. Called by pull.ts if the caller
// wants the progress.
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import type { StorageLayout } from './layout.js';
import { forThisMachine, parsedIndex } from './nested-index.js';
import { parseReference } from './references.js';

export interface PullProgress {
  /** Bytes of the layers received so far, compressed. */
  readonly bytes: number;
  /** Bytes of the layers that the store does not have; undefined: not known (yet). */
  readonly totalBytes: number | undefined;
}

const manifestSchema = z.object({
  layers: z.array(z.object({ digest: z.string(), size: z.number() })),
});
const everyMs = 200;

/**
 * Reports the progress of a pull until it is stopped.
 * @param folders where layers are written
 * @param inspect fetches a manifest or index ("docker://…") unchanged
 */
export function watchDownload(
  name: string,
  folders: readonly string[],
  layout: StorageLayout,
  inspect: (source: string) => Promise<string>,
  tell: (progress: PullProgress) => void,
): { stop(): void } {
  let totalBytes: number | undefined;
  downloadSize(name, layout, inspect).then(
    (size) => {
      totalBytes = size;
    },
    () => undefined, // the pull itself reports the error
  );
  const timer = setInterval(
    () => tell({ bytes: folders.reduce((sum, folder) => sum + sizeOf(folder), 0), totalBytes }),
    everyMs,
  );
  return { stop: () => clearInterval(timer) };
}

async function downloadSize(
  name: string,
  layout: StorageLayout,
  inspect: (source: string) => Promise<string>,
): Promise<number> {
  let text = await inspect(`docker://${name}`);
  if (/"manifests"\s*:/.test(text)) {
    const chosen = forThisMachine(parsedIndex(name, text).manifests)[0]?.digest ?? '';
    text = await inspect(`docker://${parseReference(name).repository}@${chosen}`);
  }
  const present = new Set(
    [...(await layout.readLayers()).values()].flatMap((layer) => [
      layer['compressed-diff-digest'],
      layer['diff-digest'],
    ]),
  );
  const sizes = new Map(
    manifestSchema.parse(JSON.parse(text)).layers.map(({ digest, size }) => [digest, size]),
  );
  return [...sizes].reduce((sum, [digest, size]) => sum + (present.has(digest) ? 0 : size), 0);
}

/** The size of all files below the folder; a file may disappear meanwhile. */
function sizeOf(folder: string): number {
  try {
    return readdirSync(folder, { withFileTypes: true }).reduce((sum, entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) return sum + sizeOf(path);
      return entry.isFile() ? sum + statSync(path).size : sum;
    }, 0);
  } catch {
    return 0;
  }
}

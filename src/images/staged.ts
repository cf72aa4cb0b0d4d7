// The blobs of pulls over a bad connection. skopeo writes a layer into the store only after
// all layers below it; if the transfer of a lower one fails, the layers above it are lost.
// So after a direct copy has failed, the blobs are fetched into a folder first, where each
// complete blob is kept, and then copied into the store.
//
//   registry ──► ROOT/staged/NAME/sha256/HEX ──► store
//                a file:  a complete blob (skopeo verifies it, flushes it, renames it)
//                a link:  to a layer of the store; skopeo does not fetch an existing blob
//
// A staged copy takes about 1.4 times as long as a direct one, which unpacks layers while
// others are received. The manifest or index is copied unchanged, so that the image has the
// same id and digests either way.  Called by pull.ts.
import { createHash } from 'node:crypto';
import { lstatSync, symlinkSync } from 'node:fs';
import { lstat, unlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { CrispError } from '../errors.js';
import { exists, makeFolder, namesIn, remove } from '../host/files.js';
import type { StorageLayout } from './layout.js';
import { parseReference } from './references.js';
import type { Skopeo, Source } from './skopeo.js';

/** A manifest or index. In the OCI format `mediaType` may be absent. */
const manifestSchema = z.object({
  mediaType: z.string().optional(),
  manifests: z.array(z.unknown()).optional(),
});
const ociType = (kind: 'index' | 'manifest'): string => `application/vnd.oci.image.${kind}.v1+json`;

/** The signatures were checked when the blobs were fetched. */
const policy = JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] });

/** The blobs of incomplete pulls, by image name. */
export class Staged {
  /** @param folder ROOT/staged */
  constructor(
    private readonly folder: string,
    private readonly layout: StorageLayout,
  ) {}

  /** Whether there are blobs of an earlier pull of this name. */
  has(name: string): Promise<boolean> {
    return exists(this.path(name));
  }

  /** The number of complete blobs. */
  async count(name: string): Promise<number> {
    const blobs = join(this.path(name), 'sha256');
    return (await namesIn(blobs)).filter((blob) => lstatSync(join(blobs, blob)).isFile()).length;
  }

  /**
   * Fetches the missing blobs, then copies the image into the store.
   * @param work a folder for files of this attempt
   */
  async copy(skopeo: Skopeo, source: Source, name: string, destination: string, work: string): Promise<void> {
    const folder = this.path(name);
    const [blobs, layout] = [join(folder, 'sha256'), join(work, 'layout')];
    makeFolder(blobs);
    await utimes(folder, new Date(), new Date());
    await this.linkLayers(blobs);
    const content = await skopeo.inspect(source);
    const hex = createHash('sha256').update(content).digest('hex');
    await skopeo.copy(
      { ...source, reference: `docker://${parseReference(name).repository}@sha256:${hex}` },
      `oci:${layout}`,
      ['--preserve-digests', '--remove-signatures', '--dest-shared-blob-dir', folder],
    );
    // skopeo has written the manifest for this machine; the name may belong to an index.
    await writeFile(join(blobs, hex), content);
    const descriptor = {
      mediaType: typeOf(content),
      digest: `sha256:${hex}`,
      size: Buffer.byteLength(content),
    };
    await writeFile(
      join(layout, 'index.json'),
      JSON.stringify({ schemaVersion: 2, manifests: [descriptor] }),
    );
    const policyFile = join(work, 'policy.json');
    await writeFile(policyFile, policy);
    await skopeo.copy(
      { reference: `oci:${layout}` },
      destination,
      ['--src-shared-blob-dir', folder],
      policyFile,
    );
    await this.remove(name);
  }

  /** Removes the blobs of a name; no error if there are none. */
  remove(name: string): Promise<void> {
    return remove(this.path(name));
  }

  /** The folders, and when each was last used (ms since the epoch). */
  async list(): Promise<{ path: string; usedAt: number }[]> {
    const paths = (await namesIn(this.folder)).map((name) => join(this.folder, name));
    return Promise.all(paths.map(async (path) => ({ path, usedAt: (await lstat(path)).mtimeMs })));
  }

  /** Other names may lead to the same folder, which is harmless: blobs are named by their digests. */
  path(name: string): string {
    return join(this.folder, name.replaceAll(/[^\w.-]/g, '_').slice(-200));
  }

  /**
   * Links of earlier attempts are made again: a layer may have been removed, or pulled again under another
   * id.
   */
  private async linkLayers(blobs: string): Promise<void> {
    for (const blob of await namesIn(blobs))
      if (lstatSync(join(blobs, blob)).isSymbolicLink()) await unlink(join(blobs, blob));
    for (const layer of (await this.layout.readLayers()).values())
      for (const digest of [layer['compressed-diff-digest'], layer['diff-digest']]) {
        const hex = /^sha256:([0-9a-f]{64})$/.exec(digest ?? '')?.[1];
        if (hex !== undefined && !layer.flags?.incomplete)
          linkUnlessThere(this.layout.diff(layer.id), join(blobs, hex));
      }
  }
}

function linkUnlessThere(target: string, path: string): void {
  try {
    symlinkSync(target, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

function typeOf(content: string): string {
  try {
    const { mediaType, manifests } = manifestSchema.parse(JSON.parse(content));
    return mediaType ?? ociType(manifests ? 'index' : 'manifest');
  } catch (error) {
    throw new CrispError('ImageCorrupt', 'the manifest is not valid', { cause: error });
  }
}

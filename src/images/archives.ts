// The images of an archive (OCI, or of `docker save`) or an OCI layout folder, and
// their names.  Called by preload.ts and the command line.
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { CrispError } from '../errors.js';
import { readFileIfThere } from '../host/files.js';
import { run } from '../host/run.js';
import { parseReference } from './references.js';

/** index.json of an OCI image layout. */
const indexSchema = z.object({
  manifests: z
    .array(z.object({ annotations: z.record(z.string(), z.string()).nullish() }))
    .max(1000)
    .nullish(),
});
/** manifest.json of an archive of `docker save` (github.com/moby/docker-image-spec). */
const manifestSchema = z.array(z.object({ RepoTags: z.array(z.string()).nullish() })).max(1000);

/** An image of an archive. */
export interface Content {
  readonly name: string;
  /** containers-transports(5) */
  readonly reference: string;
}

/**
 * The images of an archive. An image without a full name in the archive is named after the file.
 * @throws ImageCorrupt
 */
export async function contentsOf(path: string): Promise<Content[]> {
  const index = await textIn(path, 'index.json');
  const manifest = index === undefined ? await textIn(path, 'manifest.json') : undefined;
  return manifest === undefined ? ociContents(path, index ?? '{}') : dockerContents(path, manifest);
}

/** The containers-transports(5) name of an OCI archive or layout folder. */
export async function ociReference(path: string): Promise<string> {
  return `${(await stat(path)).isDirectory() ? 'oci' : 'oci-archive'}:${path}`;
}

async function ociContents(path: string, text: string): Promise<Content[]> {
  const { success, data: index } = indexSchema.safeParse(jsonOf(text));
  if (!success) throw new CrispError('ImageCorrupt', `index.json of ${path} is not valid`);
  const reference = await ociReference(path);
  const manifests = index.manifests ?? [{}];
  return manifests.map(({ annotations }) => {
    const imageName = annotations?.['org.opencontainers.image.ref.name'];
    const whole = annotations?.['io.containerd.image.name'] ?? imageName;
    return {
      name: parseReference(whole?.includes('/') ? whole : nameOf(path)).name,
      reference: manifests.length > 1 && imageName !== undefined ? `${reference}:${imageName}` : reference,
    };
  });
}

function dockerContents(path: string, text: string): Content[] {
  const { success, data: images } = manifestSchema.safeParse(jsonOf(text));
  if (!success) throw new CrispError('ImageCorrupt', `manifest.json of ${path} is not valid`);
  return images.map(({ RepoTags: tags }, index) => ({
    name: parseReference(tags?.[0] ?? nameOf(path)).name,
    reference: `docker-archive:${path}:@${index}`,
  }));
}

/**
 * The path of an archive or layout folder: ./FILE, /FILE, or oci-archive:FILE and the like. undefined: it is
 * the name of an image.
 */
export function archivePath(text: string): string | undefined {
  const [, path] = /^(?:oci|oci-archive|docker-archive):(.+)$/.exec(text) ?? [];
  return path ?? (/^\.{0,2}\//.test(text) ? text : undefined);
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function nameOf(path: string): string {
  const words = path
    .replace(/^.*\//, '')
    .replace(/\.tar$/, '')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, (others) => (others === '.' || others === '_' ? others : '-'))
    .replace(/^[-._]|[-._]$/g, '');
  return `localhost/${words || 'image'}:latest`;
}

/** A file at the top of an archive or layout folder, unparsed; undefined if there is none. */
async function textIn(path: string, file: string): Promise<string | undefined> {
  if ((await stat(path)).isDirectory()) return readFileIfThere(join(path, file));
  // tar -C FOLDER . writes ./index.json
  const { stdout } = await run(
    [
      'tar',
      '--extract',
      '--to-stdout',
      '--file',
      path,
      '--wildcards',
      '--no-wildcards-match-slash',
      file,
      `./${file}`,
    ],
    { timeoutMs: 60_000, okExitCodes: 'any' },
  );
  return stdout || undefined;
}

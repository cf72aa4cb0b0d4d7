// The images of an OCI archive or layout folder, and their names.  Called by
// preload.ts and the command line.
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
/** An image of an archive. */
export interface Content {
  readonly name: string;
  /** org.opencontainers.image.ref.name, which distinguishes it from others. */
  readonly imageName: string | undefined;
}

/** The images of an archive. An image without a full name in the index is named after the file. */
export async function contentsOf(path: string): Promise<Content[]> {
  const text = await indexOf(path);
  const { success, data: index } = indexSchema.safeParse(jsonOf(text));
  if (!success) throw new CrispError('ImageCorrupt', `index.json of ${path} is not valid`);
  return (index.manifests ?? [{}]).map(({ annotations }) => {
    const imageName = annotations?.['org.opencontainers.image.ref.name'];
    const whole = annotations?.['io.containerd.image.name'] ?? imageName;
    return { name: parseReference(whole?.includes('/') ? whole : nameOf(path)).name, imageName };
  });
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

/** index.json unparsed; "{}" if there is none. */
async function indexOf(path: string): Promise<string> {
  if ((await stat(path)).isDirectory()) return (await readFileIfThere(join(path, 'index.json'))) ?? '{}';
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
      'index.json',
      './index.json',
    ],
    { timeoutMs: 60_000, okExitCodes: 'any' },
  );
  return stdout || '{}';
}

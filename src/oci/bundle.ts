// The bundle: the folder that an OCI runtime takes (runtime-spec, bundle.md).
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Spec } from './spec.js';

/** Writes FOLDER/config.json. Not flushed: a crash before the container's record makes the whole folder go. */
export async function writeBundle(folder: string, spec: Spec): Promise<void> {
  await writeFile(join(folder, 'config.json'), JSON.stringify(spec), { mode: 0o600 });
}

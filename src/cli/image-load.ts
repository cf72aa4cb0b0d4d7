// `crisp load`: imports archives and OCI layout folders, each image under its name in
// the archive.
import { resolve } from 'node:path';
import { CrispError } from '../errors.js';
import { exists } from '../host/files.js';
import { archivePath, contentsOf } from '../images/archives.js';
import { type PlaceFlags, withParts } from './services.js';

export async function loadCommand(flags: PlaceFlags, files: readonly string[]): Promise<number> {
  return withParts({ ...flags, makes: true }, async ({ images }) => {
    for (const file of files) {
      const path = resolve(archivePath(file) ?? file);
      if (!(await exists(path)))
        throw new CrispError('ImageNotFound', `${path} does not exist`, { hint: '' });
      for (const { name, reference } of await contentsOf(path)) {
        await images.importArchive(path, name, reference);
        process.stdout.write(`${name}\n`);
      }
    }
    return 0;
  });
}

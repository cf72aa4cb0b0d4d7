// `crisp load`: imports OCI archives and layout folders, each image with its
// name in the index.
import { resolve } from 'node:path';
import { CrispError } from '../errors.js';
import { exists } from '../host/files.js';
import { contentsOf } from '../images/archives.js';
import { type PlaceFlags, withParts } from './services.js';

export async function loadCommand(flags: PlaceFlags, files: readonly string[]): Promise<number> {
  return withParts(flags, async ({ images }) => {
    for (const file of files) {
      const path = resolve(file);
      if (!(await exists(path)))
        throw new CrispError('ImageNotFound', `${path} does not exist`, { hint: '' });
      const contents = await contentsOf(path);
      for (const { name, imageName } of contents) {
        await images.importArchive(path, name, contents.length > 1 ? imageName : undefined);
        process.stdout.write(`${name}\n`);
      }
    }
    return 0;
  });
}

// The image of a command line: from this node, pulled, or imported.
import { resolve } from 'node:path';
import { CrispError } from '../errors.js';
import { exists } from '../host/files.js';
import { looksLikeId } from '../images/references.js';
import type { Images } from '../images/store.js';
import type { Image } from '../shapes/image.js';
import { pullShown } from './image-pull.js';
import { UsageError } from './parse.js';

/**
 * @param pull `missing`, `always` or `never`; it does not apply to archives, which are imported, and to
 * templates of Proxmox
 * @throws UsageError, ImageNotFound, and the errors of a pull
 */
export async function imageOf(
  { images }: { readonly images: Images },
  text: string,
  pull: string,
): Promise<Image> {
  if (!['missing', 'always', 'never'].includes(pull))
    throw new UsageError(`--pull must be missing, always or never, not "${pull}"`);
  if (/^\.{0,2}\//.test(text)) {
    const path = resolve(text);
    if (!(await exists(path)))
      throw new CrispError('ImageNotFound', `${path} does not exist`, {
        hint: 'give an OCI archive (.tar), an OCI layout folder, or an image of `crisp images`',
      });
    return images.importArchive(
      path,
      `localhost/${path
        .replace(/^.*\//, '')
        .replace(/\.tar$/, '')
        .toLowerCase()
        .replace(/[^a-z0-9]+/g, '-')
        .replace(/^-|-$/g, '')}:latest`,
    );
  }
  const found = (await images.find(text)) ?? (await images.findTemplate(text));
  const canBePulled = found ? found.template === undefined && !isIdOf(found, text) : !looksLikeId(text);
  if (canBePulled && (pull === 'always' || (pull === 'missing' && !found))) return pullShown(images, text);
  if (!found)
    throw new CrispError('ImageNotFound', `image ${text} is not on this node`, {
      hint: looksLikeId(text)
        ? '`crisp images` lists the images of this node'
        : `pull it with \`crisp pull ${text}\`, or give an OCI archive: ./FILE.tar`,
    });
  return found;
}

function isIdOf(image: Image, text: string): boolean {
  return looksLikeId(text) && image.id.startsWith(`sha256:${text.replace('sha256:', '')}`);
}

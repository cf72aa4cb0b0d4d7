// The image of a command line: from this node, pulled, or imported.
import { resolve } from 'node:path';
import { CrispError } from '../errors.js';
import { exists } from '../host/files.js';
import { archivePath, contentsOf } from '../images/archives.js';
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
  const archive = archivePath(text);
  if (archive !== undefined) {
    const path = resolve(archive);
    if (!(await exists(path)))
      throw new CrispError('ImageNotFound', `${path} does not exist`, {
        hint: 'name an archive (.tar), an OCI layout folder, or an image of `crisp images`',
      });
    const [content, ...others] = await contentsOf(path);
    if (others.length > 0)
      throw new CrispError('InvalidArgument', `${path} holds ${others.length + 1} images`, {
        hint: `import them with \`crisp load ${text}\`, which prints their names`,
      });
    return images.importArchive(
      path,
      `localhost/${path
        .replace(/^.*\//, '')
        .replace(/\.tar$/, '')
        .toLowerCase()
        .replace(/[^a-z0-9]+/g, '-')
        .replace(/^-|-$/g, '')}:latest`,
      content?.reference,
    );
  }
  const found = (await images.find(text)) ?? (await images.findTemplate(text));
  const canBePulled = found ? found.template === undefined && !isIdOf(found, text) : !looksLikeId(text);
  if (canBePulled && (pull === 'always' || (pull === 'missing' && !found))) return pullShown(images, text);
  if (!found)
    throw new CrispError('ImageNotFound', `image ${text} is not on this node`, {
      hint: looksLikeId(text)
        ? 'see `crisp images` for what is here'
        : `pull it with \`crisp pull ${text}\`, or name an archive: ./FILE.tar`,
    });
  return found;
}

function isIdOf(image: Image, text: string): boolean {
  return looksLikeId(text) && image.id.startsWith(`sha256:${text.replace('sha256:', '')}`);
}

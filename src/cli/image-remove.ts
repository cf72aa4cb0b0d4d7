// `crisp rmi`: removes images that are not used by a container of the daemon
// or of the command line.
import { CrispError, toCrispError } from '../errors.js';
import { imagesOfRecords } from '../records/store.js';
import { imagesOfStandalone } from '../records/standalone.js';
import { open } from './backend.js';
import { type PlaceFlags, type Services, withParts } from './services.js';

/** @returns 1 if one of them could not be removed */
export async function rmiCommand(flags: PlaceFlags, references: readonly string[]): Promise<number> {
  return withParts(flags, async (services) => {
    let exitCode = 0;
    for (const reference of references) {
      try {
        process.stdout.write(`${await removeImage(services, reference)}\n`);
      } catch (error) {
        process.stderr.write(`crisp rmi: ${toCrispError(error).report}\n`);
        exitCode = 1;
      }
    }
    return exitCode;
  });
}

async function removeImage({ config, state, images }: Services, reference: string): Promise<string> {
  const image = await images.find(reference);
  const used = async (): Promise<string[]> => [
    ...(await imagesOfRecords(config.state)),
    ...(await imagesOfStandalone(state)),
  ];
  // An image that is set aside is not found, but removed nevertheless.
  if (!(await images.remove(reference, used)) && !image)
    throw new CrispError('ImageNotFound', `image ${reference} is not on this node`, {
      hint: '`crisp images` lists the images of this node',
    });
  if (image)
    for (const handler of Object.keys(config.handlers))
      await open(config, state, handler).forgetImage?.(image.id);
  return image?.id ?? reference;
}

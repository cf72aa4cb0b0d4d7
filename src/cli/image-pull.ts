// `crisp pull`, and the pull of `crisp run` and `crisp create`.
import { CrispError } from '../errors.js';
import type { Images } from '../images/store.js';
import type { Image } from '../shapes/image.js';
import { PullDisplay } from './pull-display.js';
import { type PlaceFlags, withParts } from './services.js';
import { Signals } from './signals.js';

export async function pullCommand(flags: PlaceFlags, references: readonly string[]): Promise<number> {
  return withParts({ ...flags, makes: true }, async ({ images }) => {
    for (const reference of references) process.stdout.write(`${(await pullShown(images, reference)).id}\n`);
    return 0;
  });
}

/**
 * Pulls an image and shows the progress on stderr. A signal ends it, and only finished layers are kept.
 * @throws the errors of Images.pull()
 */
export async function pullShown(images: Images, reference: string): Promise<Image> {
  const stop = new AbortController();
  const signals = new Signals();
  signals.hold();
  signals.forward(() => stop.abort());
  const display = new PullDisplay(process.stderr, reference);
  try {
    const image = await images.pull(reference, undefined, stop.signal, (progress) => display.show(progress));
    display.end(`pulled ${reference}`);
    return image;
  } catch (error) {
    display.end();
    throw stop.signal.aborted
      ? new CrispError('Cancelled', `the pull of ${reference} was interrupted`, {
          hint: 'pull it again: finished layers are kept for half an hour',
        })
      : error;
  } finally {
    // The pull still cleans up after it was interrupted, and another signal must not end that: timeout(1) sends two.
    if (!stop.signal.aborted) signals.release();
  }
}

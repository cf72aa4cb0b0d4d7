// `crisp images`.
import { bytes, printJson, table } from './output.js';
import { type PlaceFlags, withParts } from './services.js';

export interface ImagesFlags extends PlaceFlags {
  readonly json: boolean;
  readonly quiet: boolean;
}

export async function imagesCommand(flags: ImagesFlags): Promise<number> {
  return withParts(flags, async ({ images }) => {
    const list = await images.list();
    if (flags.quiet) process.stdout.write(list.map(({ id }) => `${id}\n`).join(''));
    else if (flags.json)
      printJson(
        list.map(({ id, tags, digests, sizeBytes, pinned }) => ({ id, tags, digests, sizeBytes, pinned })),
      );
    else
      process.stdout.write(
        table(
          ['NAME', 'ID', 'SIZE'],
          list.flatMap(({ id, tags, digests, sizeBytes }) => {
            const names = tags.length > 0 ? tags : digests.slice(0, 1);
            return (names.length > 0 ? names : ['(no name)']).map((name) => [
              name,
              id.replace('sha256:', '').slice(0, 12),
              bytes(sizeBytes),
            ]);
          }),
        ),
      );
    return 0;
  });
}

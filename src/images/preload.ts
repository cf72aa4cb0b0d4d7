// preload_dir, for nodes without a registry: each OCI archive of a folder is
// imported once, at the start, and its images are pinned.  Called by
// store.ts.
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { CrispError, toCrispError } from '../errors.js';
import { isAbsent, readFileIfThere, writeFileAtomic } from '../host/files.js';
import { log } from '../log.js';
import { whyNot } from '../set-aside.js';
import { contentsOf } from './archives.js';
import type { Image } from '../shapes/image.js';

interface Importer {
  find(name: string): Promise<Image | undefined>;
  importArchive(path: string, name: string, source?: string): Promise<Image>;
}

/** An imported archive: a different size or time means a different archive. */
const noteSchema = z.object({ version: z.string(), names: z.array(z.string()) });
type Note = Readonly<z.infer<typeof noteSchema>>;
const notesSchema = z.record(z.string(), noteSchema);

/** Imports the archives of preload_dir, and keeps a list of those that were imported. */
export class Preload {
  /** The images that are pinned because they are in an archive. */
  readonly names = new Set<string>();

  /** @param notes the file with the list of imported archives */
  constructor(
    private readonly notes: string,
    private readonly images: Importer,
  ) {}

  /**
   * An archive that cannot be imported is logged, and the node starts without it. @throws InvalidConfigFile
   * if the folder does not exist
   */
  async read(folder: string): Promise<void> {
    const known = notesOf((await readFileIfThere(this.notes)) ?? '{}', this.notes);
    const now: Record<string, Note> = {};
    for (const file of (await archivesIn(folder)).sort()) {
      try {
        const note = (now[file] = await this.imported(join(folder, file), known[file]));
        for (const name of note.names) this.names.add(name);
      } catch (error) {
        log.error({ archive: join(folder, file), error: toCrispError(error).report }, 'archive not imported');
      }
    }
    await writeFileAtomic(this.notes, JSON.stringify(now));
  }

  private async imported(path: string, known: Note | undefined): Promise<Note> {
    const { size, mtimeMs } = await stat(path);
    const version = `${size}-${mtimeMs}`;
    if (known?.version === version) {
      const present = await Promise.all(known.names.map((name) => this.images.find(name)));
      if (present.every((image) => image)) return known;
    }
    const contents = await contentsOf(path);
    for (const { name, reference } of contents) {
      const { id } = await this.images.importArchive(path, name, reference);
      log.info({ archive: path, image: name, id }, 'archive imported');
    }
    return { version, names: contents.map(({ name }) => name) };
  }
}

/** Empty if the file cannot be read: the archives are then imported again. */
function notesOf(text: string, file: string): Record<string, Note> {
  try {
    return notesSchema.parse(JSON.parse(text));
  } catch (error) {
    log.error(
      { file, reason: whyNot(error) },
      'list of imported archives not readable; they are imported again',
    );
    return {};
  }
}

async function archivesIn(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).filter((name) => name.endsWith('.tar'));
  } catch (error) {
    if (!isAbsent(error)) throw error;
    throw new CrispError('InvalidConfigFile', `images.preload_dir: ${folder} does not exist`, {
      hint: 'create the folder, or remove the key',
    });
  }
}

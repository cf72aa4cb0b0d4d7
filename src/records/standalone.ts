// The records of the containers that the command line makes without a daemon.
// Written by cli/, and read by the daemon for one question: which images they
// use.  One file per container; several commands may run at once, so a name is
// taken by making its file, and what is alive is never written but asked.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import type { ContainerRef } from '../backends/backend.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import type { Signal__Output as Signal } from '../cri/generated/runtime/v1/Signal.js';
import { CrispError } from '../errors.js';
import { makeFolder, namesIn, readFileIfThere, remove, writeFileAtomic } from '../host/files.js';
import { log } from '../log.js';

export const standaloneRecordSchema = z.object({
  version: z.literal(1),
  id: z.string().min(1),
  name: z.string(),
  /** As it was asked for: a reference, an archive, a folder. */
  image: z.string(),
  /** Empty: a folder. */
  imageId: z.string(),
  backend: z.string(),
  rule: z.string(),
  /** false while it is being made; what a crash leaves so is only good to be deleted. */
  complete: z.boolean(),
  createdAt: z.string().regex(/^\d+$/),
  startedAt: z.string().optional(),
  folder: z.string(),
  logPath: z.string(),
  stopSignal: z.custom<Signal>((value) => typeof value === 'string'),
  terminal: z.boolean(),
  plan: z.custom<SandboxPlan>((value) => typeof value === 'object' && value !== null),
  notHonoured: z.array(z.string()),
  backendState: z.unknown().optional(),
});
export type StandaloneRecord = z.infer<typeof standaloneRecordSchema>;

export class StandaloneRecords {
  constructor(private readonly stateFolder: string) {}

  /** All of them, oldest first, as they are on disk now: other commands write too. */
  async all(): Promise<StandaloneRecord[]> {
    return (await this.read(standaloneRecordSchema)).sort((one, other) =>
      BigInt(one.createdAt) < BigInt(other.createdAt) ? -1 : 1,
    );
  }

  /** What the schema takes of each record; one that it cannot read is left where it is, for the version of crisp that wrote it. */
  async read<T>(schema: z.ZodType<T>): Promise<T[]> {
    const read = await Promise.all(
      (await namesIn(this.folder))
        .filter((file) => /^[^.].*\.json$/.test(file))
        .map(async (file) => {
          const path = join(this.folder, file);
          const text = await readFileIfThere(path);
          if (text === undefined) return [];
          try {
            return [schema.parse(JSON.parse(text))];
          } catch {
            log.warn(
              { path },
              'passed over: no record of a standalone container that this version of crisp can read',
            );
            return [];
          }
        }),
    );
    return read.flat();
  }

  /** By id, unique beginning of an id, or name. @throws ContainerNotFound, InvalidArgument when several fit */
  async find(text: string): Promise<StandaloneRecord> {
    const all = await this.all();
    const exact = all.find((record) => record.id === text || record.name === text);
    const fitting = exact ? [exact] : text === '' ? [] : all.filter((record) => record.id.startsWith(text));
    if (fitting.length > 1)
      throw new CrispError(
        'InvalidArgument',
        `"${text}" fits ${fitting.length} containers: ${fitting.map((record) => record.id.slice(0, 12)).join(', ')}`,
      );
    if (!fitting[0])
      throw new CrispError('ContainerNotFound', `there is no standalone container "${text}"`, {
        hint: 'list them with `crisp list`; containers of pods are listed by `crictl ps -a`',
      });
    return fitting[0];
  }

  async put(record: StandaloneRecord): Promise<StandaloneRecord> {
    makeFolder(this.folder);
    await writeFileAtomic(join(this.folder, `${record.id}.json`), JSON.stringify(record));
    return record;
  }

  /** @throws NameInUse */
  async takeName(name: string, id: string): Promise<void> {
    makeFolder(join(this.stateFolder, 'names'));
    try {
      await writeFile(this.namePath(name), id, { flag: 'wx' });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      throw new CrispError('NameInUse', `a container named ${name} exists already`, {
        hint: `remove it with \`crisp delete ${name}\`, or take another name`,
      });
    }
  }

  /** Forgets a container and frees its name: the last step of its removal. */
  async delete(record: StandaloneRecord): Promise<void> {
    if ((await readFileIfThere(this.namePath(record.name))) === record.id)
      await remove(this.namePath(record.name));
    await remove(join(this.folder, `${record.id}.json`));
  }

  private get folder(): string {
    return join(this.stateFolder, 'containers');
  }
  private namePath(name: string): string {
    return join(this.stateFolder, 'names', name);
  }
}

export function refOf(record: StandaloneRecord): ContainerRef {
  return { id: record.id, folder: record.folder, logPath: record.logPath, state: record.backendState };
}

/** The ids of the images that standalone containers use, so that they are not removed under them; also of records that are otherwise unreadable. */
export async function imagesOfStandalone(stateFolder: string): Promise<string[]> {
  const records = await new StandaloneRecords(stateFolder).read(
    standaloneRecordSchema.pick({ imageId: true }),
  );
  return records.map((record) => record.imageId).filter(Boolean);
}

// The records of the containers that the command line makes without a daemon.
// Written by cli/, and read by the daemon only for the images in use. One file
// per container; several commands may run at once, so a name is taken by
// creating its file, and the state of a container is never written but read
// from its backend.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import type { ContainerRef } from '../backends/backend.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import type { Signal__Output as Signal } from '../cri/generated/runtime/v1/Signal.js';
import { CrispError } from '../errors.js';
import { exists, makeFolder, namesIn, readFileIfThere, remove, writeFileAtomic } from '../host/files.js';
import { namespaceFiles } from '../pod/namespaces.js';
import { setAside, whyNot } from '../set-aside.js';
import { bundleOf, podOf } from './placed.js';
import { fromJson, idSchema, storedPlanSchema } from './stored.js';

/** The file of a standalone container's record. Times are nanoseconds since the epoch, as decimal text. */
export const standaloneRecordSchema = z.object({
  version: z.literal(1),
  id: idSchema,
  /** Also the name of a file: see takeName. */
  name: z.string().regex(/^[a-zA-Z0-9][\w.-]{0,62}$/),
  /** As given by the user: a reference, an archive, a folder. */
  image: z.string(),
  /** Empty: a folder. */
  imageId: z.string(),
  handler: z.string(),
  rule: z.string(),
  /** false while it is being made; after a crash such a container can only be deleted. */
  complete: z.boolean(),
  createdAt: z.string().regex(/^\d{1,20}$/),
  startedAt: z.string().optional(),
  stopSignal: z.custom<Signal>((value) => typeof value === 'string'),
  terminal: z.boolean(),
  /** Made with --interactive. */
  stdin: z.boolean().optional(),
  /** It ends with no command beside it that would remove it (`run --rm`, detached): a later one does. */
  removeAtEnd: z.boolean().optional(),
  plan: storedPlanSchema.extend({
    name: z.string(),
    namespace: z.string(),
    labels: z.record(z.string(), z.string()),
    annotations: z.record(z.string(), z.string()),
    hostname: z.string().optional(),
  }),
  /** On the pod network: its addresses there. */
  addresses: z.array(z.string()).optional(),
  /** As requested (--publish). */
  ports: z.array(z.string()).optional(),
  notHonoured: z.array(z.string()),
  /** The result of backend.startSandbox(). */
  podState: z.unknown().optional(),
  backendState: z.unknown().optional(),
});
type Stored = z.infer<typeof standaloneRecordSchema>;
export type StandaloneRecord = Omit<Stored, 'plan'> & { plan: SandboxPlan; folder: string; logPath: string };

/** The records in one state folder, read from disk by each call. */
export class StandaloneRecords {
  /** @param root the folder of logs: ROOT/logs/ID.log */
  constructor(
    private readonly stateFolder: string,
    private readonly root: string,
  ) {}

  /** All of them, oldest first, as they are on disk now: other commands write too. */
  async all(): Promise<StandaloneRecord[]> {
    const read = await this.read((value) => this.placed(standaloneRecordSchema.parse(value)));
    return read.sort((one, other) => (BigInt(one.createdAt) < BigInt(other.createdAt) ? -1 : 1));
  }

  /**
   * The results of `take` for each record; a record for which it throws is kept, for the version of crisp
   * that wrote it.
   */
  async read<T>(take: (value: unknown) => T): Promise<T[]> {
    const read = await Promise.all(
      (await namesIn(this.folder))
        .filter((file) => /^[^.].*\.json$/.test(file))
        .map(async (file) => {
          const path = join(this.folder, file);
          try {
            const text = await readFileIfThere(path);
            if (text === undefined) return [];
            const value = fromJson(text);
            if ((value as { id?: unknown } | null)?.id !== file.slice(0, -'.json'.length))
              throw new Error('its file name does not match its id');
            return [take(value)];
          } catch (error) {
            setAside.add('standalone record', path, whyNot(error));
            return [];
          }
        }),
    );
    return read.flat();
  }

  /** Its paths are made from its id. */
  private placed(stored: Stored): StandaloneRecord {
    const { id, plan } = stored;
    if (!['/system.slice', `/crisp-cli/${id}`].includes(plan.cgroupParent))
      throw new Error(`plan.cgroupParent: ${plan.cgroupParent} is not its own`);
    const folder = podOf(this.stateFolder, id);
    const pinned = namespaceFiles(join(folder, 'ns'));
    return {
      ...stored,
      folder: bundleOf(this.stateFolder, id),
      logPath: this.logOf(id),
      plan: {
        ...plan,
        id,
        uid: id,
        attempt: 0,
        hostname: plan.hostname,
        folder,
        namespaces: Object.fromEntries(Object.entries(pinned).filter(([kind]) => kind in plan.namespaces)),
      },
    };
  }

  /** The path of a container's log: ROOT/logs/ID.log. */
  logOf(id: string): string {
    return join(this.root, 'logs', `${id}.log`);
  }

  /**
   * By id, unique prefix of an id, or name.
   * @throws ContainerNotFound, RecordUnreadable; InvalidArgument if several match
   */
  async find(text: string): Promise<StandaloneRecord> {
    const all = await this.all();
    const exact = all.find((record) => record.id === text || record.name === text);
    const fitting = exact ? [exact] : text === '' ? [] : all.filter((record) => record.id.startsWith(text));
    if (fitting.length > 1)
      throw new CrispError(
        'InvalidArgument',
        `"${text}" matches ${fitting.length} containers: ${fitting.map((record) => record.id.slice(0, 12)).join(', ')}`,
      );
    if (!fitting[0] && /^[0-9a-f]{64}$/.test(text) && (await exists(join(this.folder, `${text}.json`))))
      throw new CrispError(
        'RecordUnreadable',
        `this version of crisp cannot read ${join(this.folder, `${text}.json`)}`,
      );
    if (!fitting[0])
      throw new CrispError('ContainerNotFound', `there is no standalone container "${text}"`, {
        hint: 'list them with `crisp list`; containers of pods are listed by `crictl ps -a`',
      });
    return fitting[0];
  }

  /** Writes a record, replacing an earlier one. @returns the record @throws DiskFull, StorageFailed */
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
        hint: `remove it with \`crisp delete ${name}\`, or choose another name`,
      });
    }
  }

  /** Removes the record of a container and frees its name: the last step of its removal. */
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

/** The container of a record, for its backend. */
export function refOf(record: StandaloneRecord): ContainerRef {
  return { id: record.id, folder: record.folder, logPath: record.logPath, state: record.backendState };
}

/** The ids of all standalone containers, which the daemon must not remove as its own leftovers. */
export async function idsOfStandalone(stateFolder: string): Promise<string[]> {
  return (await namesIn(join(stateFolder, 'containers'))).flatMap((file) =>
    /^[0-9a-f]{64}\.json$/.test(file) ? [file.slice(0, 64)] : [],
  );
}

/**
 * The ids of the images that standalone containers use, so that they are not removed; also of records that
 * are otherwise unreadable.
 */
export async function imagesOfStandalone(stateFolder: string): Promise<string[]> {
  const schema = standaloneRecordSchema.pick({ imageId: true });
  const records = await new StandaloneRecords(stateFolder, '').read((value) => schema.parse(value));
  return records.map((record) => record.imageId).filter(Boolean);
}

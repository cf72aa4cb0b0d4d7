// The templates of Proxmox VE as images: archives of complete guests on its
// storages, which belong to the operator. A pull checks that the template
// exists, a removal forgets it; its file is never changed.
//
//   pve/STORAGE:vztmpl/NAME            as in pct
//   pve/STORAGE/vztmpl/NAME[:latest]   the same for the kubelet, which accepts
//                                      a colon only before a tag
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import * as z from 'zod';
import { CrispError } from '../errors.js';
import { isAbsent, readFileIfThere, writeFileAtomic } from '../host/files.js';
import { run } from '../host/run.js';
import { log } from '../log.js';
import { setAside, whyNot } from '../set-aside.js';
import type { Image } from '../shapes/image.js';

const maxLength = 640;
/** The file extensions that pct unpacks (VZTMPL_EXT_RE of PVE::Storage). */
const reference =
  /^pve\/([a-z][a-z0-9._-]*)[:/]vztmpl\/([\w.+-]+\.tar(?:\.(?:gz|xz|zst|bz2))?)(?::latest)?$/i;
/** Includes Perl's start and the spin-up of a disk. */
const timeoutMs = 60_000;

const schema = z.object({ volume: z.string().max(maxLength), path: z.string() });
type Known = z.infer<typeof schema>;

/** The volume id of an image reference ("local:vztmpl/debian.tar.zst"); undefined: it is not a template. */
export function templateOf(text: string): string | undefined {
  const [, storage, name] = text.length > maxLength ? [] : (reference.exec(text) ?? []);
  return storage && name ? `${storage}:vztmpl/${name}` : undefined;
}

/** The list of pulled templates. */
export class Templates {
  private loaded: readonly Known[] | undefined;

  /** @param file the list of pulled templates @param pvesm the program */
  constructor(
    private readonly file: string,
    private readonly pvesm: string,
  ) {}

  /** All pulled templates as images. A template whose file cannot be read is logged and left out. */
  async list(): Promise<Image[]> {
    const images = (await this.known()).map((known) =>
      describe(known).catch((error: unknown) => {
        log.warn({ err: error, template: known.volume }, 'template set aside');
        return undefined;
      }),
    );
    return (await Promise.all(images)).filter((image) => image !== undefined);
  }

  /** @throws NotFoundInRegistry, StorageFailed */
  async pull(volume: string): Promise<Image> {
    const { image, known } = await this.lookUp(volume);
    await this.write([...(await this.known()).filter((one) => one.volume !== volume), known]);
    return image;
  }

  /** Finds a template, pulled or not. @throws NotFoundInRegistry, StorageFailed */
  async find(volume: string): Promise<Image> {
    return (await this.lookUp(volume)).image;
  }

  private async lookUp(volume: string): Promise<{ image: Image; known: Known }> {
    const { stdout } = await run([this.pvesm, 'path', volume], {
      timeoutMs,
      stage: 'find template',
      errorId: 'StorageFailed',
    });
    const known = { volume, path: stdout.trim() };
    const image = await describe(known);
    if (!image)
      throw new CrispError('NotFoundInRegistry', `there is no template ${volume} on this node`, {
        stage: 'find template',
        tool: 'pvesm',
        hint: '`pveam list STORAGE` lists the templates of a storage, `pveam download` gets one',
      });
    return { image, known };
  }

  /** Removes a template from the list; the file of the template is not changed. */
  async forget(volume: string): Promise<void> {
    await this.write((await this.known()).filter((one) => one.volume !== volume));
  }

  /** Read once: only this process writes it. Invalid entries are left out, and dropped by the next write. */
  private async known(): Promise<readonly Known[]> {
    return (this.loaded ??= await this.load());
  }

  private async load(): Promise<readonly Known[]> {
    try {
      const whole = z.array(z.unknown()).parse(JSON.parse((await readFileIfThere(this.file)) ?? '[]'));
      return whole.flatMap((entry, index) => {
        const { data, error } = schema.safeParse(entry);
        if (!data) setAside.add('file', `${this.file} entry ${index}`, whyNot(error));
        return data ? [data] : [];
      });
    } catch (error) {
      setAside.add('file', this.file, whyNot(error));
      return [];
    }
  }

  private async write(known: readonly Known[]): Promise<void> {
    await writeFileAtomic(this.file, JSON.stringify(known));
    this.loaded = known;
  }
}

/**
 * undefined: its file does not exist any more. A guest is halted with systemd's signal (SIGRTMIN+3), and
 * boots if no command is given.
 */
async function describe({ volume, path }: Known): Promise<Image | undefined> {
  try {
    const { size } = await stat(path);
    return {
      id: `sha256:${createHash('sha256').update(volume).digest('hex')}`,
      tags: [`pve/${volume}`],
      digests: [],
      sizeBytes: size,
      user: {},
      pinned: true,
      template: volume,
      config: { Cmd: ['/sbin/init'], StopSignal: 'SIGRTMIN+3' },
    };
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

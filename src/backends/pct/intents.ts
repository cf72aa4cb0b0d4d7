// Notes of the CTs that pct is about to make or destroy for crisp: while pct is
// running, the configuration of a CT is one line, "lock: create" or "lock:
// destroyed", without the tag and the mark of its owner. If pct is interrupted,
// only that line is left, and only this note shows that crisp may remove the CT.
//
//   ROOT/intents/VMID.json     kept over a reboot, like the CT
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import * as z from 'zod';
import { makeFolder, namesIn, readFileIfThere, remove, writeFileAtomic } from '../../host/files.js';
import { isContainerId } from '../../shapes/id.js';
import { setAside, whyNot } from '../../set-aside.js';

const schema = z.object({
  verb: z.enum(['create', 'destroy']),
  vmid: z.number().int().positive(),
  containerId: z.string().refine(isContainerId, 'not an id'),
  owner: z.string(),
});
export type Intent = z.infer<typeof schema> & { readonly notedAtMs: number };

/** The notes of one owner. */
export class Intents {
  private readonly folder: string;

  /** @param owner as in the mark of a CT: only its own intents are used */
  constructor(
    root: string,
    private readonly owner: string,
  ) {
    this.folder = join(root, 'intents');
  }

  /** Writes a note and flushes it to disk: to be called before pct runs. @throws DiskFull, StorageFailed */
  async note(verb: Intent['verb'], vmid: number, containerId: string): Promise<void> {
    makeFolder(this.folder);
    await writeFileAtomic(
      this.path(vmid),
      JSON.stringify({ verb, vmid, containerId, owner: this.owner } satisfies z.infer<typeof schema>),
    );
  }

  /** Removes the note of a CT; no effect if there is none. */
  async forget(vmid: number): Promise<void> {
    await remove(this.path(vmid));
  }

  /** The notes of this owner. A note that cannot be read is set aside. */
  async all(): Promise<Intent[]> {
    const names = (await namesIn(this.folder)).filter((name) => /^[1-9]\d*\.json$/.test(name));
    const read = await Promise.all(
      names.map(async (name) => {
        const path = join(this.folder, name);
        try {
          const intent = schema.parse(JSON.parse(await readFile(path, 'utf8')));
          if (`${intent.vmid}.json` !== name) throw new Error('its file name does not match its guest');
          return intent.owner === this.owner ? [{ ...intent, notedAtMs: (await stat(path)).mtimeMs }] : [];
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ENOENT') setAside.add('file', path, whyNot(error));
          return [];
        }
      }),
    );
    return read.flat();
  }

  private path(vmid: number): string {
    return join(this.folder, `${vmid}.json`);
  }
}

/**
 * Whether any pct is making or destroying the guest on this node, by its arguments or the title of its
 * worker (PVE::RESTEnvironment: "task UPID:NODE:PID:…:vzdestroy:VMID:USER:").
 */
export async function isPctAtWork(vmid: number): Promise<boolean> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      const words = ((await readFileIfThere(`/proc/${pid}/cmdline`).catch(() => undefined)) ?? '').split(
        '\0',
      );
      if (new RegExp(`^task UPID:[^ ]*:vz(create|destroy|restore):${vmid}:`).test(words[0] ?? ''))
        return true;
      const at = words.findIndex((word) => basename(word) === 'pct');
      return (
        at >= 0 &&
        ['create', 'destroy', 'restore'].includes(words[at + 1] ?? '') &&
        words[at + 2] === String(vmid)
      );
    }),
  );
  return found.includes(true);
}

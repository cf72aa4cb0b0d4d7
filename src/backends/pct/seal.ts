// The seal of the recovery label in a CT's notes: users who may edit a CT's
// options can write anything there, but do not have the key. It includes the
// identity of the CT, so that a label is not valid in another CT.
//
//   ROOT/notes.key    made once for a node, for root only; kept over a reboot
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { linkSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { isAbsent, makeFolder } from '../../host/files.js';
import type { SealedLabel, Mark } from './guest-config.js';

const keyBytes = 32;

/** Makes and checks seals: an HMAC-SHA256 with a key of the node. */
export class Seal {
  private key: Buffer | undefined;
  private readonly file: string;

  constructor(root: string) {
    this.file = join(root, 'notes.key');
  }

  /** The sealed label for a CT with this mark. */
  on(mark: Mark, text: string): SealedLabel {
    return { text, seal: this.mac(mark, text).toString('hex') };
  }

  /** Whether the seal was made on this node for this mark and this text; compared in constant time. */
  fits(mark: Mark, { text, seal }: SealedLabel): boolean {
    const [wanted, given] = [this.mac(mark, text), Buffer.from(seal, 'hex')];
    return given.length === wanted.length && timingSafeEqual(given, wanted);
  }

  private mac({ owner, containerId, vmid }: Mark, text: string): Buffer {
    return createHmac('sha256', (this.key ??= this.readKey()))
      .update(JSON.stringify([owner, containerId, vmid, text]))
      .digest();
  }

  private readKey(): Buffer {
    try {
      const key = readFileSync(this.file);
      if (key.length === keyBytes) return key;
      rmSync(this.file); // incomplete after a crash: labels with its seal are not valid any more
    } catch (error) {
      if (!isAbsent(error)) throw error;
    }
    makeFolder(dirname(this.file), 0o711);
    const made = `${this.file}.${process.pid}`;
    writeFileSync(made, randomBytes(keyBytes), { mode: 0o600 });
    try {
      linkSync(made, this.file); // the daemon and a command may create it at the same time
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    } finally {
      rmSync(made);
    }
    return readFileSync(this.file);
  }
}

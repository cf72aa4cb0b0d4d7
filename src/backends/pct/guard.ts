// The guard rail: `pct destroy` cannot be undone, so before crisp changes a CT
// it reads the CT's own configuration and continues only if four conditions are
// met:
//
//   1. the VMID is in lxc.vmid_range
//   2. the CT has lxc.tag
//   3. its description has crisp's owner mark, made for this VMID
//   4. and names the container of the caller
//
// crisp's records are not used here: they may be wrong or tampered with.
// Reading a file of pmxcfs takes microseconds, so nothing is cached.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../../errors.js';
import { readFileIfThere } from '../../host/files.js';
import { setAside, whyNot } from '../../set-aside.js';
import { inCluster } from './cluster.js';
import { ownerKey, parseGuestConfig, type GuestConfig } from './guest-config.js';

export interface GuardOptions {
  readonly pveFolder: string;
  readonly range: { readonly first: number; readonly last: number };
  readonly tag: string;
  readonly owner: string;
}

/** Checks the four conditions on each call. */
export class Guard {
  constructor(private readonly options: GuardOptions) {}

  /**
   * The configuration of the CT that is this container; undefined: this node has no CT with this
   * id.
   * @throws ForeignGuest for every other CT; NoQuorum if it cannot be determined
   */
  async owned(vmid: number, containerId: string): Promise<GuestConfig | undefined> {
    if (!this.inRange(vmid))
      throw this.foreign(
        vmid,
        `it is outside lxc.vmid_range (${this.options.range.first} to ${this.options.range.last})`,
      );
    const text = await inCluster(this.options.pveFolder, (pve) =>
      readFileIfThere(join(pve, 'lxc', `${vmid}.conf`)),
    );
    if (text === undefined) return undefined;
    const config = parseGuestConfig(text);
    const why = this.whyForeign(vmid, config);
    if (why) throw this.foreign(vmid, why);
    if (config.mark?.containerId !== containerId)
      throw this.foreign(vmid, `it is container ${config.mark?.containerId}, not ${containerId}`);
    return config;
  }

  /** All CTs of this node that belong to crisp, by VMID. @throws NoQuorum */
  async all(): Promise<ReadonlyMap<number, GuestConfig>> {
    const found = new Map<number, GuestConfig>();
    await inCluster(this.options.pveFolder, async (pve) =>
      Promise.all(
        (await readdir(join(pve, 'lxc'))).map(async (name) => {
          const vmid = Number(/^([1-9]\d*)\.conf$/.exec(name)?.[1] ?? NaN);
          if (!this.inRange(vmid)) return;
          const text = await readFileIfThere(join(pve, 'lxc', name)).catch((error: unknown) => {
            setAside.add('CT', String(vmid), `its configuration cannot be read: ${whyNot(error)}`);
            return undefined;
          });
          if (text === undefined) return; // destroyed meanwhile
          const config = parseGuestConfig(text);
          const why = this.whyForeign(vmid, config);
          if (why === undefined) found.set(vmid, config);
          else if (this.saysOurs(config)) setAside.add('CT', String(vmid), why);
        }),
      ),
    );
    return found;
  }

  /**
   * Whether an interrupted pct has left only its lock line of this CT. The configuration does not
   * show its owner: see intents.ts.
   * @throws NoQuorum
   */
  async isRemnant(vmid: number): Promise<boolean> {
    if (!this.inRange(vmid)) return false;
    const text = await inCluster(this.options.pveFolder, (pve) =>
      readFileIfThere(join(pve, 'lxc', `${vmid}.conf`)),
    );
    return text !== undefined && /^\s*lock:\s*(create|destroyed)\s*$/.test(text);
  }

  private inRange(vmid: number): boolean {
    const { first, last } = this.options.range;
    return Number.isInteger(vmid) && vmid >= first && vmid <= last;
  }

  private whyForeign(vmid: number, { tags, mark }: GuestConfig): string | undefined {
    if (!tags.includes(this.options.tag)) return `it does not have the tag "${this.options.tag}"`;
    if (!mark) return 'its description has no valid mark of crisp';
    if (mark.owner !== this.options.owner) return `it belongs to "${mark.owner}"`;
    if (mark.vmid !== String(vmid))
      return `its mark is for guest ${mark.vmid}, so it seems to be a clone of that`;
    return undefined;
  }

  /** Whether a CT has crisp's tag and owner line: it was made by crisp, or its mark is forged. */
  private saysOurs({ tags, description }: GuestConfig): boolean {
    return (
      tags.includes(this.options.tag) &&
      description.split('\n').some((line) => line.trimEnd() === `${ownerKey}: ${this.options.owner}`)
    );
  }

  private foreign(vmid: number, why: string): CrispError {
    return new CrispError('ForeignGuest', `guest ${vmid} is not changed: ${why}`, { stage: 'guard rail' });
  }
}

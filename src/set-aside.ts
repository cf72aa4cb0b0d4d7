// Items that crisp found, cannot read and therefore does not change: records of another
// version, notes of CTs that are not its own, damaged images. Such an item does not affect
// others; it is logged once, and shown in `crisp status` and in the verbose Status of the
// CRI.
import { log } from './log.js';

export interface SetAside {
  readonly kind: 'container record' | 'pod record' | 'standalone record' | 'lease' | 'CT' | 'file' | 'image';
  /** Its path, its VMID, or its id and names. */
  readonly name: string;
  readonly reason: string;
}

class Things {
  private readonly things = new Map<string, SetAside>();

  add(kind: SetAside['kind'], name: string, reason: string): void {
    const known = this.things.get(name);
    this.things.set(name, { kind, name, reason });
    if (known?.reason !== reason) log.error({ kind, name, reason }, 'set aside: left unchanged');
  }

  /** Replaces the items of a kind: for those that can be repaired while crisp runs. */
  replace(kind: SetAside['kind'], now: readonly Omit<SetAside, 'kind'>[]): void {
    for (const [name, thing] of this.things)
      if (thing.kind === kind && !now.some((one) => one.name === name)) this.things.delete(name);
    for (const { name, reason } of now) this.add(kind, name, reason);
  }

  all(): SetAside[] {
    return [...this.things.values()];
  }
}

export const setAside = new Things();

/** The reason why a value is invalid, in one line. */
export function whyNot(error: unknown): string {
  const { issues } = error as { issues?: readonly { path: readonly PropertyKey[]; message: string }[] };
  const text = issues
    ? issues.map(({ path, message }) => `${path.map(String).join('.') || '(top)'}: ${message}`).join('; ')
    : (error as Error).message;
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}

// What crisp found, cannot read and therefore leaves alone: records of another
// version, notes of CTs that are not its own, damaged images.  One such thing never stops the
// others; it is logged once, and an operator sees it in `crisp status` and in the
// verbose Status of the CRI.
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
    if (known?.reason !== reason) log.error({ kind, name, reason }, 'set aside: it is left as it is');
  }

  /** Sets aside these of a kind and no others: for what can be mended while we run. */
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

/** Why something is not of its shape, in one line. */
export function whyNot(error: unknown): string {
  const { issues } = error as { issues?: readonly { path: readonly PropertyKey[]; message: string }[] };
  const text = issues
    ? issues.map(({ path, message }) => `${path.map(String).join('.') || '(top)'}: ${message}`).join('; ')
    : (error as Error).message;
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}

// What crisp found, cannot read and therefore leaves alone: records of another
// version, notes of CTs that are not its own.  One such thing never stops the
// others; it is logged once, and an operator sees it in `crisp status` and in the
// verbose Status of the CRI.
import { log } from './log.js';

export interface SetAside {
  readonly kind: 'container record' | 'pod record' | 'standalone record' | 'lease' | 'CT' | 'file';
  /** Its path, or its VMID. */
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

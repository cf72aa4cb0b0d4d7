// For expectations whose failure should say more than true or false: what breaks
// them is compared with nothing.
import { existsSync } from 'node:fs';

/** Those of the paths that exist. */
export function present(...paths: readonly string[]): string[] {
  return paths.filter((path) => existsSync(path));
}

/** Those of the paths that do not exist. */
export function missing(...paths: readonly string[]): string[] {
  return paths.filter((path) => !existsSync(path));
}

/** The first difference of what came from what was sent, which may be too long to be shown; '' if there is none. */
export function difference(came: Buffer, sent: Buffer): string {
  if (came.equals(sent)) return '';
  const at = came.findIndex((byte, index) => byte !== sent[index]);
  const where = at === -1 ? 'the end' : `byte ${at}`;
  return `${came.length} bytes came of ${sent.length}, and differ from ${where} on`;
}

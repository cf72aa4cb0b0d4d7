// Finds programs: the backends and the command line do this before they start
// a program, to report missing programs and to detect replaced ones.
import { existsSync } from 'node:fs';
import { access, constants } from 'node:fs/promises';
import { join } from 'node:path';
import { CrispError } from '../errors.js';

const searchPath = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/** The absolute path of a program named by path or found on the tools' PATH. @throws ToolMissing */
export async function findProgram(name: string): Promise<string> {
  const candidates = name.includes('/') ? [name] : searchPath.map((folder) => join(folder, name));
  for (const candidate of candidates) {
    try {
      await access(candidate, constants.X_OK);
      return candidate;
    } catch {
      /* the next one */
    }
  }
  const reason = name.includes('/') && existsSync(name) ? 'cannot be executed' : 'is not installed';
  throw new CrispError('ToolMissing', `${name} ${reason}`, { stage: 'find program', tool: name });
}

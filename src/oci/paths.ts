// Checks the paths of a request before they are used.
import { CrispError } from '../errors.js';

/** NAME_MAX and PATH_MAX (limits.h), which includes the NUL byte at the end. */
const longestName = 255;
const longestPath = 4095;

/**
 * An absolute path within the kernel's limits.
 * @param field the field for the error: "mounts[0].host_path"
 * @throws InvalidArgument
 */
export function checkedPath(path: string, field: string): string {
  const refused = (why: string): CrispError =>
    new CrispError('InvalidArgument', `${field}: "${path.slice(0, 100)}" ${why}`);
  if (!path.startsWith('/')) throw refused('must be an absolute path');
  if (path.includes('\0')) throw refused('contains a NUL byte');
  if (Buffer.byteLength(path) > longestPath) throw refused(`is longer than ${longestPath} bytes`);
  if (path.split('/').some((name) => Buffer.byteLength(name) > longestName))
    throw refused(`contains a name of more than ${longestName} bytes`);
  return path;
}

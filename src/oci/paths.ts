// Paths of a request, before anything is done with them.
import { CrispError } from '../errors.js';

/** NAME_MAX and PATH_MAX (limits.h), which counts the zero byte at the end. */
const longestName = 255;
const longestPath = 4095;

/**
 * An absolute path that the kernel can take.
 * @param field what the error names: "mounts[0].host_path"
 * @throws InvalidArgument
 */
export function checkedPath(path: string, field: string): string {
  const refused = (why: string): CrispError =>
    new CrispError('InvalidArgument', `${field}: "${path.slice(0, 100)}" ${why}`);
  if (!path.startsWith('/')) throw refused('must be an absolute path');
  if (path.includes('\0')) throw refused('has a zero byte in it');
  if (Buffer.byteLength(path) > longestPath) throw refused(`is longer than ${longestPath} bytes`);
  if (path.split('/').some((name) => Buffer.byteLength(name) > longestName))
    throw refused(`has a name of more than ${longestName} bytes in it`);
  return path;
}

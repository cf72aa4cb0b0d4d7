// The path of a container's log.
import { basename, dirname, join, resolve } from 'node:path';
import { CrispError } from '../errors.js';
import { realPathOf } from '../host/files.js';
import { untilServersAnswer } from '../oci/inspect.js';
import { checkedPath } from '../oci/paths.js';

/**
 * The path of a log below the pod's log folder; ".." cannot leave it. Links above the log folder belong
 * to the node (/var/log may be one) and are resolved here, once; below the log folder the backend never
 * follows links (backends/log-file.ts).
 * @returns empty: no log was requested
 * @throws PathEscapes, ToolTimeout if the server of its filesystem does not answer
 */
export async function logPathOf(folder: string, path: string): Promise<string> {
  if (!folder || !path) return '';
  checkedPath(join(folder, path), 'log_directory and log_path');
  if (path.startsWith('/') || !join(folder, path).startsWith(join(folder, '/')))
    throw new CrispError('PathEscapes', `log_path "${path}" leaves the log folder of the pod`);
  await untilServersAnswer([['log_directory', join(folder, path)]]);
  const plain = resolve(folder);
  return join(await realPathOf(dirname(plain)), basename(plain), path);
}

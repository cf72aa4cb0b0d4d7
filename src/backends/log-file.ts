// The log of a container, which a monitor (conmon, the watcher of a CT) writes.
//
// A pod may be able to write to its folder, and a monitor opens a log by its
// path, through any link in it. So crisp opens the file (see host/beneath.ts),
// and the monitor gets the path of a link in the bundle, where only root can
// write, that points to crisp's descriptor:
//
//   BUNDLE/logfile ──► /proc/OUR-PID/fd/N ──► the file
//
// Once the monitor has opened it, crisp's descriptor is closed and the link is
// dangling.
import { closeSync, renameSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { openToAppend, unlinkIfThere } from '../host/beneath.js';

/** The name of the link in the bundle. */
export const logLink = 'logfile';
const mode = 0o640;

/**
 * Opens a log, and creates it if needed. This blocks the daemon while the server of its filesystem does not
 * answer: see untilServersAnswer().
 * @param name the link in the bundle that points to it while it is open here
 * @param fresh an existing file is replaced by a new one
 * @returns a function that closes the descriptor
 * @throws PathEscapes, InvalidArgument
 */
export function linkLog(bundle: string, logPath: string, name = logLink, fresh = false): () => void {
  const file = openToAppend(logPath, mode, fresh);
  try {
    const temporary = join(bundle, `.${name}`);
    unlinkIfThere(temporary);
    symlinkSync(`/proc/${process.pid}/fd/${file}`, temporary);
    renameSync(temporary, join(bundle, name));
  } catch (error) {
    closeSync(file);
    throw error;
  }
  return () => closeSync(file);
}

/** Checks the path of a log. @throws PathEscapes, InvalidArgument */
export function tryLog(logPath: string): void {
  closeSync(openToAppend(logPath, mode));
}

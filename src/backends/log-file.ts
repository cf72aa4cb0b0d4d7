// The log of a container, which a monitor (conmon, the watcher of a CT) writes.
//
// Its folder may be one that a pod can write in, and a monitor opens what it is
// told by its path, through any link that lies there. So we open the file (see
// host/beneath.ts), and the monitor is told of a link in the bundle, where only
// root can write, that leads to our descriptor:
//
//   BUNDLE/logfile ──► /proc/OUR-PID/fd/N ──► the file
//
// Once the monitor has it open, our descriptor is closed and the link is dead.
import { closeSync, renameSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { openToAppend, unlinkIfThere } from '../host/beneath.js';

/** The name of the link in the bundle. */
export const logLink = 'logfile';
const mode = 0o640;

/**
 * Opens a log, and makes it if need be.
 * @param name of the link in the bundle that leads to it while it is open here
 * @param fresh a file that is there is replaced by a new one
 * @returns closes our descriptor
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

/** Whether there can be such a log. @throws PathEscapes, InvalidArgument */
export function tryLog(logPath: string): void {
  closeSync(openToAppend(logPath, mode));
}

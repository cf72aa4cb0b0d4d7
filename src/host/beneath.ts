// Files in folders that others can write to, such as a log folder that a pod
// has as a hostPath volume: opened from the root of the host downwards, one
// name at a time, and never through a link. The file itself stays open, so
// later renames and links have no effect.
//
// Node has no openat(2); /proc/self/fd/N/NAME is equivalent.
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  unlinkSync,
} from 'node:fs';
import { basename, dirname } from 'node:path';
import { CrispError } from '../errors.js';
import { O_PATH } from './files.js';

const { O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants;

/**
 * Opens a folder without following a link.
 * @param path absolute, without ".."
 * @param make the mode for missing folders, which are made; undefined: they are an error
 * @param made called with the paths of folders that were made, outermost first
 * @returns a descriptor, for the caller to close
 * @throws PathEscapes for a link, InvalidArgument for a file or a name that is too long, ENOENT
 */
export function openFolder(path: string, make?: number, made: string[] = []): number {
  let folder = openSync('/', O_RDONLY | O_DIRECTORY);
  let reached = '';
  for (const name of path.split('/').filter((each) => each !== '' && each !== '.')) {
    reached += `/${name}`;
    const above = folder;
    try {
      folder = openOne(entryOf(above, name), reached, make, made);
    } finally {
      closeSync(above);
    }
  }
  return folder;
}

function openOne(at: string, path: string, make: number | undefined, made: string[]): number {
  const flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
  try {
    return openSync(at, flags);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || make === undefined)
      throw refusal(error, at, path, 'folder');
  }
  try {
    mkdirSync(at, make);
    made.push(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw refusal(error, at, path, 'folder');
  }
  try {
    return openSync(at, flags);
  } catch (error) {
    throw refusal(error, at, path, 'folder');
  }
}

/**
 * The path of a name in an open folder, for calls that do not follow a link in the last component.
 * @throws PathEscapes
 */
export function entryOf(folder: number, name: string): string {
  if (name === '..' || name.includes('/')) throw new CrispError('PathEscapes', `"${name}" is not one name`);
  return `/proc/self/fd/${folder}/${name}`;
}

/**
 * Opens a regular file for appending; creates it and its parents if needed.
 * @param fresh an existing file is replaced by a new one
 * @returns a descriptor, for the caller to close
 * @throws PathEscapes for a link, InvalidArgument for a FIFO, a folder, a file with several hard links and a
 * name that is too long
 */
export function openToAppend(path: string, mode: number, fresh = false): number {
  const folder = openFolder(dirname(path), 0o755);
  try {
    const at = entryOf(folder, basename(path));
    if (fresh) unlinkIfThere(at);
    const flags = O_WRONLY | O_APPEND;
    return (
      (fresh ? undefined : openThere(at, path, flags)) ?? openFile(at, path, flags | O_CREAT | O_EXCL, mode)
    );
  } finally {
    closeSync(folder);
  }
}

/**
 * The last bytes of a regular file, as text; undefined: it does not exist, or openToAppend() would refuse it.
 */
export function readTail(path: string, bytes: number): string | undefined {
  try {
    const folder = openFolder(dirname(path));
    try {
      const file = openThere(entryOf(folder, basename(path)), path, O_RDONLY);
      if (file === undefined) return undefined;
      try {
        const buffer = Buffer.alloc(bytes);
        const from = Math.max(0, fstatSync(file).size - bytes);
        return buffer.subarray(0, readSync(file, buffer, 0, bytes, from)).toString();
      } finally {
        closeSync(file);
      }
    } finally {
      closeSync(folder);
    }
  } catch {
    return undefined;
  }
}

/** unlink(2); no error if the file does not exist. */
export function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

function openFile(at: string, path: string, flags: number, mode?: number): number {
  try {
    return openSync(at, flags, mode);
  } catch (error) {
    throw refusal(error, at, path, 'file');
  }
}

/**
 * Opens the file if it is a regular file. Its type is checked first, through a descriptor that opens
 * nothing (O_PATH): opening a device has side effects (a watchdog starts, a tape rewinds), and every
 * container may make device nodes. A file with a second name may be a file of the host.
 * @returns undefined: it does not exist
 */
function openThere(at: string, path: string, flags: number): number | undefined {
  let found: number;
  try {
    found = openSync(at, O_PATH | O_NOFOLLOW);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw refusal(error, at, path, 'file');
  }
  try {
    const is = fstatSync(found);
    if (is.isSymbolicLink()) throw linkRefused(path);
    if (is.isFile() && is.nlink === 1) return openSync(`/proc/self/fd/${found}`, flags);
    throw new CrispError(
      'InvalidArgument',
      `${path} is ${is.isFile() ? 'a file with several hard links' : 'not a regular file'}`,
    );
  } finally {
    closeSync(found);
  }
}

function refusal(error: unknown, at: string, path: string, wanted: 'file' | 'folder'): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ENAMETOOLONG') return new CrispError('InvalidArgument', `${path}: the name is too long`);
  if (code === 'EEXIST') return new CrispError('InvalidArgument', `${path} is being made by another process`);
  if (code !== 'ELOOP' && code !== 'ENOTDIR' && code !== 'ENXIO' && code !== 'EISDIR') return error;
  if (lstatSync(at, { throwIfNoEntry: false })?.isSymbolicLink()) return linkRefused(path);
  return new CrispError(
    'InvalidArgument',
    `${path} is not a ${wanted === 'file' ? 'regular file' : 'folder'}`,
  );
}

function linkRefused(path: string): CrispError {
  return new CrispError('PathEscapes', `${path} is a symbolic link, and links are not followed here`);
}

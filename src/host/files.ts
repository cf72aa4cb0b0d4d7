// Files that must be whole or absent, and folders that must be gone.
import {
  closeSync,
  constants,
  fsync,
  mkdirSync,
  openSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { lstat, open, readdir, readFile, realpath, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';

/**
 * Replaces a file in one step: written beside it, flushed, renamed, and the
 * folder flushed, so that after a crash the old or the new content is there.
 */
export async function writeFileAtomic(path: string, content: string | Buffer, mode = 0o600): Promise<void> {
  const folder = dirname(path);
  const temporary = join(folder, `.${basename(path)}.tmp`);
  // Only the flushes can take long, so only they leave the thread: each way there and back costs as much as all the rest.
  const file = openSync(temporary, 'w', mode);
  try {
    writeFileSync(file, content);
    await flush(file);
  } finally {
    closeSync(file);
  }
  renameSync(temporary, path);
  const parent = openSync(folder, 'r');
  try {
    await flush(parent);
  } finally {
    closeSync(parent);
  }
}
const flush = promisify(fsync);

/** The content, or undefined where there is no such file. */
export async function readFileIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

/**
 * The text of a regular file that a caller names: never waits for a FIFO, starts
 * no device, and reads no more than `maxBytes`.
 * @throws Error that says what is wrong with it, with nothing of its content
 */
export async function readRegularFile(path: string, maxBytes: number): Promise<string> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  try {
    if (!(await file.stat()).isFile()) throw new Error('it is no regular file');
    const content = Buffer.alloc(maxBytes + 1);
    let length = 0;
    for (let read; length < content.length; length += read) {
      ({ bytesRead: read } = await file.read(content, length, content.length - length, length));
      if (read === 0) break;
    }
    if (length > maxBytes) throw new Error(`it is longer than ${maxBytes} bytes`);
    return content.toString('utf8', 0, length);
  } finally {
    await file.close();
  }
}

export async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (isAbsent(error)) return false;
    throw error;
  }
}

/** The names in a folder; none where there is no such folder. */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isAbsent(error)) return [];
    throw error;
  }
}

/** Where a path leads with all links followed; what does not exist yet is kept as it is. */
export async function realPathOf(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (!isAbsent(error) || path === '/') throw error;
    return join(await realPathOf(dirname(path)), basename(path));
  }
}

/** Synchronous: making a folder costs less than the way to a thread and back, and every pod needs a dozen. */
export function makeFolder(path: string, mode = 0o700): void {
  mkdirSync(path, { recursive: true, mode });
}

/**
 * Removes a file or a whole folder; absent is fine. Never called on a mount point: unmount first.
 * Tried again for a while where something is added meanwhile: a tool that failed may still be on its way out.
 */
export async function remove(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: 10, retryDelay: 20 });
}

/** Tells versions of a file apart that is replaced as a whole: inode, size and time; empty: there is none. */
export function fileVersion(path: string): string {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found ? `${found.ino}-${found.size}-${found.mtimeNs}` : '';
}

export function isAbsent(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

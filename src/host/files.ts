// Atomic writes and bounded reads of files, and removal of folders.
import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  fstatSync,
  fsync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { lstat, open, readdir, realpath, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { CrispError } from '../errors.js';

/**
 * Replaces a file in one step: writes a temporary file, flushes it, renames
 * it, and flushes the folder, so that after a crash the file has either the
 * old or the new content.
 */
export async function writeFileAtomic(path: string, content: string | Buffer, mode = 0o600): Promise<void> {
  const folder = dirname(path);
  const temporary = join(folder, `.${basename(path)}.tmp`);
  // Only the flushes can take long, so only they run on another thread: each switch takes as long as all the
  // rest.
  const file = openSync(temporary, 'w', mode);
  try {
    writeFileSync(file, content);
    await flush(file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw withPath(error, path);
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

/**
 * Writes a file that may be lost in a crash. The error for a full filesystem contains the path, unlike the
 * error of write(2).
 */
export function writeFile(path: string, content: string, mode = 0o600): void {
  try {
    writeFileSync(path, content, { mode });
  } catch (error) {
    throw withPath(error, path);
  }
}

function withPath(error: unknown, path: string): unknown {
  const failure = error as NodeJS.ErrnoException;
  if (failure.code && !failure.path) failure.message += ` '${path}'`;
  return failure;
}

export interface ReadLimits {
  /** The maximum size. Default 16 MiB: more than the size of any record, profile or file of /proc. */
  readonly maxBytes?: number;
  /**
   * How to handle a larger file. Default 'refuse'; 'end' returns its last `maxBytes`: for logs and messages.
   */
  readonly larger?: 'refuse' | 'end';
  /**
   * Whether a symlink in the last component is followed. Default true; false for a path that an image or a
   * pod controls.
   */
  readonly followLink?: boolean;
}
const defaultMaxBytes = 16 << 20;

/** open(2); not defined in Node. */
export const O_PATH = 0o10000000;

/** Far above any file that a person writes. */
const maxSmallFileBytes = 1 << 20;

/**
 * The text of a file that a person names on the command line, also of a pipe, and never more than 1 MiB: it may
 * be /dev/zero. @param path or a descriptor, such as 0 for stdin
 */
export function readSmallFile(path: string | number): string {
  const descriptor = typeof path === 'number' ? path : openSync(path, 'r');
  try {
    const content = Buffer.alloc(maxSmallFileBytes);
    let length = 0;
    for (let read = -1; read !== 0 && length < maxSmallFileBytes; length += read)
      read = readSync(descriptor, content, length, maxSmallFileBytes - length, null);
    if (length === maxSmallFileBytes) throw new Error('it is larger than 1 MiB');
    return content.toString('utf8', 0, length);
  } finally {
    if (descriptor !== path) closeSync(descriptor);
  }
}

/**
 * Reads a text file of limited size. To be used for every file that an image, a pod, a registry, a caller or
 * another program wrote: an endless file would fill the memory, and opening a FIFO or a device may block or
 * act on hardware.
 * @throws FileRefused for a larger file and for anything but a regular file; other errors of the filesystem
 * unchanged
 */
export async function readText(
  path: string,
  { maxBytes = defaultMaxBytes, larger = 'refuse', followLink = true }: ReadLimits = {},
): Promise<string> {
  // O_PATH opens nothing yet: the checked file is the file that is read, and a device is not opened.
  const found = openSync(path, O_PATH | (followLink ? 0 : constants.O_NOFOLLOW));
  let file: FileHandle;
  try {
    if (!fstatSync(found).isFile()) throw notRegular(path);
    file = await open(`/proc/self/fd/${found}`, constants.O_RDONLY);
  } finally {
    closeSync(found);
  }
  try {
    const opened = await file.stat();
    if (opened.size > maxBytes && larger === 'refuse') throw tooLarge(path, maxBytes);
    const chunks: Buffer[] = [];
    let position = larger === 'end' ? Math.max(0, opened.size - maxBytes) : 0;
    for (let total = 0; ;) {
      // Files of /proc have the size 0, so read until the end of the file.
      const room = maxBytes - total;
      const wanted = Math.min(Math.max(opened.size - position, 0) || 64 << 10, room) + 1;
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(wanted), 0, wanted, position);
      if (bytesRead === 0) break;
      chunks.push(buffer.subarray(0, Math.min(bytesRead, room)));
      if (bytesRead > room && larger === 'refuse') throw tooLarge(path, maxBytes);
      if (bytesRead > room) break;
      total += bytesRead;
      position += bytesRead;
    }
    return Buffer.concat(chunks).toString('utf8');
  } finally {
    await file.close();
  }
}

/**
 * readText() of a file in the state folder, synchronous: reading it takes a tenth of the time of the switches to
 * a thread and back, and the start reads two for each container. @throws FileRefused
 */
export function readTextNow(path: string): string {
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK); // does not wait for the writer of a FIFO
  try {
    const found = fstatSync(file);
    if (!found.isFile()) throw notRegular(path);
    if (found.size > defaultMaxBytes) throw tooLarge(path, defaultMaxBytes);
    return readFileSync(file, 'utf8');
  } finally {
    closeSync(file);
  }
}

function notRegular(path: string): CrispError {
  return new CrispError('FileRefused', `${path} is not a regular file`);
}

function tooLarge(path: string, maxBytes: number): CrispError {
  return new CrispError('FileRefused', `${path} is larger than ${maxBytes} bytes`);
}

/** The content, or undefined if the file does not exist. @throws FileRefused, see readText() */
export async function readFileIfThere(path: string, limits?: ReadLimits): Promise<string | undefined> {
  try {
    return await readText(path, limits);
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

/**
 * Whether there is a file of any type at the path; a link is not followed.
 * @throws if a folder above it cannot be read
 */
export async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (isAbsent(error)) return false;
    throw error;
  }
}

/** The names in a folder; empty if it does not exist. */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isAbsent(error)) return [];
    throw error;
  }
}

/** The path with all links resolved; parts that do not exist yet are kept. */
export async function realPathOf(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (!isAbsent(error) || path === '/') throw error;
    return join(await realPathOf(dirname(path)), basename(path));
  }
}

/**
 * Synchronous: making a folder takes less time than a switch to a thread and back, and every pod needs a
 * dozen.
 */
export function makeFolder(path: string, mode = 0o700): void {
  // Not by a recursive mkdir of Node: it never ends where the kernel answers ENOENT though the parent is there
  // (/proc), and it reports other failures, such as EROFS, as ENOENT.
  for (let attempt = 1; ; attempt++)
    try {
      return mkdirSync(path, { mode });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST' && statSync(path).isDirectory()) return;
      if (!isAbsent(error)) throw error;
      if (attempt === 3)
        throw new CrispError('StorageFailed', `cannot make the folder ${path}`, { cause: error });
      makeFolder(dirname(path), mode);
    }
}

/**
 * Makes a folder that only root can access, and with `group` also processes of that group: the
 * mapped root group of a user namespace, whose root makes mounts here. Missing parents can be
 * traversed by all and listed by root, so this folder protects its contents. It is not owned by the
 * mapped ids: a container that broke out could open it to others.
 */
export function makeClosedFolder(path: string, group?: number): void {
  makeFolder(dirname(path), 0o711);
  makeFolder(path);
  closeFolder(path, group);
}

function closeFolder(path: string, group: number | undefined): void {
  chmodSync(path, 0o700);
  if (group === undefined) return;
  chownSync(path, 0, group);
  chmodSync(path, 0o710);
}

/**
 * Mounts of a user namespace are made by its root, which is not root on the host and has to traverse all
 * folders above.
 * @param folder a state folder, or a folder in it
 * @throws Unsupported, which names the folder that it cannot traverse
 */
export async function expectPassage(folder: string): Promise<void> {
  for (let at = await realPathOf(folder); at !== '/'; at = dirname(at)) {
    const mode = statSync(at, { throwIfNoEntry: false })?.mode ?? 0o001;
    if ((mode & 0o001) === 0)
      throw new CrispError(
        'Unsupported',
        `${at} cannot be traversed by the ids of a user namespace: chmod o+x ${at}`,
        {
          hint: 'containers are mounted below it; or move the state folder',
        },
      );
  }
}

/**
 * The folders of a state folder that contain a restricted folder for each pod, container or mount, and must
 * be traversable.
 */
const passages = ['bundles', 'pods', 'roots', 'views', 'probe'];
const closedToAll = [
  'sandboxes',
  'containers',
  'names',
  'rootfs',
  'image-volumes',
  'shifted',
  'exits',
  'runtimes',
];

/**
 * Removes the permissions that an older version gave to all users of the host from the folders
 * of a state folder.
 * @param groupOf the group with access to the folder of a pod or a container; undefined: none
 */
export function tightenState(state: string, groupOf: (id: string) => number | undefined): void {
  takeFrom(state, 0o711);
  for (const name of closedToAll) takeFrom(join(state, name), 0o700);
  for (const name of passages) {
    const folder = join(state, name);
    if (!takeFrom(folder, 0o711)) continue;
    for (const id of readdirSync(folder)) {
      const path = join(folder, id);
      if (lstatSync(path).isDirectory() && (lstatSync(path).mode & 0o007) !== 0 && name !== 'probe')
        closeFolder(path, groupOf(id));
    }
  }
}

/** Removes all other permission bits; false: the folder does not exist. */
export function takeFrom(path: string, bits: number): boolean {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found?.isDirectory()) return false;
  if ((found.mode & 0o777 & ~bits) !== 0) chmodSync(path, found.mode & bits);
  return true;
}

/**
 * Removes a file or a whole folder; no error if it does not exist. Never called on a mount point: unmount
 * first. Retries for a while if files are added meanwhile: a failed tool may still be ending.
 */
export async function remove(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: 10, retryDelay: 20 });
}

/**
 * Identifies a version of a file that is only replaced atomically: inode, size and the time of the last
 * change, also of its mode; empty: it does not exist.
 */
export function fileVersion(path: string): string {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found ? `${found.ino}-${found.size}-${found.ctimeNs}` : '';
}

/** The paths of files with their versions, as text; an empty path stands for a file that is missing. */
export function fileVersions(paths: readonly string[]): string {
  return paths.map((path) => `${path} ${path && fileVersion(path)}`).join(', ');
}

/** Whether the error of a system call says that the file, or a folder above it, does not exist. */
export function isAbsent(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

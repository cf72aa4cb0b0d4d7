// The path of crisp's listening unix socket. Called by daemon.ts.
import { lstat, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { CrispError } from '../errors.js';
import { isAbsent } from './files.js';

/** sun_path of unix(7) has 108 bytes, including the NUL at the end. */
const longestPath = 107;

/**
 * Prepares a path for a socket: removes the socket of an earlier run, and nothing else.
 * @throws InvalidConfigFile for a path that is too long, or exists and is not a socket;
 * DaemonRunning if another process listens on it
 */
export async function freeSocketPath(path: string): Promise<void> {
  const length = Buffer.byteLength(path);
  if (length > longestPath)
    throw new CrispError(
      'InvalidConfigFile',
      `listen: the path ${path} has ${length} bytes, and the limit for a unix socket is ${longestPath}`,
      { hint: 'choose a shorter path' },
    );
  try {
    if (!(await lstat(path)).isSocket())
      throw new CrispError('InvalidConfigFile', `listen: ${path} exists and is not a socket`, {
        hint: 'choose another path, or remove it',
      });
  } catch (error) {
    if (isAbsent(error)) return;
    throw error;
  }
  if (await isAnswered(path))
    throw new CrispError('DaemonRunning', `listen: another process listens on ${path}`);
  await rm(path, { force: true });
}

/**
 * Whether a process listens on the socket. Only a refused connection, or one that was reset while it waited
 * for a process that has ended, means that none does; a full queue, for example, does not.
 */
function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: NodeJS.ErrnoException) =>
      resolve(!['ECONNREFUSED', 'ECONNRESET', 'ENOENT'].includes(error.code ?? '')),
    );
  });
}

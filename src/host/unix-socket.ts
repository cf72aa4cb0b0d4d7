// The path of a unix socket that we listen on. Called by daemon.ts.
import { lstat, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { CrispError } from '../errors.js';
import { isAbsent } from './files.js';

/** sun_path of unix(7) has 108 bytes, the last of them zero. */
const longestPath = 107;

/**
 * Makes a path free for a socket: removes what an earlier run left there, and
 * nothing else.
 * @throws InvalidConfigFile for a path that is too long, or where something lies that is no socket;
 *   DaemonRunning where somebody listens
 */
export async function freeSocketPath(path: string): Promise<void> {
  const length = Buffer.byteLength(path);
  if (length > longestPath)
    throw new CrispError(
      'InvalidConfigFile',
      `listen: the path ${path} has ${length} bytes, and that of a unix socket may have ${longestPath}`,
      { hint: 'name a shorter path' },
    );
  try {
    if (!(await lstat(path)).isSocket())
      throw new CrispError('InvalidConfigFile', `listen: ${path} exists and is not a socket`, {
        hint: 'name another path, or remove what lies there',
      });
  } catch (error) {
    if (isAbsent(error)) return;
    throw error;
  }
  if (await isAnswered(path))
    throw new CrispError('DaemonRunning', `listen: another process listens on ${path}`);
  await rm(path, { force: true });
}

/** Whether somebody listens there. Only a refused connection says that nobody does; a full queue, for example, does not. */
function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: NodeJS.ErrnoException) =>
      resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
}

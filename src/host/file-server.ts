// Filesystems with a server: a call on one whose server is gone does not return. The
// few threads of Node would be lost to such calls, and with them the daemon, so a
// process of its own makes the first one.
import { CrispError } from '../errors.js';
import { readText } from './files.js';
import type { MountPoint } from './mounts.js';
import { run } from './run.js';
import { within } from './wait.js';

/** Another machine, or a program of this one (FUSE). */
const types = 'nfs|cifs|smb|ceph|9p|virtiofs|fuse(blk)?(\\.|\\b)|gluster|lustre|afs|beegfs|gpfs|gfs2|ocfs2';
const withServer = new RegExp(`^(${types})`);
const lineWithServer = new RegExp(` - (${types})`);

export const hasServer = ({ type }: Pick<MountPoint, 'type'>): boolean => withServer.test(type);

/** Whether such a filesystem is mounted. On a full node this takes a tenth of the time of mountPoints(). */
export async function serversAreMounted(): Promise<boolean> {
  return lineWithServer.test(await readText('/proc/self/mountinfo'));
}

/** How long a path may take to be found. */
const answerMs = 10_000;

/** Waits until the filesystems on the way to a path answer; it need not exist. @throws ToolTimeout */
export async function untilAnswered(path: string, field: string): Promise<void> {
  let answered = false;
  const asked = run(['realpath', '--quiet', '--canonicalize-existing', '--', path], {
    timeoutMs: answerMs,
    okExitCodes: 'any',
    stage: 'find host path',
  }).then(
    () => {
      answered = true;
    },
    (error: unknown) => {
      if (!(error instanceof CrispError) || error.id !== 'ToolTimeout') throw error;
    },
  );
  await within(asked, answerMs); // some filesystems do not let a waiting process be killed
  if (answered) return;
  throw new CrispError('ToolTimeout', `${field}: ${path} was not found within ${answerMs / 1000} s`, {
    stage: 'find host path',
    hint: 'the server of a filesystem on this path does not answer: see `findmnt --target PATH`',
  });
}

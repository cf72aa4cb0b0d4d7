// The daemon that uses a state folder: STATE/daemon.json. Called by daemon.ts and `crisp dump`.
import { join } from 'node:path';
import * as z from 'zod';
import { CrispError } from '../errors.js';
import { readFileIfThere, writeFileAtomic } from '../host/files.js';
import { bootId, identify, isAlive, type ProcessIdentity } from '../host/proc.js';
import { log } from '../log.js';
import { whyNot } from '../set-aside.js';

/**
 * One daemon per state folder: a second one would treat objects that the first is
 * making as leftovers of a crash.  The folder becomes the working folder of the daemon
 * and of its programs, by which the next run finds programs that are still running.
 * @throws DaemonRunning
 */
export async function claimState(folder: string): Promise<void> {
  const running = await daemonOf(folder);
  if (running)
    throw new CrispError(
      'DaemonRunning',
      `crisp runs already as process ${running.pid}, with the state folder ${folder}`,
    );
  const claim = { ...(await identify(process.pid)), bootId: await bootId() };
  await writeFileAtomic(fileOf(folder), JSON.stringify(claim));
  process.chdir(folder);
}

/** The daemon that runs with this state folder. */
export async function daemonOf(folder: string): Promise<ProcessIdentity | undefined> {
  const file = fileOf(folder);
  const known = claimOf((await readFileIfThere(file)) ?? 'null', file);
  // A service may have the same pid and start time after another boot.
  return known?.bootId === (await bootId()) && (await isAlive(known)) ? known : undefined;
}

/** Where the daemon writes its state dump (cri/state-dump.ts). */
export function dumpFile(folder: string): string {
  return join(folder, 'dump.json');
}

function fileOf(folder: string): string {
  return join(folder, 'daemon.json');
}

const claimSchema = z
  .object({ pid: z.number().int().positive(), startTime: z.string(), bootId: z.string() })
  .nullable();

/** null: not claimed, or unreadable. */
function claimOf(text: string, file: string): z.infer<typeof claimSchema> {
  try {
    return claimSchema.parse(JSON.parse(text));
  } catch (error) {
    log.error({ file, reason: whyNot(error) }, 'the owner of the state folder cannot be read');
    return null;
  }
}

// The exit of a container whose monitor has died, taken from the kernel
// (exit-watch.pl says how).  Called by the backends.
import { basename } from 'node:path';
import type { Duplex } from 'node:stream';
import { readFileIfThere } from '../host/files.js';
import { programsIn, type ProcessIdentity } from '../host/proc.js';
import { firstLine, runDetached } from '../host/run.js';
import { perlProgram } from '../installed.js';
import { log } from '../log.js';

const program = perlProgram('exit-watch.pl');
const answerMs = 5_000;

/**
 * Starts it for a container, unless an earlier run of the daemon has.
 * @param bundle its working folder
 * @returns false: the exit code will not be known; the reason is in the log
 */
export async function watchExit(
  bundle: string,
  { pid, startTime }: ProcessIdentity,
  exitFile: string,
): Promise<boolean> {
  for (const found of await programsIn(bundle)) {
    const argv = (await readFileIfThere(`/proc/${found.pid}/cmdline`).catch(() => '')) ?? '';
    if (basename(argv.split('\0')[1] ?? '') === basename(program)) return true;
  }
  const {
    pipes: [pipe],
  } = runDetached(['perl', program, String(pid), startTime, exitFile], { cwd: bundle, pipes: 1 });
  const answer = await firstLine(pipe as Duplex, answerMs);
  if (answer !== 'ready')
    log.warn({ exitFile, answer }, 'the kernel does not tell the exit of a container without a monitor');
  return answer === 'ready';
}

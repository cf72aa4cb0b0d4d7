// Gets the exit of a container with a dead monitor from the kernel (see
// exit-watch.pl). Called by the backends.
import { basename } from 'node:path';
import type { Duplex } from 'node:stream';
import { readFileIfThere } from '../host/files.js';
import { identify, programsIn, waitUntilEnded, type ProcessIdentity } from '../host/proc.js';
import { firstLine, runDetached } from '../host/run.js';
import { perlProgram } from '../installed.js';
import { log } from '../log.js';

const program = perlProgram('exit-watch.pl');
const answerMs = 5_000;
const tellPatienceMs = 10_000;

/**
 * Starts the watch of a container, unless an earlier run of the daemon has started it.
 * @param bundle its working folder
 * @returns the watching process; undefined: the exit code will not be known, the reason is in
 * the log
 */
export async function watchExit(
  bundle: string,
  { pid, startTime }: ProcessIdentity,
  exitFile: string,
): Promise<ProcessIdentity | undefined> {
  for (const found of await programsIn(bundle)) {
    const argv = (await readFileIfThere(`/proc/${found.pid}/cmdline`).catch(() => '')) ?? '';
    if (basename(argv.split('\0')[1] ?? '') === basename(program)) return found;
  }
  const {
    pid: watcher,
    pipes: [pipe],
  } = await runDetached(['perl', program, String(pid), startTime, exitFile], {
    cwd: bundle,
    pipes: ['read'],
  });
  const answer = await firstLine(pipe as Duplex, answerMs);
  if (answer !== 'ready')
    log.warn(
      { exitFile, answer },
      'the exit of a container without a monitor cannot be read from the kernel',
    );
  return identify(watcher);
}

/** After the end of a process: waits until its watch has written the exit and ended. */
export async function exitWatched(watch: ProcessIdentity | undefined): Promise<void> {
  if (watch) await waitUntilEnded(watch, tellPatienceMs);
}

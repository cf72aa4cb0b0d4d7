// What ends an exec before its own end: the deadline, or a client that goes
// away.  The tool between us and the command (crun exec, lxc-attach) does not
// pass its own death on, so what dies is the tree below it.
import { setTimeout as sleep } from 'node:timers/promises';
import { CrispError } from '../errors.js';
import { killTree, offspringOf } from '../host/proc.js';
import type { Running } from '../host/run.js';

/** Kills at the deadline or when the client goes; check() then throws which it was: ExecTimeout or Cancelled. */
export function limited(
  timeoutMs: number | undefined,
  signal: AbortSignal,
  kill: () => Promise<void>,
): { check(): void; clear(): void } {
  let failure: CrispError | undefined;
  const end = (error: () => CrispError) => (): void => {
    failure ??= error();
    void kill();
  };
  const timedOut = end(
    () =>
      new CrispError('ExecTimeout', `the command did not end within ${timeoutMs} ms and was killed`, {
        stage: 'exec',
      }),
  );
  const cancelled = end(
    () => new CrispError('Cancelled', 'the client went away; the command was killed', { stage: 'exec' }),
  );
  const timer = timeoutMs === undefined ? undefined : setTimeout(timedOut, timeoutMs);
  if (signal.aborted) cancelled();
  else signal.addEventListener('abort', cancelled, { once: true });
  return {
    check() {
      if (failure) throw failure;
    },
    clear() {
      clearTimeout(timer);
      signal.removeEventListener('abort', cancelled);
    },
  };
}

/**
 * Kills what is below a tool, which then ends by itself: killing the tool would
 * leave it.  Again and again, since at the first time the tool may not have come
 * to start the process yet, or be between two of its own.  A tool that has had
 * nothing below it for a while only waits for output that others hold open (runc
 * does), or hangs: then it is killed.
 */
export async function killBelow({ pid, present, kill }: Running): Promise<void> {
  let aloneSince: number | undefined;
  while (pid !== undefined && present()) {
    const below = await offspringOf(pid);
    for (const child of below) if (present()) await killTree(child);
    aloneSince = below.length > 0 ? undefined : (aloneSince ?? performance.now());
    if (aloneSince !== undefined && performance.now() - aloneSince > alonePatienceMs) kill();
    await sleep(20);
  }
}
const alonePatienceMs = 1_000;

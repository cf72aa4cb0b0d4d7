// Ends an exec early: at the deadline, or when the client disconnects. If the
// tool (crun exec, lxc-attach) is killed, the command keeps running, so the
// processes below the tool are killed.
import { setTimeout as sleep } from 'node:timers/promises';
import { CrispError } from '../errors.js';
import { killTree, offspringOf } from '../host/proc.js';
import type { Running } from '../host/run.js';

/** Kills at the deadline or when the client disconnects; check() then throws ExecTimeout or Cancelled. */
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
    () => new CrispError('Cancelled', 'the client disconnected; the command was killed', { stage: 'exec' }),
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
 * Kills the processes below a tool, which then ends by itself: they would
 * survive if the tool were killed. Repeated, since the tool may not have started
 * the process yet, or may start several in turn. A tool that has had no children
 * for a while waits for output that other processes hold open (runc does), or
 * hangs: then it is killed.
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

// What ends an exec before its own end: the deadline, or a client that goes
// away.  The tool between us and the command (crun exec, lxc-attach) does not
// pass its own death on, so what dies is the tree below it.
import { CrispError } from '../errors.js';
import { childrenOf } from '../host/proc.js';

/** Kills at the deadline or when the client goes; check() then throws which it was: ExecTimeout or Cancelled. */
export function limited(timeoutMs: number | undefined, signal: AbortSignal, kill: () => Promise<void>): { check(): void; clear(): void } {
  let failure: CrispError | undefined;
  const end = (error: () => CrispError) => (): void => { failure ??= error(); void kill(); };
  const timedOut = end(() => new CrispError('ExecTimeout', `the command did not end within ${timeoutMs} ms and was killed`, { stage: 'exec' }));
  const cancelled = end(() => new CrispError('Cancelled', 'the client went away; the command was killed', { stage: 'exec' }));
  const timer = timeoutMs === undefined ? undefined : setTimeout(timedOut, timeoutMs);
  if (signal.aborted) cancelled(); else signal.addEventListener('abort', cancelled, { once: true });
  return {
    check() { if (failure) throw failure; },
    clear() { clearTimeout(timer); signal.removeEventListener('abort', cancelled); },
  };
}

/** The processes below the tool: killing the tool itself would leave them. */
export async function killChildren(toolPid: number): Promise<void> {
  for (const child of await childrenOf(toolPid)) await killTree(child);
}

/** SIGKILL to a process, to the group it leads and to all its descendants. */
export async function killTree(pid: number): Promise<void> {
  const children = await childrenOf(pid);
  for (const target of [-pid, pid]) {
    try { process.kill(target, 'SIGKILL'); } catch { /* gone, or leads no group */ }
  }
  for (const child of children) await killTree(child);
}

// Word of the end of a process that need not be a child of ours.
import { socketOn } from './descriptor-socket.js';
import { runs, type ProcessIdentity } from './proc.js';
import { close, openProcess, SystemError } from './syscalls.js';

/**
 * Calls `ended` once when this very process has ended, also when it is gone
 * already, and never before it returns. It takes a descriptor until then, and no time (pidfd_open(2)).
 * @returns forgets it
 * @throws SystemError when no descriptor is free
 */
export function onProcessEnd(target: ProcessIdentity, ended: () => void): () => void {
  const pidfd = openIfThere(target.pid);
  // Looked at while it is held: the pid cannot come to mean another process meanwhile.
  if (pidfd === undefined || !runs(target)) {
    if (pidfd !== undefined) close(pidfd);
    const told = setImmediate(ended);
    return () => {
      clearImmediate(told);
    };
  }
  const watch = socketOn(pidfd);
  watch.on('error', () => undefined); // a pidfd becomes readable at the end, and reading it is EINVAL: the socket breaks
  watch.once('close', ended);
  watch.unref();
  return () => {
    watch.removeListener('close', ended);
    watch.destroy();
  };
}

function openIfThere(pid: number): number | undefined {
  try {
    return openProcess(pid);
  } catch (error) {
    if (error instanceof SystemError && error.code === 'ESRCH') return undefined;
    throw error;
  }
}

// Notification of the end of a process that need not be a child of crisp.
import { socketOn } from './descriptor-socket.js';
import { runs, type ProcessIdentity } from './proc.js';
import { close, openProcess, SystemError } from './syscalls.js';

/**
 * Calls `ended` once when this process has ended, also if it is gone already, and never before the
 * function returns. Uses a descriptor until then, but no CPU time (pidfd_open(2)).
 * @returns a function that cancels it
 * @throws SystemError if no descriptor is free
 */
export function onProcessEnd(target: ProcessIdentity, ended: () => void): () => void {
  const pidfd = openIfThere(target.pid);
  // Checked while the pidfd is open: the pid cannot be reused meanwhile.
  if (pidfd === undefined || !runs(target)) {
    if (pidfd !== undefined) close(pidfd);
    const told = setImmediate(ended);
    return () => {
      clearImmediate(told);
    };
  }
  const watch = socketOn(pidfd);
  watch.on('error', () => undefined); // a pidfd becomes readable at the end, and reading it returns EINVAL: the socket gets an error
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

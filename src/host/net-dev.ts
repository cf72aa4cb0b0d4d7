// The counters of the network interfaces in a namespace, read through a process
// in it: crisp does not have to enter it. For the pod statistics.
import { readFileSync, statSync } from 'node:fs';

export interface InterfaceCounters {
  readonly name: string;
  readonly receive: DirectionCounters;
  readonly transmit: DirectionCounters;
}
export interface DirectionCounters {
  readonly bytes: number;
  readonly packets: number;
  readonly errors: number;
  readonly dropped: number;
}

/**
 * A pod that may administrate its network (NET_ADMIN) makes as many as it likes, and each has eight series in the
 * answer with the metrics of all pods, of which the kubelet accepts 16 MiB.
 */
const mostInterfaces = 256;

/**
 * The interfaces in the namespace of `pid`, without the loopback; of very many the first ones.
 * @param namespace the path of the pinned namespace to which it should belong: pids are
 * reused
 * @returns undefined if the process has ended or is in another namespace
 */
export function readInterfaces(pid: number, namespace: string): InterfaceCounters[] | undefined {
  try {
    if (statSync(namespace).ino !== statSync(`/proc/${pid}/ns/net`).ino) return undefined;
    // Not UTF-8: names are any bytes, and two of them must not become the same one.
    return parseNetDev(readFileSync(`/proc/${pid}/net/dev`, 'latin1'))
      .filter((one) => one.name !== 'lo')
      .slice(0, mostInterfaces);
  } catch (error) {
    if (['ENOENT', 'ESRCH', 'EINVAL'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

/** Two lines of heading, then "name: " with eight columns received and eight sent (proc_pid_net(5)). */
export function parseNetDev(text: string): InterfaceCounters[] {
  return text
    .split('\n')
    .slice(2)
    .filter((line) => line.includes(':'))
    .map((line) => {
      const colon = line.indexOf(':');
      const counts = line
        .slice(colon + 1)
        .trim()
        .split(/\s+/)
        .map(Number);
      const direction = (from: number): DirectionCounters => ({
        bytes: counts[from] ?? 0,
        packets: counts[from + 1] ?? 0,
        errors: counts[from + 2] ?? 0,
        dropped: counts[from + 3] ?? 0,
      });
      return { name: line.slice(0, colon).trim(), receive: direction(0), transmit: direction(8) };
    });
}

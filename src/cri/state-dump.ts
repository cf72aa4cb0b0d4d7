// The state dump: the current activity of the daemon, to find out why an operation
// does not end.  SIGUSR2 writes it to
// STATE/dump.json; `crisp dump` sends the signal and prints the file.
//
// Names, ids, numbers and ages only: no arguments, no requests, no environment.
// Synchronous and without locks: it can be written while calls or file systems
// hang, and before the socket is open.
import { renameSync } from 'node:fs';
import { writeFile } from '../host/files.js';
import { ownOpenFiles } from '../host/open-files.js';
import { ownChildren } from '../host/proc.js';
import { log } from '../log.js';
import { dumpFile } from '../records/claim.js';
import { stepsUnderWay } from '../steps.js';
import { version } from '../version.js';
import { callsInFlight } from './serve.js';
import type { Services } from './services.js';

/** Writes the dump, or logs it if the file cannot be written. @param services undefined: not made yet */
export function writeStateDump(state: string, services: Services | undefined): void {
  const dump = stateDump(services);
  const file = dumpFile(state);
  try {
    writeFile(`${file}.tmp`, JSON.stringify(dump));
    renameSync(`${file}.tmp`, file);
    log.info({ file }, 'state dump written');
  } catch (error) {
    log.error({ err: error, dump }, 'state dump');
  }
}

/** A section that cannot be read contains the reason. */
export function stateDump(services: Services | undefined): Record<string, unknown> {
  const sections: Record<string, () => unknown> = {
    calls: callsInFlight,
    steps: stepsUnderWay,
    ...(services && {
      locks: () => services.locks.held(),
      creations: () => services.creations.underWay(),
      hiddenFromClients: () => services.creations.hiddenCount,
      containers: () => services.stops.underWay(),
      pulls: () => services.images.pullsUnderWay(),
      eventQueues: () => services.events.queueLengths(),
      streaming: () => services.streaming.counts(),
      handlers: () =>
        Object.fromEntries(
          [...services.handlers].map(([name, { probe }]) => [name, probe.ready ? 'ready' : probe.reason]),
        ),
      records: () => ({
        pods: services.store.sandboxes.all().length,
        containers: services.store.containers.all().length,
      }),
    }),
    children: ownChildren,
    memoryBytes: () => process.memoryUsage(),
    openFiles: ownOpenFiles,
    // Timers, sockets, and requests of the thread pool: many of one kind are a leak.
    active: () => counted(process.getActiveResourcesInfo()),
  };
  const read = (section: () => unknown): unknown => {
    try {
      return section();
    } catch (error) {
      return { error: (error as Error).message };
    }
  };
  return {
    time: new Date().toISOString(),
    version,
    pid: process.pid,
    uptimeSeconds: Math.round(process.uptime()),
    ...Object.fromEntries(Object.entries(sections).map(([name, section]) => [name, read(section)])),
  };
}

function counted(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

// The state dump: what the daemon is doing at this moment, for an operator who
// wants to know why something does not end.  SIGUSR2 writes it to
// STATE/dump.json; `crisp dump` sends the signal and prints the file.
//
// Names, ids, numbers and ages only: no arguments, no requests, no environment.
// All of it is synchronous and takes no lock: it is written also while calls
// hang, file systems are dead and the socket is not open.
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

/** Writes the dump; to the log where the file cannot be written. @param services undefined: the daemon is not that far yet */
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

/** A section that cannot be read says why. */
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

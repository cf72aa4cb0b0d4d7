// Resource limits of a container's processes (getrlimit(2)): the CRI has no field
// for them, so they come from the configuration and from the limits of the
// service. Pure.
import type { Process } from '../shapes/spec.js';

type Rlimits = NonNullable<Process['rlimits']>;

/** The names of ulimit(1) and Docker. */
export const ulimitNames = [
  'as',
  'core',
  'cpu',
  'data',
  'fsize',
  'locks',
  'memlock',
  'msgqueue',
  'nice',
  'nofile',
  'nproc',
  'rss',
  'rtprio',
  'rttime',
  'sigpending',
  'stack',
] as const;
export type Ulimits = Partial<Record<(typeof ulimitNames)[number], string>>;

/** The soft limit of open files at the start of bin/crisp, before Node raises its own to the hard limit. */
export const givenNofileVariable = 'CRISP_NOFILE_SOFT';

/**
 * The rlimits of a container.
 * @param configured "SOFT:HARD", or one number for both
 * @param given the soft limit of open files of the service; undefined: not known, and the container inherits
 * crisp's
 * @param limits the text of /proc/self/limits, for the hard limit
 */
export function containerRlimits(configured: Ulimits, given: string | undefined, limits: string): Rlimits {
  const hard = /^Max open files +\d+ +(\d+)/m.exec(limits)?.[1];
  const ofService = given !== undefined && /^\d+$/.test(given) && hard ? { nofile: `${given}:${hard}` } : {};
  return Object.entries({ ...ofService, ...configured }).map(([name, text]) => {
    const [soft = '', both = soft] = text.split(':');
    return { type: `RLIMIT_${name.toUpperCase()}`, soft: Number(soft), hard: Number(both) };
  });
}

// Resource limits of a container's processes (getrlimit(2)): the CRI has no field
// for them, so they are the operator's, and what the service was given. Pure.
import type { Process } from '../shapes/spec.js';

type Rlimits = NonNullable<Process['rlimits']>;

/** As ulimit(1) and Docker call them. */
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

/** What bin/crisp found as the soft limit of open files before Node raised it to the hard one for itself. */
export const givenNofileVariable = 'CRISP_NOFILE_SOFT';

/**
 * The rlimits of a container.
 * @param configured "SOFT:HARD", or one number for both
 * @param given the soft limit of open files that the service was started with; undefined: not known, which leaves the container with ours
 * @param limits the text of /proc/self/limits, for the hard one
 */
export function containerRlimits(configured: Ulimits, given: string | undefined, limits: string): Rlimits {
  const hard = /^Max open files +\d+ +(\d+)/m.exec(limits)?.[1];
  const ofService = given !== undefined && /^\d+$/.test(given) && hard ? { nofile: `${given}:${hard}` } : {};
  return Object.entries({ ...ofService, ...configured }).map(([name, text]) => {
    const [soft = '', both = soft] = text.split(':');
    return { type: `RLIMIT_${name.toUpperCase()}`, soft: Number(soft), hard: Number(both) };
  });
}

// What a running daemon takes over from a changed configuration (SIGHUP).
import { isDeepStrictEqual } from 'node:util';
import { configSchema, type Config } from './config.js';
import { CrispError } from '../errors.js';

/** The keys that take effect at SIGHUP, with all below them; the others are built into parts that live as long as the daemon. */
export const reloadable: readonly (keyof Config)[] = [
  'log_level',
  'default_container_type',
  'fallback',
  'routing',
];

export interface ConfigChange {
  /** The present configuration with what can be taken over. */
  readonly config: Config;
  /** The keys taken over, and those that wait for a restart: "routing", "network.conf_dir". */
  readonly applied: readonly string[];
  readonly needRestart: readonly string[];
}

/** @throws InvalidConfigFile when what can be reloaded does not stand without what cannot (a rule for a new handler) */
export function diffConfig(present: Config, wanted: Config): ConfigChange {
  const changed = changes(present, wanted, '');
  const isReloadable = (key: string): boolean =>
    reloadable.some((name) => key === name || key.startsWith(`${name}.`));
  const result = configSchema.safeParse({
    ...present,
    ...Object.fromEntries(reloadable.map((key) => [key, wanted[key]])),
  });
  if (!result.success) {
    const [issue] = result.error.issues;
    throw new CrispError(
      'InvalidConfigFile',
      `${issue?.path.join('.')}: ${issue?.message}, and handlers change only at a restart`,
      { hint: 'restart crisp: containers run on meanwhile' },
    );
  }
  return {
    config: Object.freeze(result.data),
    applied: changed.filter(isReloadable),
    needRestart: changed.filter((key) => !isReloadable(key)),
  };
}

/** The paths that differ, down to the key of a section. */
function changes(one: object, other: object, prefix: string): string[] {
  const keys = new Set([...Object.keys(one), ...Object.keys(other)]);
  return [...keys].flatMap((key) => {
    const [before, after] = [one, other].map((side) => (side as Record<string, unknown>)[key]);
    if (isDeepStrictEqual(before, after)) return [];
    return prefix === '' && isSection(before) && isSection(after)
      ? changes(before, after, `${key}.`)
      : [`${prefix}${key}`];
  });
}

function isSection(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

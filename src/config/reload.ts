// Applies a changed configuration to a running daemon (SIGHUP).
import { isDeepStrictEqual } from 'node:util';
import { configSchema, type Config } from './config.js';
import { CrispError } from '../errors.js';

/**
 * The keys that take effect at SIGHUP, including all keys below them; the others are used by services that
 * are made once, at the start.
 */
export const reloadable: readonly (keyof Config)[] = [
  'log_level',
  'default_container_type',
  'fallback',
  'routing',
];

export interface ConfigChange {
  /** The current configuration with the reloadable changes. */
  readonly config: Config;
  /** The applied keys, and the keys that need a restart: "routing", "network.conf_dir". */
  readonly applied: readonly string[];
  readonly needRestart: readonly string[];
}

/**
 * @throws InvalidConfigFile if a reloadable change depends on another one that needs a restart (a rule for a
 * new handler)
 */
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
      { hint: 'restart crisp: containers keep running' },
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

// `crisp config`: shows the effective configuration, the defaults or the schema.
import { stringify } from 'yaml';
import { checkConfig, loadConfig } from '../config/config.js';
import { configKeys, jsonSchema, type ConfigKey } from './config-keys.js';
import { printJson, wrap } from './output.js';
import { UsageError } from './parse.js';

export interface ConfigFlags {
  readonly config: string | undefined;
  readonly default: boolean;
  readonly schema: boolean;
  readonly json: boolean;
}

export function configCommand(flags: ConfigFlags): number {
  if (flags.default && flags.schema) throw new UsageError('give --default or --schema, not both');
  if (flags.default) {
    if (flags.json) printJson(checkConfig([]));
    else process.stdout.write(documentedDefault());
  } else if (flags.schema) printJson(jsonSchema());
  else {
    const config = loadConfig(flags.config);
    if (flags.json) printJson(config);
    else process.stdout.write(stringify(config));
  }
  return 0;
}

/**
 * The complete default configuration as a file, with a comment for each key. Keys that need a name are
 * commented out.
 */
export function documentedDefault(): string {
  const lines = [
    '# The configuration of crisp: every key with its default. A file needs only the',
    '# keys that it changes; more files (*.yaml) may be in config.d beside it.',
  ];
  for (const key of configKeys()) {
    const depth = key.path.length - 1;
    if (key.path.some((name) => name === '[]' || name === name.toUpperCase())) continue; // keys of rules and handlers: documented by their parent
    const indent = '  '.repeat(depth);
    lines.push('', ...wrap(comment(key), 92 - indent.length).map((line) => `${indent}# ${line}`));
    lines.push(
      ...(key.section
        ? [`${key.path.at(-1)}:`]
        : stringify({ [key.path.at(-1) ?? '']: key.default })
            .trimEnd()
            .split('\n')
      ).map((line) => `${indent}${line}`),
    );
  }
  return `${lines.join('\n')}\n`;
}

function comment({ description, unit, type, section }: ConfigKey): string {
  const kind = [type.startsWith('one of') ? type : '', unit ? `in ${unit}` : ''].filter(Boolean).join(', ');
  return section || !kind ? description : `${description} (${kind})`;
}

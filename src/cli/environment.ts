// The environment of a process, from --env and --env-file.
import { readText } from '../host/files.js';
import { CrispError } from '../errors.js';

const maxFileBytes = 1 << 20;

export interface EnvironmentFlags {
  readonly env: readonly string[];
  readonly 'env-file': readonly string[];
}

/**
 * KEY=VALUE each, the files first. KEY alone takes its value from crisp's own environment, and is left out if
 * it is not set there.
 * @throws InvalidArgument, FileRefused
 */
export async function environmentOf(flags: EnvironmentFlags): Promise<string[]> {
  const own: Readonly<Record<string, string | undefined>> = process.env;
  const entry = (text: string, where: string): string[] => {
    const equals = text.indexOf('=');
    if (text === '' || equals === 0)
      throw new CrispError(
        'InvalidArgument',
        `${where} "${text}" must be KEY=VALUE, or KEY for the value of this shell`,
      );
    if (equals > 0) return [text];
    return own[text] === undefined ? [] : [`${text}=${own[text]}`];
  };
  const entries: string[] = [];
  for (const file of flags['env-file']) {
    const lines = (await readEnvFile(file)).split(/\r?\n/);
    for (const [index, line] of lines.entries())
      if (line.trim() !== '' && !line.startsWith('#')) entries.push(...entry(line, `${file}:${index + 1}:`));
  }
  return [...entries, ...flags.env.flatMap((text) => entry(text, '--env'))];
}

async function readEnvFile(file: string): Promise<string> {
  try {
    return await readText(file, { maxBytes: maxFileBytes });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new CrispError('InvalidArgument', `--env-file: ${file} does not exist`);
  }
}

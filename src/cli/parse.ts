// Parses the command line into the flags and arguments of a command, strictly:
// an unknown flag or argument is an error that names it.
import { parseArgs } from 'node:util';
import type { Command, Flags, Invocation } from './command.js';
import { meant } from './meant.js';

/** An invalid command line: a message of one line, exit code 2, no effect. */
export class UsageError extends Error {}

/** @throws UsageError */
export function parse(command: Command, words: readonly string[]): Invocation<Flags> | 'help' {
  const [own, passedOn] = command.passesOn ? split(command, words) : [words, []];
  const { values, positionals } = read(command, own);
  if (values['help']) return 'help';
  const args = [...positionals, ...passedOn];
  checkNumber(command, args);
  const flags = Object.fromEntries(
    Object.entries(command.flags).map(([name, flag]) => [
      name,
      values[name] ?? (flag.value === undefined ? false : flag.multiple ? [] : undefined),
    ]),
  );
  return { flags, args } as Invocation<Flags>;
}

function read(
  command: Command,
  words: readonly string[],
): { values: Record<string, string | boolean | (string | boolean)[] | undefined>; positionals: string[] } {
  const options = Object.fromEntries(
    Object.entries(command.flags).map(([name, flag]) => [
      name,
      {
        type: flag.value === undefined ? ('boolean' as const) : ('string' as const),
        multiple: flag.multiple ?? false,
        ...(flag.short ? { short: flag.short } : {}),
      },
    ]),
  );
  try {
    return parseArgs({
      args: [...words],
      allowPositionals: true,
      strict: true,
      options: { ...options, help: { type: 'boolean', short: 'h' } },
    });
  } catch (error) {
    throw new UsageError(plain(command, error as Error & { code?: string }));
  }
}

/** Replaces Node's messages, which explain escaping, by the problem. */
function plain(command: Command, error: Error & { code?: string }): string {
  const word = /'([^']*)'/.exec(error.message)?.[1]?.replace(/^-\w, /, '') ?? '';
  if (error.code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION') {
    const instead = command.leftOut?.[word];
    const flags = [...Object.keys(command.flags), 'help'].map((name) => `--${name}`);
    return instead
      ? `crisp ${command.name} has no ${word} on purpose: ${instead}`
      : `unknown flag ${word}${meant(word, flags)}`;
  }
  if (error.code === 'ERR_PARSE_ARGS_INVALID_OPTION_VALUE') {
    return /does not take/.test(error.message)
      ? `${word.replace(/[ =].*/, '')} does not have a value`
      : `${word.replace(/ <value>$/, '')} needs a value`;
  }
  return error.message;
}

/** Splits a command line at its first argument: `crisp run --rm IMAGE ls -l` passes -l on. */
function split(command: Command, words: readonly string[]): [readonly string[], readonly string[]] {
  for (let index = 0; index < words.length; index++) {
    const word = words[index] ?? '';
    if (word === '--') return [words.slice(0, index), words.slice(index + 1)];
    if (!word.startsWith('-') || word === '-') return [words.slice(0, index), words.slice(index)];
    const flag = word.startsWith('--')
      ? command.flags[word.slice(2)]
      : Object.values(command.flags).find((candidate) => `-${candidate.short}` === word);
    if (flag?.value !== undefined) index++;
  }
  return [words, []];
}

function checkNumber(command: Command, args: readonly string[]): void {
  const missing = command.arguments.filter((argument) => !argument.optional)[args.length];
  if (missing) throw new UsageError(`${missing.name} is missing`);
  if (!command.arguments.at(-1)?.rest && args.length > command.arguments.length) {
    throw new UsageError(`unexpected argument "${args[command.arguments.length]}"`);
  }
}

// The texts of `crisp help` and `crisp COMMAND --help`, from the table.
import type { Argument, Command, Flag } from './command.js';
import { wrap } from './output.js';

/** The width of --help. */
const columns = 100;
/** The rest is in the man page. */
const examplesShown = 2;

export const groups: readonly [Command['group'], string][] = [
  ['daemon', 'The daemon'],
  ['containers', 'Single containers, without the daemon'],
  ['images', 'Images, without the daemon'],
  ['operator', "The operator's"],
];
export const commonExitCodes: readonly { code: string; meaning: string }[] = [
  { code: '0', meaning: 'done' },
  { code: '1', meaning: 'failed; the error is on stderr, in one line with a hint' },
  { code: '2', meaning: 'the command line or the configuration is wrong, and nothing was done' },
];

export function overview(commands: readonly Command[]): string {
  const names = ({ name, aliases }: Command): string => [name, ...(aliases ?? [])].join(', ');
  const width = Math.max(...commands.map((command) => names(command).length));
  const sections = groups.map(([group, title]) =>
    [
      `${title}:`,
      ...commands
        .filter((command) => command.group === group)
        .map((command) => `  ${names(command).padEnd(width)}  ${command.summary}`),
    ].join('\n'),
  );
  return `crisp: a Kubernetes container runtime (CRI) for crun, runc and Proxmox VE containers\n\nUsage: crisp COMMAND [FLAGS] [ARGUMENTS]\n\n${sections.join('\n\n')}\n\nMore: crisp COMMAND --help, man crisp, docs/CLI_REFERENCE.md\n`;
}

/** One screen (help.test.ts): the man page has all paragraphs and examples. */
export function helpOf(command: Command): string {
  const own = command.exitCodes ? exitCodes(command).map(({ code, meaning }) => `${code} = ${meaning}`) : [];
  const sections = [
    [usage(command)],
    [...wrap(command.description[0] ?? '', columns), alsoNamed(command)],
    section(
      'Arguments',
      command.arguments.map((argument) => [argument.name, argument.summary]),
    ),
    section('Flags', helpRows(command)),
    own.length ? wrap(`Exit codes: ${own.join('. ')}`, columns) : [],
    examples(command),
  ];
  return sections
    .map((lines) => lines.filter(Boolean).join('\n'))
    .filter(Boolean)
    .map((text) => `${text}\n`)
    .join('\n');
}

function examples(command: Command): string[] {
  const all = command.description.length > 1 || command.examples.length > examplesShown;
  return [
    `Examples${all ? ' (more in the man page)' : ''}:`,
    ...command.examples.slice(0, examplesShown).map(({ what, line }) => {
      const both = `  ${line}  # ${what}`;
      return both.length > columns ? `  ${line}` : both;
    }),
  ];
}

/** The flags, those of a row of `helpRows` at the place of its first one. */
function helpRows(command: Command): (readonly [string, string])[] {
  return Object.keys(command.flags).flatMap((name): (readonly [string, string])[] => {
    const row = command.helpRows?.find(({ flags }) => flags.includes(name));
    if (!row) return [flagRow(name, command.flags[name] as Flag)];
    return row.flags[0] === name ? [[rowWords(command, row.flags), row.summary]] : [];
  });
}

/** "--read-only; --tmpfs TARGET"; flags that take the same value share it: "-l, --label, --annotation KEY=VALUE". */
function rowWords({ flags }: Command, names: readonly string[]): string {
  return names
    .map((name, index) => {
      const flag = flags[name] as Flag;
      const next = flags[names[index + 1] ?? ''];
      const sharesValue = flag.value !== undefined && next?.value === flag.value;
      if (sharesValue) return `${flagName(name, flag)}, `;
      return flagWord(name, flag) + (next ? '; ' : '');
    })
    .join('');
}

export function usage(command: Command): string {
  const words = ['Usage: crisp', command.name, '[FLAGS]', ...command.arguments.map(argumentWord)];
  return words.join(' ');
}

/** "Also: crisp ps"; empty if the command has no alias. */
export function alsoNamed({ aliases }: Command): string {
  return aliases ? `Also: ${aliases.map((alias) => `crisp ${alias}`).join(', ')}` : '';
}

function argumentWord(argument: Argument): string {
  const word = argument.rest ? `${argument.name}...` : argument.name;
  return argument.optional ? `[${word}]` : word;
}

/** [syntax, summary] of each flag. */
export function flagRows(command: Command): [string, string][] {
  return Object.entries(command.flags).map(([name, flag]) => flagRow(name, flag));
}

function flagRow(name: string, flag: Flag): [string, string] {
  return [flagWord(name, flag), flag.multiple ? `${flag.summary} (may be repeated)` : flag.summary];
}

function flagWord(name: string, flag: Flag): string {
  return `${flagName(name, flag)}${flag.value === undefined ? '' : ` ${flag.value}`}`;
}

function flagName(name: string, { short }: Flag): string {
  return `${short ? `-${short}, ` : ''}--${name}`;
}

/** If a command gives 1 another meaning, its own line is shown. */
export function exitCodes(command: Command): readonly { code: string; meaning: string }[] {
  const own = command.exitCodes ?? [];
  return [...commonExitCodes.filter(({ code }) => !own.some((other) => other.code === code)), ...own].filter(
    ({ code }) =>
      !(code === '1' && command.ownFailure !== undefined && !own.some((other) => other.code === '1')),
  );
}

function section(title: string, rows: readonly (readonly [string, string])[]): string[] {
  if (rows.length === 0) return [];
  const width = Math.max(...rows.map(([left]) => left.length));
  return [
    `${title}:`,
    ...rows.flatMap(([left, right]) =>
      wrap(right, columns - width - 4).map(
        (line, index) => `  ${(index ? '' : left).padEnd(width)}  ${line}`,
      ),
    ),
  ];
}

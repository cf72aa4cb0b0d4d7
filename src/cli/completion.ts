// `crisp completion SHELL`: scripts made from the table.
import type { Command, Flag } from './command.js';
import { UsageError } from './parse.js';

export function completionCommand([shell = '']: readonly string[], commands: readonly Command[]): number {
  process.stdout.write(completionScript(shell, commands));
  return 0;
}

/** @throws UsageError for another shell */
export function completionScript(shell: string, commands: readonly Command[]): string {
  switch (shell) {
    case 'bash':
      return bash(commands);
    case 'zsh':
      return zsh(commands);
    case 'fish':
      return fish(commands);
    default:
      throw new UsageError(`SHELL must be bash, zsh or fish, not "${shell}"`);
  }
}

function flagsOf(command: Command): [string, Flag][] {
  return [...Object.entries(command.flags), ['help', { short: 'h', summary: 'show help' }]];
}

/** Shell commands that list the names; without permission they print nothing. */
const listing = {
  container: "crisp list 2>/dev/null | awk 'NR > 1 { print $2 }'",
  image: "crisp images 2>/dev/null | awk 'NR > 1 { print $1 }'",
} as const;

function listingOf(complete: Flag['complete']): string | undefined {
  return complete === 'container' || complete === 'image' ? listing[complete] : undefined;
}

function namesOf({ name, aliases }: Command): string[] {
  return [name, ...(aliases ?? [])];
}

function words(complete: Flag['complete']): readonly string[] | undefined {
  return typeof complete === 'object' ? complete : undefined;
}

function bash(commands: readonly Command[]): string {
  const values = (command: Command): string =>
    flagsOf(command)
      .filter(([, flag]) => flag.value !== undefined)
      .map(
        ([name, flag]) =>
          `        ${flag.short ? `-${flag.short}|` : ''}--${name}) ${bashValues(flag.complete)}; return ;;`,
      )
      .join('\n');
  const cases = commands.map(
    (command) => `    ${namesOf(command).join('|')})
      case "$previous" in
${values(command) || '        "") ;;'}
      esac
      if [[ $current == -* ]]; then COMPREPLY=($(compgen -W "${flagsOf(command)
        .map(([name]) => `--${name}`)
        .join(' ')}" -- "$current"))
      else ${bashValues(command.arguments.find(({ complete }) => complete)?.complete)}; fi ;;`,
  );
  return `# bash completion for crisp; made by \`crisp completion bash\`.
_crisp() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "${commands.map(({ name }) => name).join(' ')} help" -- "$current"))
    return
  fi
  case "\${COMP_WORDS[1]}" in
    help) COMPREPLY=($(compgen -W "${commands.map(({ name }) => name).join(' ')}" -- "$current")) ;;
${cases.join('\n')}
  esac
}
complete -F _crisp crisp
`;
}

function bashValues(complete: Flag['complete']): string {
  if (complete === 'file') return 'COMPREPLY=($(compgen -f -- "$current"))';
  if (complete === 'folder') return 'COMPREPLY=($(compgen -d -- "$current"))';
  const list = listingOf(complete);
  if (list) return `COMPREPLY=($(compgen -W "$(${list})" -- "$current"))`;
  return words(complete) ? `COMPREPLY=($(compgen -W "${words(complete)?.join(' ')}" -- "$current"))` : ':';
}

function zsh(commands: readonly Command[]): string {
  const cases = commands.map((command) => {
    const specs = flagsOf(command).flatMap(([name, flag]) =>
      [`--${name}`, ...(flag.short ? [`-${flag.short}`] : [])].map(
        (word) =>
          `'${flag.multiple ? '*' : ''}${word}[${zshText(flag.summary)}]${flag.value === undefined ? '' : `:${zshText(flag.value)}:${zshValues(flag.complete)}`}'`,
      ),
    );
    const args = command.arguments.map(
      (argument, index) =>
        `'${argument.rest ? '*' : index + 1}:${zshText(argument.name)}:${zshValues(argument.complete)}'`,
    );
    return `    ${namesOf(command).join('|')}) _arguments ${[...specs, ...args].join(' \\\n      ')} ;;`;
  });
  return `#compdef crisp
# zsh completion for crisp; made by \`crisp completion zsh\`.
_crisp_containers() { compadd -- \${(f)"$(${listing.container})"} }
_crisp_images() { compadd -- \${(f)"$(${listing.image})"} }
_crisp() {
  local -a commands
  commands=(
${commands.map(({ name, summary }) => `    '${name}:${zshText(summary)}'`).join('\n')}
    'help:show help'
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
    help) _describe command commands ;;
${cases.join('\n')}
  esac
}
if [[ $funcstack[1] = _crisp ]]; then _crisp "$@"; else compdef _crisp crisp; fi
`;
}

function zshValues(complete: Flag['complete']): string {
  if (complete === 'file') return '_files';
  if (complete === 'folder') return '_files -/';
  if (complete === 'container') return '_crisp_containers';
  if (complete === 'image') return '_crisp_images';
  return words(complete) ? `(${words(complete)?.join(' ')})` : ' ';
}

/** Escapes text inside single quotes; : [ and ] are special in zsh's completion specs. */
function zshText(text: string): string {
  return text.replaceAll("'", "'\\''").replace(/[[\]:]/g, '\\$&');
}

function fish(commands: readonly Command[]): string {
  const quote = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  const lines = commands.flatMap((command) => [
    `complete -c crisp -n __fish_use_subcommand -f -a ${command.name} -d ${quote(command.summary)}`,
    ...flagsOf(command).map(([name, flag]) =>
      [
        `complete -c crisp -n '__fish_seen_subcommand_from ${namesOf(command).join(' ')}' -l ${name}`,
        flag.short ? `-s ${flag.short}` : '',
        fishValues(flag.complete, flag.value !== undefined),
        `-d ${quote(flag.summary)}`,
      ]
        .filter(Boolean)
        .join(' '),
    ),
    ...(command.arguments.some(({ complete }) => complete === 'file' || complete === 'folder') ||
    command.passesOn
      ? []
      : [`complete -c crisp -n '__fish_seen_subcommand_from ${namesOf(command).join(' ')}' -f`]),
    ...command.arguments.flatMap(({ complete }) =>
      fishWords(complete)
        ? [
            `complete -c crisp -n '__fish_seen_subcommand_from ${namesOf(command).join(' ')}' -f -a ${quote(fishWords(complete) ?? '')}`,
          ]
        : [],
    ),
  ]);
  return `# fish completion for crisp; made by \`crisp completion fish\`.\n${lines.join('\n')}
complete -c crisp -n __fish_use_subcommand -f -a help -d 'show help'
complete -c crisp -n '__fish_seen_subcommand_from help' -f -a '${commands.map(({ name }) => name).join(' ')}'
`;
}

function fishWords(complete: Flag['complete']): string | undefined {
  const list = listingOf(complete);
  return list ? `(${list})` : words(complete)?.join(' ');
}

function fishValues(complete: Flag['complete'], takesValue: boolean): string {
  if (!takesValue) return '-f';
  if (complete === 'file') return '-r -F';
  if (complete === 'folder') return "-x -a '(__fish_complete_directories)'";
  return fishWords(complete) ? `-x -a '${fishWords(complete)}'` : '-x';
}

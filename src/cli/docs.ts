// The documents that are generated from tables in the code: `npm run docs`
// writes them, docs.test.ts checks that they are current.
import { status as Code } from '@grpc/grpc-js';
import { coverageDocument } from '../coverage.js';
import { catalogue, coreErrors } from '../errors.js';
import { version } from '../version.js';
import type { Command } from './command.js';
import { configKeys, type ConfigKey } from './config-keys.js';
import { alsoNamed, commonExitCodes, exitCodes, flagRows, groups, usage } from './help.js';
import { commands, leftOut } from './table.js';

const generated = '<!-- Made by `npm run docs`; do not edit. -->';

/** Path from the top of the repository -> content. */
export function documents(): ReadonlyMap<string, string> {
  return new Map([
    ['docs/CLI_REFERENCE.md', cliReference()],
    ['docs/configuration.md', configuration()],
    ['docs/cri-coverage.md', coverageDocument()],
    ['docs/errors.md', errors()],
    ['docs/man/crisp.1', manPage()],
    ['docs/man/crisp.yaml.5', configurationPage()],
    ['docs/man/crisp-serve.8', daemonPage()],
  ]);
}

function cliReference(): string {
  const sections = groups.flatMap(([group, title]) => [
    `## ${title}`,
    ...commands.filter((command) => command.group === group).map(commandSection),
  ]);
  return `${[
    '# Command line',
    generated,
    '`crisp COMMAND [FLAGS] [ARGUMENTS]`. Flags may be written `--flag value` or `--flag=value`; `--help` works on every command. The output is in columns for people; `--json`, if a command has it, is for machines. Errors are one line on stderr, with an id that [errors.md](errors.md) explains.',
    `Exit codes, unless a command says otherwise:\n\n${table(
      ['Code', 'Meaning'],
      commonExitCodes.map(({ code, meaning }) => [code, meaning]),
    )}`,
    'Commands other than `serve` do not log; `CRISP_LOG_LEVEL=debug` in the environment shows each program that is run, on stderr.',
    ...sections,
    '## Words of podman, nerdctl and crictl',
    'Commands with the same name do the same. These have a name of crisp as well, and both can be typed:',
    table(
      ['Their word', 'In crisp'],
      commands.flatMap(({ name, aliases = [] }) =>
        aliases.map((alias) => [`\`${alias}\``, `\`crisp ${name}\``]),
      ),
    ),
    '## Left out on purpose',
    'Commands and flags that podman or nerdctl have and crisp does not; the command line says the same when one is used.',
    table(
      ['Command', 'Instead'],
      Object.entries(leftOut).map(([name, instead]) => [`\`${name}\``, instead]),
    ),
    table(
      ['Flag', 'Of', 'Instead'],
      leftOutFlags().map(([flag, of, instead]) => [`\`${flag}\``, of, instead]),
    ),
  ].join('\n\n')}\n`;
}

/** [flag, commands, what to use instead] */
function leftOutFlags(): [string, string, string][] {
  const rows = new Map<string, [string, string[], string]>();
  for (const { name, leftOut: flags = {} } of commands)
    for (const [flag, instead] of Object.entries(flags)) {
      const row = rows.get(`${flag} ${instead}`) ?? [flag, [], instead];
      row[1].push(`\`crisp ${name}\``);
      rows.set(`${flag} ${instead}`, row);
    }
  return [...rows.values()].map(([flag, of, instead]) => [flag, of.join(', '), instead]);
}

function commandSection(command: Command): string {
  const own = command.exitCodes?.length
    ? `Exit codes:\n\n${table(
        ['Code', 'Meaning'],
        exitCodes(command).map(({ code, meaning }) => [code, meaning]),
      )}`
    : '';
  return [
    `### crisp ${command.name}`,
    `\`${usage(command).replace('Usage: ', '')}\``,
    ...command.description,
    alsoNamed(command).replace(/crisp \w+/g, '`$&`'),
    command.arguments.length
      ? table(
          ['Argument', 'Meaning'],
          command.arguments.map(({ name, summary }) => [`\`${name}\``, summary]),
        )
      : '',
    Object.keys(command.flags).length
      ? table(
          ['Flag', 'Meaning'],
          flagRows(command).map(([word, meaning]) => [`\`${word}\``, meaning]),
        )
      : '',
    own,
    `\`\`\`sh\n${command.examples.map(({ what, line }) => `# ${what}\n${line}`).join('\n')}\n\`\`\``,
  ]
    .filter(Boolean)
    .join('\n\n');
}

function configuration(): string {
  const keys = configKeys();
  const isInner = (key: ConfigKey): boolean => key.path.length > 1;
  const sections = keys.filter(
    (key) => !isInner(key) && keys.some((other) => isInner(other) && other.path[0] === key.path[0]),
  );
  return `${[
    '# Configuration',
    generated,
    'crisp reads `/etc/crisp/config.yaml` (or the file of `--config`), then the files `config.d/*.yaml` beside it in the order of their names, then the flags of the command line. Maps are merged key by key; lists and values are replaced. No file is needed: every key has a default.',
    'An unknown key, a wrong type or an invalid rule is refused at the start, with file, line and key. `crisp config` shows the effective configuration and checks a file without starting anything; `crisp config --default` prints the defaults as a file; `crisp config --schema` prints the JSON Schema, for editors.',
    '## Reload',
    'On SIGHUP the daemon reads the configuration again. Keys marked *reload* take effect at once, for pods that are made afterwards; other changed keys are logged and need a restart (containers keep running). An invalid configuration changes nothing.',
    '## Keys',
    keyTable(keys.filter((key) => !isInner(key))),
    ...sections.flatMap((section) => [
      `### ${section.path[0]}`,
      keyTable(keys.filter((key) => isInner(key) && key.path[0] === section.path[0] && !key.section)),
    ]),
    ...routingGuide,
  ].join('\n\n')}\n`;
}

const routingGuide = [
  '## How the handler of a pod is chosen',
  'The handler is chosen once, when the pod is made, and does not change. The first of these that applies decides:',
  [
    '1. The RuntimeClass of the pod: its `handler` is the name of a handler of the configuration. An unknown name is refused.',
    '2. `routing.rules`, in order: the first rule of which all conditions match.',
    '3. `routing.crun_name_patterns`: a pod with a matching name runs on crun.',
    '4. `default_container_type`.',
  ].join('\n'),
  'If the probe of that handler failed and `fallback` names another, the other one takes its place, and the log and the verbose status say so. A pod that names a RuntimeClass gets that handler or an error: it may have been chosen for what only it can do.',
  'A pattern is a glob (`*` any text, `?` one character) or, between slashes, a regular expression in the [syntax of RE2](https://github.com/google/re2/wiki/Syntax), where `.` is also a line break. Both must match the whole value. The time of a match is linear in the length of the value, so that no label or annotation can hold up the node; lookaround and backreferences are therefore refused. A condition on a label or annotation that the pod does not have never matches.',
  'The kubelet makes a pod before it says which images run in it. So a rule with `image` decides only where the image is known at that time, which is on `crisp run` and `crisp create`; for pods, use labels, annotations or the namespace.',
  `\`\`\`yaml
routing:
  rules:
    - namespace: kube-system
      handler: crun
    - labels: {isolation: guest}
      annotations: {example.org/tier: "/gold|silver/"}
      handler: runc
  crun_name_patterns: [coredns-*, kube-proxy-*]
default_container_type: crun
fallback: {crun: runc}
\`\`\``,
];

function keyTable(keys: readonly ConfigKey[]): string {
  return table(
    ['Key', 'Type', 'Unit', 'Default', '', 'Meaning'],
    keys.map((key) => [
      `\`${key.path.join('.').replaceAll('.[]', '[]')}\``,
      key.type,
      key.unit ?? '',
      key.section || key.default === undefined ? '' : `\`${JSON.stringify(key.default)}\``,
      key.reload ? '*reload*' : '',
      key.description,
    ]),
  );
}

function errors(): string {
  return `${[
    '# Errors',
    generated,
    'Every error has an id that does not change. The message that a client gets, and that `kubectl describe pod` shows, has this form:',
    '```text\nCniFailed: bridge failed: no address left; [stage: cni add, tool: bridge]; stderr: ...; hint: the plugin and its message are above\n```',
    'That is: the id and the message; the step and the program that failed; the end of the stderr of the program; how to fix it. Unknown parts are left out.',
    table(
      ['Id', 'gRPC code', 'Meaning', 'What to do'],
      Object.entries(catalogue).map(([id, { core, meaning, hint }]) => [
        `\`${id}\``,
        Code[coreErrors[core]],
        meaning,
        hint,
      ]),
    ),
  ].join('\n\n')}\n`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const row = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [row(head), `|${head.map(() => '---|').join('')}`, ...rows.map(row)].join('\n');
}

/** roff(7), with the man macros. */
function manPage(): string {
  const sections = groups.flatMap(([group, title]) => [
    `.SH "${title.toUpperCase()}"`,
    ...commands.filter((command) => command.group === group).flatMap(manCommand),
  ]);
  return `${[
    '.\\" Made by `npm run docs`; do not edit.',
    `.TH CRISP 1 "" "crisp ${version}" "User Commands"`,
    '.ad l', // long words, such as defaults, would cause wide gaps in justified text
    '.SH NAME',
    'crisp \\- Kubernetes container runtime (CRI) for crun, runc and Proxmox VE containers',
    '.SH SYNOPSIS',
    '.B crisp',
    '.I COMMAND',
    '[\\fIFLAGS\\fR] [\\fIARGUMENTS\\fR]',
    '.SH DESCRIPTION',
    roff(
      'crisp serves the container runtime interface (CRI) to a kubelet, and runs single containers from the command line without a daemon. Errors are one line on stderr that begins with an id.',
    ),
    ...sections,
    '.SH "EXIT STATUS"',
    ...commonExitCodes.flatMap(({ code, meaning }) => manItem(code, meaning)),
    '.SH ENVIRONMENT',
    ...manItem(
      'CRISP_LOG_LEVEL',
      'trace, debug, info, warn or error: shows the log of commands other than serve on stderr',
    ),
    '.SH FILES',
    ...manItem('/etc/crisp/config.yaml', 'the configuration; more files are in /etc/crisp/config.d'),
    '.SH "SEE ALSO"',
    '.BR crun (1),',
    '.BR runc (8),',
    '.BR conmon (8),',
    '.BR skopeo (1),',
    '.BR crisp.yaml (5),',
    '.BR crisp\\-serve (8)',
  ].join('\n')}\n`;
}

/** crisp.yaml(5): the keys of the configuration. */
function configurationPage(): string {
  const facts = (key: ConfigKey): string =>
    [
      key.section ? '' : `Type: ${key.type}${key.unit ? ` (${key.unit})` : ''}.`,
      key.section || key.default === undefined ? '' : `Default: ${JSON.stringify(key.default)}.`,
      key.reload ? 'Takes effect on SIGHUP.' : '',
    ]
      .filter(Boolean)
      .join(' ');
  return `${[
    '.\\" Made by `npm run docs`; do not edit.',
    '.ds AD l', // the same for groff 1.23, whose macros set the adjustment again
    `.TH CRISP.YAML 5 "" "crisp ${version}" "File Formats"`,
    '.ad l', // long words, such as defaults, would cause wide gaps in justified text
    '.SH NAME',
    'crisp.yaml \\- configuration of the crisp container runtime',
    '.SH SYNOPSIS',
    '/etc/crisp/config.yaml',
    '.br',
    '/etc/crisp/config.d/*.yaml',
    '.SH DESCRIPTION',
    roff(
      'YAML. The files of config.d are read after config.yaml, in the order of their names; maps are merged key by key, lists and values are replaced. No file is needed: every key has a default. An unknown key or a wrong value is refused with its file and line.',
    ),
    '.SH KEYS',
    ...configKeys().flatMap((key) =>
      manItem(
        key.path.join('.').replaceAll('.[]', '[]'),
        `${key.description}${facts(key) && `. ${facts(key)}`}`,
      ),
    ),
    '.SH "SEE ALSO"',
    '.BR crisp (1),',
    '.BR crisp\\-serve (8)',
  ].join('\n')}\n`;
}

/** crisp-serve(8): the daemon. */
function daemonPage(): string {
  const serve = commands.filter(({ name }) => name === 'serve');
  return `${[
    '.\\" Made by `npm run docs`; do not edit.',
    `.TH CRISP\\-SERVE 8 "" "crisp ${version}" "System Administration"`,
    '.ad l', // long words, such as defaults, would cause wide gaps in justified text
    '.SH NAME',
    'crisp\\-serve \\- daemon of the crisp container runtime',
    '.SH SYNOPSIS',
    '.B crisp serve',
    '[\\fIFLAGS\\fR]',
    '.SH DESCRIPTION',
    ...serve.flatMap(manCommand),
    '.SH SIGNALS',
    ...manItem(
      'SIGTERM, SIGINT',
      'ends the daemon; containers keep running, and exits meanwhile are recorded at the next start',
    ),
    ...manItem('SIGHUP', 'reads the configuration again; keys that cannot change are named in the log'),
    '.SH FILES',
    ...manItem('/run/crisp/crisp.sock', 'the socket of the CRI'),
    ...manItem('/run/crisp', 'records, bundles and namespaces of running pods'),
    ...manItem('/var/lib/crisp', 'images and writable layers'),
    ...manItem('/etc/cni/net.d', 'the pod networks'),
    '.SH "SEE ALSO"',
    '.BR crisp (1),',
    '.BR crisp.yaml (5),',
    '.BR systemctl (1)',
  ].join('\n')}\n`;
}

function manCommand(command: Command): string[] {
  return [
    `.SS "${roff(usage(command).replace('Usage: ', ''))}"`,
    ...[...command.description, alsoNamed(command)].filter(Boolean).flatMap((text) => [roff(text), '.PP']),
    ...command.arguments.flatMap(({ name, summary }) => manItem(name, summary)),
    ...flagRows(command).flatMap(([word, meaning]) => manItem(word, meaning)),
    ...(command.exitCodes ?? []).flatMap(({ code, meaning }) => manItem(`exit ${code}`, meaning)),
    '.PP',
    'Examples:',
    ...command.examples.flatMap(({ what, line }) => ['.PP', `# ${roff(what)}`, '.br', roff(line)]),
  ];
}

function manItem(term: string, meaning: string): string[] {
  return ['.TP', `.B ${roff(term)}`, roff(meaning)];
}

/** Escapes text: hyphens stay ASCII hyphens when copied, and no line begins with a macro. */
function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(',"', ',\\:"') // JSON without spaces: allow a line break there
    .replace(/^([.'])/, '\\&$1');
}

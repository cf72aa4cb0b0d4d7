// The commands on single containers, which need no daemon.
import { define, type Command } from './command.js';
import { places } from './table-places.js';

const making = {
  name: { value: 'NAME', summary: 'its name and hostname (default: the beginning of its id)' },
  namespace: { value: 'NAME', summary: 'the namespace for routing rules (default: empty)' },
  handler: { value: 'NAME', summary: 'the runtime handler, as in a RuntimeClass (default: as routed)' },
  rootfs: {
    value: 'DIR',
    complete: 'folder',
    summary:
      'use this folder as root filesystem instead of an image (not for unprivileged CTs); all arguments are then the command',
  },
  pull: {
    value: 'missing|always|never',
    complete: ['missing', 'always', 'never'],
    summary: 'when to pull the image (default missing: if this node does not have it)',
  },
  env: { value: 'KEY=VALUE', short: 'e', multiple: true, summary: 'an environment variable' },
  volume: {
    value: 'SOURCE:TARGET[:ro]',
    short: 'v',
    multiple: true,
    summary: 'bind mount a path of the host',
  },
  user: { value: 'USER[:GROUP]', short: 'u', summary: "names in the image, or ids (default: the image's)" },
  workdir: { value: 'DIR', short: 'w', summary: "the working folder (default: the image's)" },
  memory: { value: 'BYTES', short: 'm', summary: 'memory limit: 64m, 2g' },
  cpus: { value: 'NUMBER', summary: 'CPU limit: 0.5, 2' },
  network: {
    value: 'none|host',
    complete: ['none', 'host'],
    summary:
      "none: loopback only (default, except for CTs if lxc.network is bridge); host: the host's network",
  },
  label: { value: 'KEY=VALUE', short: 'l', multiple: true, summary: 'a label, for routing rules' },
  annotation: { value: 'KEY=VALUE', multiple: true, summary: 'an annotation, for routing rules' },
  interactive: { short: 'i', summary: 'pass standard input on' },
  tty: { short: 't', summary: 'give it a terminal' },
} as const;

const imageArguments = [
  {
    name: 'IMAGE',
    optional: true,
    summary:
      'an image (name, digest, or the id of a local image), an OCI archive or layout (./FILE.tar, ./DIR), which is imported, or a template of Proxmox (pve/STORAGE:vztmpl/NAME); not with --rootfs',
  },
  { name: 'COMMAND', optional: true, rest: true, summary: "replaces the image's Cmd" },
] as const;

const id = { name: 'CONTAINER', summary: 'a name, an id, or a unique prefix of an id' } as const;

const run = define({
  name: 'run',
  group: 'containers',
  summary: 'Make a container and run it in the foreground',
  description: [
    'Makes a container from an image, which is pulled if this node does not have it, runs it, shows its output, passes signals on, and exits with its exit code. Works with or without a running daemon.',
    'If the reader of its output exits (`| head -1`), the container is stopped, and the exit code is 141, as for a program that is ended by SIGPIPE.',
    'The container is routed like a pod with its name, labels, annotations and image (see docs/configuration.md, routing), to an OCI runtime or to Proxmox CTs, and keeps its record until `crisp delete`, unless --rm is given.',
  ],
  arguments: imageArguments,
  flags: {
    ...making,
    detach: { short: 'd', summary: 'leave it running in the background and print its id' },
    rm: { summary: 'delete it after it has ended' },
    ...places,
  },
  passesOn: true,
  ownFailure: 125,
  exitCodes: [
    {
      code: '125',
      meaning: "error of crisp itself; any other code is the container's (128+N: ended by signal N)",
    },
  ],
  examples: [
    { what: 'one command', line: 'crisp run --rm busybox echo hello' },
    { what: 'a shell', line: 'crisp run --rm -it busybox sh' },
    {
      what: 'on runc, from an archive, with limits',
      line: 'crisp run --rm --handler runc --memory 64m --cpus 0.5 ./app.tar',
    },
    { what: 'as a Proxmox CT', line: 'crisp run --rm --handler lxc busybox hostname' },
    { what: 'on a folder', line: 'crisp run --rm --rootfs /srv/debian /bin/cat /etc/os-release' },
  ],
  run: async ({ flags, args }) => (await import('./container-run.js')).runCommand(flags, args),
});

const create = define({
  name: 'create',
  group: 'containers',
  summary: 'Make a container without starting it',
  description: ['Makes a container like `crisp run`, does not start it, and prints its id.'],
  arguments: imageArguments,
  flags: { ...making, ...places },
  passesOn: true,
  examples: [
    {
      what: 'make one and start it later',
      line: 'crisp create --name web busybox httpd -f && crisp start web',
    },
  ],
  run: async ({ flags, args }) => (await import('./container-create.js')).createCommand(flags, args),
});

const start = define({
  name: 'start',
  group: 'containers',
  summary: 'Start a created container',
  description: ['Starts a container that `crisp create` made, and prints its id.'],
  arguments: [id],
  flags: places,
  examples: [{ what: 'by name', line: 'crisp start web' }],
  run: async ({ flags, args }) => (await import('./container-run.js')).startCommand(flags, args),
});

const stop = define({
  name: 'stop',
  group: 'containers',
  summary: 'Stop a container',
  description: [
    'Sends the stop signal of the image (SIGTERM by default), waits, and then sends SIGKILL. A container that has ended already is not an error.',
  ],
  arguments: [id],
  flags: {
    time: { value: 'SECONDS', summary: 'how long to wait after the stop signal (default 10)' },
    ...places,
  },
  examples: [{ what: 'with a grace period of 30 seconds', line: 'crisp stop --time 30 web' }],
  run: async ({ flags, args }) => (await import('./container-stop.js')).stopCommand(flags, args),
});

const kill = define({
  name: 'kill',
  group: 'containers',
  summary: 'Send a signal to a container',
  description: ['Sends a signal to the first process of a container.'],
  arguments: [id],
  flags: {
    signal: {
      value: 'SIGNAL',
      short: 's',
      complete: ['HUP', 'INT', 'QUIT', 'KILL', 'USR1', 'USR2', 'TERM'],
      summary: 'by name or number (default KILL)',
    },
    all: { summary: 'send it to all processes of the container' },
    ...places,
  },
  examples: [{ what: 'reload the configuration of a server', line: 'crisp kill --signal HUP web' }],
  run: async ({ flags, args }) => (await import('./container-stop.js')).killCommand(flags, args),
});

const remove = define({
  name: 'delete',
  group: 'containers',
  summary: 'Delete containers and everything made for them',
  description: [
    'Deletes containers that are created or stopped, with --force also running ones: rootfs, mounts, namespaces, cgroup, log and record.',
  ],
  arguments: [{ ...id, rest: true }],
  flags: { force: { short: 'f', summary: 'also delete running containers' }, ...places },
  examples: [{ what: 'all of them', line: 'crisp delete --force $(crisp list --quiet)' }],
  run: async ({ flags, args }) => (await import('./container-stop.js')).deleteCommand(flags, args),
});

const list = define({
  name: 'list',
  group: 'containers',
  summary: 'List the standalone containers',
  description: [
    'Lists the containers that `crisp run` and `crisp create` made. Containers of pods are listed by `crictl ps -a`.',
  ],
  arguments: [],
  flags: {
    json: { summary: 'as JSON: a list with the fields of `crisp state --json`' },
    quiet: { short: 'q', summary: 'ids only' },
    ...places,
  },
  examples: [{ what: 'for a script', line: 'crisp list --json' }],
  run: async ({ flags }) => (await import('./container-state.js')).listCommand(flags),
});

const state = define({
  name: 'state',
  group: 'containers',
  summary: 'Show the state of a container',
  description: ['Shows the state of a container, its backend and the rule that chose it.'],
  arguments: [id],
  flags: { json: { summary: 'as JSON: the state of the OCI runtime-spec, and more' }, ...places },
  examples: [{ what: 'its exit code', line: 'crisp state --json web | jq .exitCode' }],
  run: async ({ flags, args }) => (await import('./container-state.js')).stateCommand(flags, args),
});

const exec = define({
  name: 'exec',
  group: 'containers',
  summary: 'Run a command in a running container',
  description: [
    'Runs a command in a running container, with its user, environment and privileges, and exits with the exit code of the command.',
  ],
  arguments: [id, { name: 'COMMAND', rest: true, summary: 'the command and its arguments' }],
  flags: {
    interactive: { short: 'i', summary: 'pass standard input on' },
    tty: { short: 't', summary: 'give it a terminal' },
    env: { value: 'KEY=VALUE', short: 'e', multiple: true, summary: 'an environment variable' },
    ...places,
  },
  passesOn: true,
  ownFailure: 125,
  exitCodes: [
    { code: '125', meaning: "error of crisp itself; any other code is the command's" },
    { code: '126', meaning: 'the command cannot be executed' },
    { code: '127', meaning: 'the command is not found in the container' },
  ],
  examples: [{ what: 'a shell', line: 'crisp exec -it web sh' }],
  run: async ({ flags, args }) => (await import('./container-run.js')).execCommand(flags, args),
});

const logs = define({
  name: 'logs',
  group: 'containers',
  summary: 'Show the output of a container',
  description: ['Shows the output of a container: its stdout on stdout and its stderr on stderr.'],
  arguments: [id],
  flags: { follow: { short: 'f', summary: 'follow the output until the container ends' }, ...places },
  examples: [{ what: 'and follow it', line: 'crisp logs --follow web' }],
  run: async ({ flags, args }) => (await import('./container-log.js')).logsCommand(flags, args),
});

const bundle = define({
  name: 'bundle',
  group: 'containers',
  summary: 'Write an image as an OCI bundle, or check one',
  description: [
    'Writes DIR/rootfs and DIR/config.json from an image, so that `crun run --bundle DIR NAME` or `runc run` can run it.',
    'With --validate, checks a bundle: config.json against the runtime-spec, the rootfs, the program and the sources of its mounts.',
  ],
  arguments: [
    {
      name: 'IMAGE',
      optional: true,
      summary: 'a local image, an OCI archive or layout (./FILE.tar, ./DIR); not with --validate',
    },
    {
      name: 'DIR',
      complete: 'folder',
      summary: 'the bundle: a new folder, or with --validate the bundle to check',
    },
  ],
  flags: {
    profile: {
      value: 'full|minimal',
      complete: ['full', 'minimal'],
      summary:
        'full (default): as a container of a pod, with seccomp, devices and limits; minimal: the minimum to run',
    },
    validate: { summary: 'show the problems of the bundle DIR' },
    json: { summary: 'with --validate: as JSON, a list of {path, message}' },
    ...places,
  },
  exitCodes: [{ code: '1', meaning: 'failed, or the bundle is not valid' }],
  examples: [
    { what: 'write a bundle and run it', line: 'crisp bundle busybox ./b && crun run --bundle ./b try' },
    { what: 'check a bundle', line: 'crisp bundle --validate ./b' },
  ],
  run: async ({ flags, args }) => (await import('./bundle.js')).bundleCommand(flags, args),
});

export const containerCommands: readonly Command[] = [
  run,
  create,
  start,
  stop,
  kill,
  remove,
  list,
  state,
  exec,
  logs,
  bundle,
];

// The commands on single containers, which need no daemon.
import { define, type Command } from './command.js';
import { places, placesRow } from './table-places.js';

const environment = {
  env: {
    value: 'KEY[=VALUE]',
    short: 'e',
    multiple: true,
    summary: 'an environment variable; without a value, the one of this shell',
  },
  'env-file': {
    value: 'FILE',
    complete: 'file',
    multiple: true,
    summary: 'a file with a line KEY[=VALUE] for each environment variable; # begins a comment',
  },
} as const;

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
  entrypoint: {
    value: 'PROGRAM',
    summary:
      'replaces the image\'s Entrypoint and Cmd: a program, a JSON list of words, or "" for COMMAND alone',
  },
  init: { summary: 'run catatonit as the first process, which passes signals on and reaps zombies' },
  ...environment,
  volume: {
    value: 'SOURCE:TARGET[:ro]',
    short: 'v',
    multiple: true,
    summary: 'bind mount a path of the host (./PATH: from here)',
  },
  tmpfs: {
    value: 'TARGET[:OPTIONS]',
    multiple: true,
    summary: 'mount memory there, with options of tmpfs(5): size=64m,mode=1777',
  },
  'read-only': { summary: 'mount the rootfs read-only; see --tmpfs for what must be writable' },
  user: { value: 'USER[:GROUP]', short: 'u', summary: "names of the image or ids (default: the image's)" },
  workdir: { value: 'DIR', short: 'w', summary: "the working folder (default: the image's)" },
  memory: { value: 'BYTES', short: 'm', summary: 'memory limit: 64m, 2g' },
  cpus: { value: 'NUMBER', summary: 'CPU limit: 0.5, 2' },
  'cap-add': { value: 'NAME', multiple: true, summary: 'give it a capability: NET_ADMIN, ALL' },
  'cap-drop': { value: 'NAME', multiple: true, summary: 'take a capability from it: CHOWN, ALL' },
  privileged: {
    summary: 'give it all capabilities and devices, with no seccomp filter: it can take over the host',
  },
  hostname: { value: 'NAME', summary: 'its hostname (default: its name)' },
  network: {
    value: 'none|host|cni',
    complete: ['none', 'host', 'cni'],
    summary:
      "none: loopback only (default, but for CTs where lxc.network is bridge); host: the host's network; cni: the pod network of this node",
  },
  publish: {
    value: '[IP:]PORT:CONTAINERPORT[/udp]',
    short: 'p',
    multiple: true,
    summary: 'pass a port of the host on to the container, by the portmap plugin; implies --network cni',
  },
  label: { value: 'KEY=VALUE', short: 'l', multiple: true, summary: 'a label, for routing rules' },
  annotation: { value: 'KEY=VALUE', multiple: true, summary: 'an annotation, for routing rules' },
  restart: { value: 'no', complete: ['no'], summary: 'only no: nothing watches single containers' },
  interactive: { short: 'i', summary: 'pass our standard input on' },
  tty: { short: 't', summary: 'give it a terminal' },
  guest: {
    summary:
      'make an ordinary guest of Proxmox instead, on a storage, which Proxmox starts, saves and removes and crisp forgets, and print its VMID (handlers of type pct)',
  },
} as const;

/** Lines of --help for these flags. */
const makingRows = [
  {
    flags: ['name', 'hostname'],
    summary: 'its name (default: from its id); its hostname',
  },
  { flags: ['namespace'], summary: 'the namespace for routing rules' },
  {
    flags: ['handler'],
    summary: 'the runtime handler (default: as routed)',
  },
  { flags: ['rootfs'], summary: 'use this folder instead of an image' },
  {
    flags: ['pull'],
    summary: 'when to pull the image (default: missing)',
  },
  {
    flags: ['entrypoint', 'init'],
    summary: 'replaces Entrypoint and Cmd; run below catatonit',
  },
  {
    flags: ['env', 'env-file'],
    summary: 'environment variables; may be repeated',
  },
  {
    flags: ['volume'],
    summary: 'mount a path of the host; may be repeated',
  },
  {
    flags: ['read-only', 'tmpfs'],
    summary: 'the rootfs is read-only; mount memory there',
  },
  {
    flags: ['user', 'workdir'],
    summary: "user and working folder (default: the image's)",
  },
  {
    flags: ['memory', 'cpus'],
    summary: 'limits: 64m, 2g; 0.5, 2',
  },
  {
    flags: ['cap-add', 'cap-drop', 'privileged'],
    summary: 'give or take capabilities; all, and all devices',
  },
  {
    flags: ['network'],
    summary: 'loopback only (default), that of the host, of pods',
  },
  {
    flags: ['publish'],
    summary: 'pass a port of the host on; implies --network cni',
  },
  {
    flags: ['label', 'annotation'],
    summary: 'for routing rules; may be repeated',
  },
  {
    flags: ['interactive', 'tty'],
    summary: 'pass our standard input on; give it a terminal',
  },
  {
    flags: ['guest'],
    summary: 'make an ordinary guest of Proxmox, and print its VMID',
  },
  placesRow,
] as const;

/** Flags of podman and nerdctl -> what to use instead. */
const leftOut = {
  '--device': 'run it as a pod with CDI devices, or with --privileged, which has all devices',
  '--mount': 'use --volume or --tmpfs',
  '--publish-all': 'name each port with --publish',
  '-P': 'name each port with --publish',
  '--net': 'use --network',
  '--dns': 'run it as a pod with a dnsConfig, or mount a file with --volume FILE:/etc/resolv.conf',
  '--add-host': 'mount a file with --volume FILE:/etc/hosts',
  '--pid': 'run it as a pod with hostPID or shareProcessNamespace',
  '--ipc': 'run it as a pod with hostIPC',
  '--userns': 'run it as a pod with hostUsers: false',
  '--security-opt': 'run it as a pod with a securityContext',
  '--sysctl': 'run it as a pod with sysctls in its securityContext',
  '--ulimit': 'use the limits of the shell: `ulimit -n 4096; crisp run …`',
  '--gpus': 'run it as a pod with CDI devices',
  '--pod': 'run a pod with crictl or a kubelet',
  '--platform': 'pull the image of another architecture by its digest',
  '--volumes-from': 'name the folder with --volume in both',
  '--memory-swap': 'use --memory: the container has no swap beyond it',
  '-a': 'without --detach the output is shown',
  '--health-cmd': 'run it as a pod with probes',
} as const;

/** The flags of podman for the keys and signals of a container in the foreground. */
const ownKeys = {
  '--detach-keys': 'Ctrl-P Ctrl-Q detach, and a Ctrl-P alone reaches the container with the next key',
  '--sig-proxy': 'signals are passed on; Ctrl-P Ctrl-Q leaves the container running',
} as const;

const imageArguments = [
  {
    name: 'IMAGE',
    optional: true,
    complete: 'image',
    summary:
      'an image (name, digest, or the id of a local image), an OCI archive or layout (./FILE.tar, ./DIR), or a template of Proxmox (pve/STORAGE:vztmpl/NAME); not with --rootfs',
  },
  { name: 'COMMAND', optional: true, rest: true, summary: "replaces the image's Cmd" },
] as const;

const id = {
  name: 'CONTAINER',
  complete: 'container',
  summary: 'a name, an id, or the unique beginning of an id',
} as const;
const ids = { ...id, rest: true } as const;
const oneFailed = [{ code: '1', meaning: 'failed for one of them; the others are done' }] as const;

const startCodes = [
  { code: '126', meaning: 'the command cannot be executed' },
  { code: '127', meaning: 'the container has no such command' },
] as const;

const run = define({
  name: 'run',
  group: 'containers',
  summary: 'Make a container and run it in the foreground',
  description: [
    'Makes a container from an image, which is pulled if this node does not have it, shows its output, passes signals on, and ends with its exit code. No daemon is needed, and one may run beside it.',
    'On a terminal (-it), Ctrl-P Ctrl-Q leaves the container running and ends crisp with 0; `crisp attach` returns to it.',
    'With --rm the container is deleted when it has ended: by this command, after a detach by `crisp attach`, and with --detach, or if no command is attached at its end, by the next `crisp list`, `crisp run` or `crisp create`.',
    'When nobody reads its output any more (`| head -1`), the container is stopped, and the exit code is 141, as that of a program that SIGPIPE ends.',
    'The container is routed as a pod of its name, labels, annotations and image would be (see docs/configuration.md, routing), to an OCI runtime or to Proxmox CTs, and keeps its record until `crisp delete`, unless --rm is given.',
  ],
  arguments: imageArguments,
  leftOut,
  flags: {
    ...making,
    detach: { short: 'd', summary: 'leave it running in the background and print its id' },
    rm: { summary: 'delete it when it has ended' },
    ...places,
  },
  helpRows: [
    ...makingRows,
    {
      flags: ['detach', 'rm'],
      summary: 'leave it in the background; delete it at its end',
    },
  ],
  passesOn: true,
  ownFailure: 125,
  exitCodes: [
    {
      code: '125',
      meaning: "error of crisp itself; any other code is the container's (128+N: ended by signal N)",
    },
    ...startCodes,
  ],
  examples: [
    { what: 'one command', line: 'crisp run --rm busybox echo hello' },
    { what: 'a shell', line: 'crisp run --rm -it busybox sh' },
    {
      what: 'on runc, from an archive, with limits',
      line: 'crisp run --rm --handler runc --memory 64m --cpus 0.5 ./app.tar',
    },
    {
      what: 'a web server on port 8080 of the host',
      line: 'crisp run -d --name web -p 8080:80 -v ./site:/www nginx',
    },
    { what: 'as a Proxmox CT', line: 'crisp run --rm --handler lxc busybox hostname' },
    {
      what: 'as a guest that lives on in Proxmox',
      line: 'crisp run --guest --handler lxc --annotation io.crisp.lxc.storage=local-lvm --name web nginx',
    },
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
  leftOut,
  flags: { ...making, ...places },
  helpRows: makingRows,
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
  description: [
    'Starts a container that `crisp create` made, and prints its id. With --attach it shows the output, passes signals on, and ends with the exit code of the container; keys, sizes and Ctrl-P Ctrl-Q are as in `crisp run`.',
  ],
  arguments: [id],
  flags: {
    attach: { short: 'a', summary: 'show its output until it ends' },
    interactive: {
      short: 'i',
      summary: 'pass our standard input on, if it was created with --interactive; implies --attach',
    },
    ...places,
  },
  leftOut: ownKeys,
  ownFailure: 125,
  exitCodes: [
    { code: '125', meaning: 'failed; with --attach, any other code is that of the container' },
    ...startCodes,
  ],
  examples: [
    { what: 'by name', line: 'crisp start web' },
    { what: 'one that `crisp create -it` made', line: 'crisp start -ai shell' },
  ],
  run: async ({ flags, args }) => (await import('./container-run.js')).startCommand(flags, args),
});

const attach = define({
  name: 'attach',
  group: 'containers',
  summary: 'Attach to a running container: its output, input and exit code',
  description: [
    'Shows what a running container writes from now on, passes signals on, and, if it was made with --interactive, standard input too. Ends with the container, and with its exit code. `crisp logs` shows what it has written before.',
    'On a terminal, Ctrl-P Ctrl-Q ends crisp and leaves the container running, with exit code 0. When nobody reads the output any more, crisp ends too, with 141, and the container keeps running.',
  ],
  arguments: [id],
  flags: places,
  leftOut: {
    ...ownKeys,
    '--no-stdin': 'use `crisp logs --follow --tail 0 NAME`',
    '--latest': 'name it: `crisp list` shows the names',
    '-l': 'name it: `crisp list` shows the names',
  },
  ownFailure: 125,
  exitCodes: [{ code: '125', meaning: "failed; any other code is the container's" }],
  examples: [{ what: 'a shell that was left with Ctrl-P Ctrl-Q', line: 'crisp attach shell' }],
  run: async ({ flags, args }) => (await import('./container-run.js')).attachCommand(flags, args),
});

const stop = define({
  name: 'stop',
  group: 'containers',
  summary: 'Stop containers: ask, then kill',
  description: [
    'Sends the stop signal of the image (SIGTERM by default), waits, and then sends SIGKILL. A container that has ended already is not an error.',
  ],
  arguments: [ids],
  exitCodes: oneFailed,
  leftOut: {
    '-a': 'name them: `crisp stop $(crisp list --quiet)`',
    '--all': 'name them: `crisp stop $(crisp list --quiet)`',
  },
  flags: {
    time: {
      value: 'SECONDS',
      short: 't',
      summary: 'how long it may take after the stop signal (default 10)',
    },
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
  aliases: ['rm'],
  group: 'containers',
  summary: 'Delete containers and everything made for them',
  description: [
    'Deletes containers that are created or stopped, with --force also running ones: rootfs, mounts, namespaces, cgroup, log and record.',
  ],
  arguments: [ids],
  exitCodes: oneFailed,
  leftOut: {
    '-a': 'name them: `crisp delete $(crisp list --quiet)`',
    '--all': 'name them: `crisp delete $(crisp list --quiet)`',
    '-v': 'the VOLUMEs of the image go with the container',
    '--volumes': 'the VOLUMEs of the image go with the container',
  },
  flags: { force: { short: 'f', summary: 'also one that is running' }, ...places },
  examples: [{ what: 'all of them', line: 'crisp delete --force $(crisp list --quiet)' }],
  run: async ({ flags, args }) => (await import('./container-stop.js')).deleteCommand(flags, args),
});

const list = define({
  name: 'list',
  aliases: ['ps'],
  group: 'containers',
  summary: 'List the standalone containers',
  description: [
    'Lists the containers that `crisp run` and `crisp create` made. Containers of pods are listed by `crictl ps -a`.',
  ],
  arguments: [],
  leftOut: {
    '-a': 'the list has the stopped ones too',
    '--all': 'the list has the stopped ones too',
    '--filter': 'filter with jq: `crisp list --json | jq …`',
    '-f': 'filter with jq: `crisp list --json | jq …`',
    '--format': 'format with jq: `crisp list --json | jq …`',
  },
  flags: {
    json: { summary: 'as JSON: a list with the fields of `crisp state --json`' },
    quiet: { short: 'q', summary: 'ids only' },
    ...places,
  },
  examples: [{ what: 'for a script', line: 'crisp list --json' }],
  run: async ({ flags }) => (await import('./container-list.js')).listCommand(flags),
});

const state = define({
  name: 'state',
  aliases: ['inspect'],
  group: 'containers',
  summary: 'Show the state of a container',
  description: ['Shows the state of a container, its backend and the rule that chose it.'],
  arguments: [id],
  leftOut: {
    '--format': 'format with jq: `crisp state --json NAME | jq …`',
    '-f': 'format with jq: `crisp state --json NAME | jq …`',
  },
  flags: { json: { summary: 'as JSON: the state of the OCI runtime-spec, and more' }, ...places },
  examples: [{ what: 'its exit code', line: 'crisp state --json web | jq .exitCode' }],
  run: async ({ flags, args }) => (await import('./container-list.js')).stateCommand(flags, args),
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
    ...environment,
    ...places,
  },
  leftOut: {
    '-u': 'use a program of the image: `crisp exec NAME su USER -c COMMAND`',
    '--user': 'use a program of the image: `crisp exec NAME su USER -c COMMAND`',
    '-w': 'use a shell: `crisp exec NAME sh -c "cd DIR && COMMAND"`',
    '--workdir': 'use a shell: `crisp exec NAME sh -c "cd DIR && COMMAND"`',
    '-d': 'use a shell: `crisp exec NAME sh -c "COMMAND &"`',
    '--detach': 'use a shell: `crisp exec NAME sh -c "COMMAND &"`',
    '--privileged': 'run the container with --privileged',
  },
  passesOn: true,
  ownFailure: 125,
  exitCodes: [
    { code: '125', meaning: "crisp itself failed; any other code is the command's" },
    ...startCodes,
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
  flags: {
    follow: { short: 'f', summary: 'go on until it ends' },
    tail: { value: 'LINES', short: 'n', summary: 'only so many lines from the end' },
    since: {
      value: 'TIME',
      summary: 'only what is younger: 10m, 2h, or a time such as 2026-01-02T15:04:05Z',
    },
    timestamps: { short: 't', summary: 'the time before each line' },
    ...places,
  },
  examples: [
    { what: 'from now on', line: 'crisp logs --follow --tail 0 web' },
    { what: 'the last ten minutes', line: 'crisp logs --since 10m --timestamps web' },
  ],
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
  attach,
  stop,
  kill,
  remove,
  list,
  state,
  exec,
  logs,
  bundle,
];

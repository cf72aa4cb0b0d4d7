// The operator's commands.
import { define, type Command } from './command.js';

const configFlag = {
  value: 'FILE',
  complete: 'file',
  summary: 'the configuration (default /etc/crisp/config.yaml, with config.d beside it)',
} as const;

const check = define({
  name: 'check',
  group: 'operator',
  summary: 'Check whether this host can run pods, and show how to fix problems',
  description: [
    'Checks the kernel, control groups, tools, runtime handlers (by running a temporary container on each), pod network, storage and, on Proxmox VE, storages, bridges and id ranges. Each finding has the command to fix it. No changes are left behind.',
    'With --images, checks the images of the store instead: the files of each layer, the manifests and the configurations are compared with their digests, which takes about 5 seconds for 1 GB. With --repair, damaged images are pulled anew from their registries, by their digests and with the credentials of images.auth_file. If this fails, the image stays as it is. Files under running containers are not changed: a finding names the containers that keep damaged files until they are recreated.',
  ],
  arguments: [],
  flags: {
    config: configFlag,
    images: { summary: 'check the content of the images instead' },
    repair: { summary: 'with --images: pull damaged images anew' },
    quiet: { short: 'q', summary: 'show only problems' },
    json: {
      summary: 'as JSON: {failures, warnings, checks: [{id, title, findings: [{level, message, hint}]}]}',
    },
  },
  exitCodes: [
    { code: '0', meaning: 'no failures; there may be warnings' },
    { code: '1', meaning: 'there are failures: pods will not run, or images are damaged' },
  ],
  examples: [
    { what: 'before the first start', line: 'crisp check' },
    { what: 'after a disk error', line: 'crisp check --images --repair' },
    {
      what: 'the commands to fix failures',
      line: 'crisp check --json | jq -r ".checks[].findings[] | select(.level == \\"failure\\") | .hint"',
    },
  ],
  run: async ({ flags }) => (await import('./check/command.js')).checkCommand(flags),
});

const explain = define({
  name: 'explain',
  group: 'operator',
  summary: 'Dry run: how this node would run a pod',
  description: [
    'Reads manifests (YAML or JSON) of Pods and workloads (Deployment, StatefulSet, DaemonSet, Job, CronJob, List), or the JSON files of crictl (for a pod and any number of containers), and shows the handler, the rule that chose it and the fields that are unknown or not honoured; with --full also the commands that would run and the config.json of each container. Nothing is run or changed.',
    'Data of the cluster (ConfigMaps, Secrets, most volumes) is left out, with a note.',
  ],
  arguments: [
    { name: 'FILE', rest: true, complete: 'file', summary: 'a manifest, or files for crictl; - is stdin' },
  ],
  flags: {
    config: configFlag,
    handler: { value: 'NAME', summary: "as if the pod's RuntimeClass had this handler" },
    full: { summary: 'also show the commands, and config.json of each container' },
    json: { summary: 'as JSON, with the complete config.json' },
  },
  exitCodes: [{ code: '1', meaning: 'the pod or a container would be refused, or the files cannot be read' }],
  examples: [
    { what: 'a manifest', line: 'crisp explain pod.yaml' },
    { what: 'a pod of the cluster', line: 'kubectl get pod web -o yaml | crisp explain -' },
    { what: "crictl's files", line: 'crisp explain pod.json container.json' },
    { what: 'only the handler and the rule', line: 'crisp explain --json pod.yaml | jq "{handler, rule}"' },
  ],
  run: async ({ flags, args }) => (await import('./explain.js')).explainCommand(flags, args),
});

const gc = define({
  name: 'gc',
  group: 'operator',
  summary: 'Remove orphans: objects that crisp made and has no record of',
  description: [
    'Removes containers, mounts, rootfs layers, namespaces and folders without a record, which are left behind by a crash, a lost state folder or a reboot, of the daemon and of standalone containers. The daemon does the same at its start, and may be running meanwhile. Addresses of pods that are gone are released at the start of the daemon. Also removes CTs after an interrupted creation or removal (their configuration is only a lock), if crisp had noted that it would make or destroy them, and the layers and blobs of failed pulls that are kept for the next attempt. Records and notes that cannot be read are left as they are.',
  ],
  arguments: [],
  flags: {
    'dry-run': { short: 'n', summary: 'only show what would be removed' },
    json: { summary: 'as JSON: {dryRun, orphans: [{kind, name, error}]}' },
    config: configFlag,
    root: { value: 'DIR', complete: 'folder', summary: 'overrides the key root' },
    state: {
      value: 'DIR',
      complete: 'folder',
      summary: 'of standalone containers; overrides the key cli_state',
    },
  },
  exitCodes: [{ code: '1', meaning: 'something could not be removed' }],
  examples: [{ what: 'check first', line: 'crisp gc --dry-run' }],
  run: async ({ flags }) => (await import('./gc.js')).gcCommand(flags),
});

const status = define({
  name: 'status',
  group: 'operator',
  summary: 'Show the state of the daemon',
  description: [
    'Shows the conditions of the daemon, the runtime handlers with the result of their probe, the numbers of pods, containers and images, and the items that were set aside because they cannot be read.',
  ],
  arguments: [],
  flags: {
    config: configFlag,
    listen: { value: 'unix:///PATH', summary: 'the socket; overrides the key listen' },
    json: { summary: 'as JSON' },
  },
  exitCodes: [{ code: '1', meaning: 'the daemon does not answer, or a condition is false' }],
  examples: [{ what: 'in a health check', line: 'crisp status --json | jq .healthy' }],
  run: async ({ flags }) => (await import('./status.js')).statusCommand(flags),
});

const top = define({
  name: 'top',
  aliases: ['stats'],
  group: 'operator',
  summary: 'Show the resource usage of pods and containers, live',
  description: [
    'Shows the CPU (in percent of one core), memory (working set), network and disk (writable layers) of the pods of the daemon, of their containers, and of standalone containers. On a terminal the list is drawn again every 2 seconds until Ctrl-C; elsewhere it is written once.',
    'With a standalone container, its processes, once: their ids and users are those of the host.',
  ],
  arguments: [
    {
      name: 'CONTAINER',
      optional: true,
      complete: 'container',
      summary: 'a standalone container: show its processes instead',
    },
  ],
  flags: {
    sort: {
      value: 'KEY',
      complete: ['cpu', 'memory', 'network', 'disk', 'name'],
      summary: 'cpu (default), memory, network, disk or name',
    },
    json: { summary: 'as JSON, once: a list of pods with their containers, or of processes' },
    config: configFlag,
    root: { value: 'DIR', complete: 'folder', summary: 'overrides the key root' },
    state: {
      value: 'DIR',
      complete: 'folder',
      summary: 'of standalone containers; overrides the key cli_state',
    },
  },
  examples: [
    { what: 'the largest first', line: 'crisp top --sort memory' },
    { what: 'the processes of a container', line: 'crisp top web' },
  ],
  run: async ({ flags, args }) => (await import('./top.js')).topCommand(flags, args),
});

const events = define({
  name: 'events',
  group: 'operator',
  summary: 'Show events of pods and containers',
  description: [
    'Shows a line for each pod and container of the daemon that is created, started, stopped or deleted, until Ctrl-C. The current state of each container comes first.',
  ],
  arguments: [],
  flags: {
    json: { summary: 'as JSON lines: {time, event, pod, container, id, exitCode, reason}' },
    config: configFlag,
    listen: { value: 'unix:///PATH', summary: 'the socket; overrides the key listen' },
  },
  exitCodes: [{ code: '1', meaning: 'the daemon does not answer, or has ended' }],
  examples: [
    { what: 'containers that end with an error', line: 'crisp events --json | jq "select(.exitCode > 0)"' },
  ],
  run: async ({ flags }) => (await import('./events.js')).eventsCommand(flags),
});

const dump = define({
  name: 'dump',
  group: 'operator',
  summary: 'Show what the daemon is doing at this moment',
  description: [
    'Prints the state of the daemon as JSON: calls in flight and their steps with ages, locks and who waits for them, creations, stops and pulls under way, queues, child processes, memory and open files. It has names, ids and numbers only, no arguments and no environment.',
    'The daemon is asked by SIGUSR2, on which it writes STATE/dump.json (to its log where it cannot write the file), so it is answered also when the daemon does not serve its socket.',
  ],
  arguments: [],
  flags: {
    config: configFlag,
    state: { value: 'DIR', complete: 'folder', summary: 'of the daemon; overrides the key state' },
  },
  exitCodes: [{ code: '1', meaning: 'no daemon runs, or it does not answer' }],
  examples: [{ what: 'what does not end', line: 'crisp dump | jq ".steps[] | select(.seconds > 60)"' }],
  run: async ({ flags }) => (await import('./dump.js')).dumpCommand(flags),
});

const config = define({
  name: 'config',
  group: 'operator',
  summary: 'Show the effective configuration',
  description: [
    'Reads the configuration as the daemon would (file, then drop-ins by name), checks it, and shows the effective values. A mistake is reported with its file, line and key.',
  ],
  arguments: [],
  flags: {
    config: configFlag,
    default: { summary: 'the defaults as a file with a comment for each key' },
    schema: { summary: 'the JSON Schema of the configuration' },
    json: { summary: 'as JSON' },
  },
  examples: [
    { what: 'check a file before a restart', line: 'crisp config --config ./config.yaml > /dev/null' },
    { what: 'start a configuration file', line: 'crisp config --default > /etc/crisp/config.yaml' },
  ],
  run: async ({ flags }) => (await import('./config.js')).configCommand(flags),
});

const version = define({
  name: 'version',
  group: 'operator',
  summary: 'Show the versions of crisp and Node, and the commit',
  description: ['Shows the version in one line.'],
  arguments: [],
  flags: { json: { summary: 'as JSON: {"crisp", "commit", "node"}' } },
  examples: [{ what: 'for a bug report', line: 'crisp version' }],
  run: async ({ flags }) => (await import('./version.js')).showVersion(flags),
});

export const operatorCommands: readonly Command[] = [
  status,
  top,
  events,
  check,
  explain,
  gc,
  dump,
  config,
  version,
];

// Every command of `crisp`, as data.  The code of a command is loaded when it runs.
import { define, type Command } from './command.js';
import { containerCommands } from './table-containers.js';
import { imageCommands } from './table-images.js';
import { operatorCommands } from './table-operator.js';

const serve = define({
  name: 'serve',
  group: 'daemon',
  summary: 'Run the daemon: the CRI for a kubelet or crictl',
  description: [
    'Serves RuntimeService and ImageService (CRI v1) on one unix socket until SIGTERM or SIGINT. Containers keep running afterwards; the next start finds them again.',
    'SIGHUP reads the configuration again and applies the keys that can change at run time; see docs/configuration.md.',
  ],
  arguments: [],
  flags: {
    config: {
      value: 'FILE',
      complete: 'file',
      summary: 'the configuration (default /etc/crisp/config.yaml, with config.d beside it)',
    },
    listen: { value: 'unix:///PATH', summary: 'the socket; overrides the key listen' },
    root: { value: 'DIR', complete: 'folder', summary: 'images and rootfs layers; overrides the key root' },
    state: { value: 'DIR', complete: 'folder', summary: 'records and bundles; overrides the key state' },
    'log-level': {
      value: 'LEVEL',
      complete: ['trace', 'debug', 'info', 'warn', 'error'],
      summary: 'overrides the key log_level',
    },
  },
  examples: [
    { what: 'as the systemd unit runs it', line: 'crisp serve' },
    {
      what: 'for a test, with folders of its own',
      line: 'crisp serve --listen unix:///tmp/c/crisp.sock --root /tmp/c/root --state /tmp/c/state',
    },
  ],
  run: async ({ flags }) => (await import('./serve.js')).serveDaemon(flags),
});

const completion = define({
  name: 'completion',
  group: 'operator',
  summary: 'Print the completion script for a shell',
  description: ['Prints a script that completes commands and flags.'],
  arguments: [{ name: 'SHELL', complete: ['bash', 'zsh', 'fish'], summary: 'bash, zsh or fish' }],
  flags: {},
  examples: [
    { what: 'bash, for this session', line: 'source <(crisp completion bash)' },
    { what: 'zsh', line: 'crisp completion zsh > /usr/share/zsh/vendor-completions/_crisp' },
    { what: 'fish', line: 'crisp completion fish > /etc/fish/completions/crisp.fish' },
  ],
  run: async ({ args }) => (await import('./completion.js')).completionCommand(args, commands),
});

/** Commands of podman and nerdctl that are left out on purpose -> what to use instead. */
export const leftOut: Readonly<Record<string, string>> = {
  build: 'build with buildah or podman, then `crisp load` the archive',
  commit: 'build the image anew, with buildah or podman',
  compose: 'run it as pods: `kompose convert` makes manifests of a compose file',
  cp: '`tar -c FILE | crisp exec -i NAME tar -x -C DIR`, or share a folder with --volume',
  login: '`skopeo login REGISTRY`, with --authfile as images.auth_file names it',
  logout: '`skopeo logout REGISTRY`',
  network: 'the pod network is the first conflist in /etc/cni/net.d',
  pause: '`crisp kill --signal STOP NAME`, and CONT to go on',
  unpause: '`crisp kill --signal CONT NAME`',
  pod: 'run pods with a kubelet or `crictl runp`',
  push: '`skopeo copy`',
  rename: 'name it when it is made: `crisp run --name NAME`',
  restart: 'a container runs once: `crisp delete` it and `crisp run` it again, or run it as a pod',
  save: '`skopeo copy docker://IMAGE oci-archive:FILE`',
  search: '`skopeo list-tags docker://NAME` lists the tags of an image',
  tag: '`crisp load` takes the names of the archive; `skopeo copy` gives others',
  info: '`crisp status` and `crisp check`',
  system: '`crisp status`, `crisp check` and `crisp gc`',
  prune: '`crisp gc`, and `crisp delete $(crisp list --quiet)`',
  volume: 'name a folder of the host: --volume ./data:/data',
  wait: 'run it in the foreground, or `crisp logs --follow NAME` and then `crisp state --json NAME`',
};

export const commands: readonly Command[] = [
  serve,
  ...containerCommands,
  ...imageCommands,
  ...operatorCommands,
  completion,
];

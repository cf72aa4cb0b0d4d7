// A node of Proxmox VE for unit tests: shell scripts in place of its programs, a folder in place of
// /etc/pve, and a listener in place of lxc-monitord.  Nothing runs in its CTs.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ContainerPlan } from '../../src/backends/backend.js';
import { contextOf, type PctContext } from '../../src/backends/pct/context.js';
import { monitorSocket, send } from '../../src/backends/pct/watcher.js';
import { checkConfig } from '../../src/config/config.js';
import { flagSource } from '../../src/config/source.js';

export class StandInNode {
  /** Has all its files. */
  readonly folder = mkdtempSync(join(tmpdir(), 'crisp-node-'));
  readonly ctx: PctContext;
  private monitor: ChildProcess | undefined;

  /** @param lxc of the configuration */
  static async make(lxc: object = {}): Promise<StandInNode> {
    const node = new StandInNode(lxc);
    const name = monitorSocket(node.path('lxc'));
    node.monitor = spawn('perl', ['-MSocket', '-e', listener, name], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    if (node.monitor.stdout) await once(node.monitor.stdout, 'data');
    return node;
  }

  private constructor(lxc: object) {
    for (const name of ['pve/lxc', 'pve/nodes', 'state', 'root', 'lock', 'units'])
      mkdirSync(this.path(name), { recursive: true });
    this.program('pct', pctScript(this.folder));
    this.program('info', `cat '${this.path('pid')}' 2>/dev/null`);
    this.program('systemctl', `[ "$1" = show ] || echo "$@" >>'${this.path('reloads')}'`);
    for (const name of ['pvesh', 'pvesm', 'attach']) this.program(name, 'exit 1');
    const options = {
      ...{ pve_folder: this.path('pve'), lock_folder: this.path('lock'), unit_folder: this.path('units') },
      ...{ lxc_folder: this.path('lxc'), unprivileged: false, ...lxc },
      tools: {
        ...{ pct: this.path('pct'), pvesh: this.path('pvesh'), pvesm: this.path('pvesm') },
        ...{ lxc_info: this.path('info'), lxc_attach: this.path('attach') },
        systemctl: this.path('systemctl'),
      },
    };
    this.ctx = contextOf({
      name: 'lxc',
      lxc: checkConfig([flagSource({ lxc: options })]).lxc,
      allowedAnnotations: [],
      state: this.path('state'),
      root: this.path('root'),
    });
  }

  path(name: string): string {
    return join(this.folder, name);
  }
  program(name: string, script: string): void {
    writeFileSync(this.path(name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  }
  write(name: string, text: string): void {
    writeFileSync(this.path(name), text);
  }
  read(name: string): string {
    return readFileSync(this.path(name), 'utf8');
  }
  /** pct fails at this verb with these words. */
  pctFails(verb: string, words: string): void {
    this.write(`fail-${verb}`, words);
  }
  /** The calls of pct: the verb and the id, and for other verbs than create all arguments. */
  calls(): string[] {
    return existsSync(this.path('called')) ? this.read('called').trim().split('\n') : [];
  }
  /** The arguments of the last `pct create`, by option; "archive" is the first. */
  created(): Record<string, string> {
    const [archive = '', ...rest] = this.read('created').split('\0').slice(2);
    return Object.fromEntries([
      ['archive', archive] as const,
      ...rest.flatMap((word, at) => (word.startsWith('--') ? [[word, rest[at + 1] ?? ''] as const] : [])),
    ]);
  }
  /** A container of a pod, with a folder for its bundle and one for its rootfs. */
  plan(change: Partial<ContainerPlan> = {}): ContainerPlan {
    for (const name of ['bundle', 'rootfs']) mkdirSync(this.path(name), { recursive: true });
    const plan: ContainerPlan = {
      id: 'a'.repeat(64),
      name: 'app',
      attempt: 0,
      image: 'docker.io/library/nginx:1',
      imageId: 'sha256:1',
      sandbox: {
        id: 'b'.repeat(64),
        name: 'web',
        namespace: 'default',
        uid: 'u-1',
        attempt: 0,
        labels: {},
        annotations: {},
        folder: this.path('pod'),
        hostname: undefined,
        namespaces: {},
        cgroupParent: '',
      },
      folder: this.path('bundle'),
      spec: {
        ociVersion: '1.0.2',
        process: { user: { uid: 7, gid: 8 }, args: ['/bin/true'], env: ['A=b'], cwd: '/' },
        root: { path: this.path('rootfs') },
        mounts: [],
        linux: { namespaces: [{ type: 'mount' }, { type: 'pid' }] },
      },
      logPath: '',
      stdin: false,
      stdinOnce: false,
      stopSignal: '15',
      ...change,
    };
    writeFileSync(join(plan.folder, 'config.json'), JSON.stringify(plan.spec));
    return plan;
  }

  /** Ends the watchers of these bundles, and removes all files. */
  async remove(...bundles: string[]): Promise<void> {
    for (const folder of bundles) await send({ folder }, 'quit');
    for (const close of this.ctx.watched.values()) close();
    this.ctx.exits.close();
    this.monitor?.kill('SIGKILL');
    rmSync(this.folder, { recursive: true });
  }
}

/** Accepts connections and is silent. */
const listener =
  'socket(my $door, AF_UNIX, SOCK_STREAM, 0); bind($door, pack_sockaddr_un("\\0$ARGV[0]")) && listen($door, 9) or die $!; syswrite(STDOUT, "up"); while (accept(my $to, $door)) { push(@all, $to) }';

/**
 * create writes the CT's configuration, start copies the bundle to "seen" and writes the exit code of the
 * file "exit", destroy removes the configuration.  A verb with a file fail-VERB says its content and fails.
 */
function pctScript(folder: string): string {
  return `
cd '${folder}' || exit 1
conf="pve/lxc/$2.conf"
if [ "$1" = create ]; then echo "$1 $2" >>called; printf '%s\\0' "$@" >created; else echo "$@" >>called; fi
if [ -e "fail-$1" ]; then cat "fail-$1" >&2; exit 1; fi
case $1 in
create)
  while [ $# -gt 0 ]; do
    case $1 in
    --description) printf '%s\\n' "$2" | sed 's/:/%3A/g; s/^/#/' >>"$conf";;
    --tags) echo "tags: $2" >>"$conf";;
    --net0) echo "net0: $2" >>"$conf";;
    esac
    shift
  done;;
start)
  bundle=$(dirname "$(sed -n 's/^lxc.include: //p' "$conf")")
  rm -rf seen; cp -R "$bundle" seen
  [ ! -e exit ] || { id=$(sed -n 's/^#crisp-container%3A \\([^ ]*\\).*/\\1/p' "$conf")
    cp exit "state/exits/lxc/.$id"; mv "state/exits/lxc/.$id" "state/exits/lxc/$id"; };;
destroy) rm -f "$conf";;
esac`;
}

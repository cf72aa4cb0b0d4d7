// The program pct: its calls and its error messages.
//
// Its exit codes are useless (a Perl die returns the errno of the last failed
// system call), so the message decides. The output of a task, including the
// reason of a failure, goes to stdout; only the last error line goes to
// stderr.
import { CrispError, lastLines, type ErrorId } from '../../errors.js';
import { makeFolder } from '../../host/files.js';
import { CommandError, run, type RunResult } from '../../host/run.js';
import { pveClusterHint } from './cluster.js';

export interface PctOptions {
  readonly program: string;
  readonly timeoutMs: number;
  /** Output goes to files here: a closed pipe would kill pct in the middle of its work. */
  readonly outputFolder: string;
}

/** Runs pct(1). */
export class Pct {
  constructor(private readonly options: PctOptions) {}

  /** Runs one call to its end. @param cwd where waitUntilIdle() finds it @throws the error for its message */
  async call(verb: string, vmid: number, args: readonly string[] = [], cwd?: string): Promise<RunResult> {
    makeFolder(this.options.outputFolder, 0o711);
    try {
      return await run(this.argv(verb, vmid, args), {
        outputFolder: this.options.outputFolder,
        timeoutMs: this.options.timeoutMs,
        stage: `pct ${verb}`,
        cwd,
      });
    } catch (error) {
      if (!(error instanceof CommandError) || error.id !== 'RuntimeFailed') throw error;
      throw explain(verb, vmid, error.stdout, error.stderr || (error.stdout ? '' : error.message), error);
    }
  }

  /** Also for `crisp explain`, which runs nothing. */
  argv(verb: string, vmid: number | string, args: readonly string[] = []): [string, ...string[]] {
    return [this.options.program, verb, String(vmid), ...args];
  }
}

/** The init exited before pct read or opened its pid: the CT did run (pct 6; 5 reports nothing). */
const exitedAtOnce = /unable to get PID for CT \d+ \(not running\?\)|failed to open \/proc\/\d+ pid fd/;
const running = /CT \d+ already running/;
const notRunning = /(CT|VM) \d+ not running|container '\d+' not running|to a running CT/;
const missing = /Configuration file '\S*?\d+\.conf' does not exist/;
const taken = /(CT|VM) \d+ already exists/;
const notLocked = /no lock found trying to remove any lock/;

/** The meaning of an error, for callers for which it is not a failure. */
export type Meaning =
  'exited at once' | 'already running' | 'not running' | 'missing' | 'taken' | 'not locked';
const meanings: readonly [RegExp, Meaning][] = [
  [exitedAtOnce, 'exited at once'],
  [running, 'already running'],
  [notRunning, 'not running'],
  [missing, 'missing'],
  [taken, 'taken'],
  [notLocked, 'not locked'],
];

/** Retries `attempt`, which chooses an id, while another node or tool takes that id first. */
export async function untilNotTaken<T>(attempt: () => Promise<T>): Promise<T> {
  for (let lost = 0; ; lost++) {
    try {
      return await attempt();
    } catch (error) {
      if (meaningOf(error) !== 'taken' || lost === lostRaces) throw error;
    }
  }
}
const lostRaces = 10;

/** The cause of a failed pct, from its messages; undefined: another cause, or an error of another tool. */
export function meaningOf(error: unknown): Meaning | undefined {
  if (!(error instanceof CrispError) || error.tool !== 'pct') return undefined;
  return meanings.find(([pattern]) => pattern.test(error.stderr ?? ''))?.[1];
}

/** Pattern, error, hint; the first match in either stream decides. */
const table: readonly [RegExp, ErrorId, string?][] = [
  [/cluster not ready - no quorum\?|no quorum/i, 'NoQuorum'],
  [/pve configuration filesystem .*not mounted|ipcc_send_rec\S* failed/, 'NoQuorum', pveClusterHint],
  [
    /CT is locked \([\w-]+\)/,
    'Locked',
    'wait for the task that has the lock, or run `pct unlock VMID` if there is none',
  ],
  [
    /can't lock file .* - got timeout|trying to acquire lock\.\.\.\s*$|unable to acquire lock/i,
    'Locked',
    'another task is working on the CT: see the task log of the node',
  ],
  [taken, 'NameInUse', 'another guest took the id at the same time; repeat the call'],
  [missing, 'GuestMissing'],
  [notRunning, 'WrongContainerState', 'the CT is not running'],
  [/container is running/, 'WrongContainerState', 'the CT is still running'],
  [running, 'WrongContainerState', 'the CT is already running'],
  [exitedAtOnce, 'WrongContainerState', 'the CT has ended'],
  [notLocked, 'WrongContainerState', 'the CT is not locked'],
  [
    /you can't start a CT if it's a template/,
    'WrongContainerState',
    'the CT was turned into a template: remove the pod',
  ],
  [/protection mode enabled/, 'WrongContainerState', 'the CT is protected: `pct set VMID --protection 0`'],
  [/container did not stop/, 'ToolTimeout', 'the CT does not react to its stop signal'],
  [
    /bridge '[^']*' does not exist/,
    'BridgeMissing',
    'make the bridge in /etc/network/interfaces and run `ifreload -a`',
  ],
  [
    /no space left on device|out of space|insufficient free space|not enough free space/i,
    'DiskFull',
    'free space on the storage that the message names',
  ],
  [/cannot allocate memory/i, 'OutOfMemory'],
  [
    /storage '[^']*' does not (exist|support (container directories|CT rootdirs))|content type 'rootdir' is not available|unable to (use volume|parse volume ID)|no such (logical volume|volume group)|storage '[^']*' is not (online|available|active)/,
    'StorageFailed',
    '`pvesm status` lists the storages and `pvesm set` their content',
  ],
  [/directory '[^']*' does not exist/, 'RootfsMissing', 'the folder is not mounted any more: remove the pod'],
  [/volume '[^']*' does not exist/, 'ImageNotFound', '`pveam list STORAGE` lists the templates of a storage'],
  [
    /unable to detect OS distribution|unsupported .* (version|distribution)/i,
    'Unsupported',
    'Proxmox does not know the distribution of this template',
  ],
  [
    /snapshot feature is not available|unable to clone mountpoint|setgid\(0\): Invalid argument|cannot resolve \/etc\/(passwd|group) path/,
    'Unsupported',
    'Proxmox cannot do this with such a CT: see the details',
  ],
  [
    /used in HA resources/,
    'WrongContainerState',
    'the CT is managed by the HA manager: `ha-manager remove ct:VMID`',
  ],
  [
    /pool '[^']*' does not exist/,
    'InvalidConfigFile',
    'make the pool that lxc.pool names: `pvesh create /pools --poolid NAME`',
  ],
  [
    /Permission check failed|only root can|must be root|please run as root/i,
    'PermissionDenied',
    'run crisp as root on the node',
  ],
  [
    /newuidmap|newgidmap|uid range .* not allowed/i,
    'PermissionDenied',
    'put root:100000:65536 into /etc/subuid and /etc/subgid',
  ],
  [
    /unable to hotplug/,
    'RuntimeFailed',
    'the running CT did not accept the change: the message names the option and the reason',
  ],
  [
    /400 Parameter verification failed|unable to parse option|not enough arguments|Unknown option|'rootfs' not set/,
    'InvalidArgument',
    'this version of pct does not accept an option of crisp: see the details',
  ],
  [/received interrupt/, 'Cancelled'],
  [
    /startup for container '\d+' failed/,
    'StartFailed',
    'the reason is in the details; also see `journalctl -u pve-container@VMID`',
  ],
];

/** @param stdout the output of the task @param stderr the last error line */
export function explain(
  verb: string,
  vmid: number,
  stdout: string,
  stderr: string,
  cause?: unknown,
): CrispError {
  const said = [stdout, stderr]
    .map((text) => text.trim())
    .filter(Boolean)
    .join('\n');
  const [, id, hint] = table.find(([pattern]) => pattern.test(stderr)) ??
    table.find(([pattern]) => pattern.test(stdout)) ?? [undefined, 'RuntimeFailed' as const];
  return new CrispError(id, `pct ${verb} ${vmid} failed: ${lastLines(stderr || stdout, 300)}`, {
    stage: `pct ${verb}`,
    tool: 'pct',
    stderr: said,
    cause,
    ...(hint ? { hint: hint.replaceAll('VMID', String(vmid)) } : {}),
  });
}

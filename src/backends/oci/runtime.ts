// An OCI runtime binary (crun, runc): makes the argv of its verbs, and maps
// its messages to errors. Called only by the OCI backend.
import { closeSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { CrispError, lastLines, type ErrorId } from '../../errors.js';
import { fileVersion } from '../../host/files.js';
import { findProgram } from '../../host/programs.js';
import { CommandError, run, type RunOptions, type RunResult } from '../../host/run.js';
import { sealedProgram } from '../../host/sealed-program.js';
import { replaceDescriptor } from '../../host/syscalls.js';
import { log } from '../../log.js';

/** The timeout of a runtime's verb, such as create or delete. */
export const verbTimeoutMs = 30_000;

export interface RuntimeOptions {
  /** The handler's name, also the name of the binary if `path` is empty. */
  readonly name: string;
  readonly path: string;
  readonly args: readonly string[];
  /** Its --root: where it keeps the state of its containers. */
  readonly root: string;
  readonly systemdCgroup: boolean;
}

/** Runs an OCI runtime (the command line of runc(8)). */
export class Runtime {
  private binary: string | undefined;
  private crun: { readonly file: string; readonly is: boolean } | undefined;
  private copy: { readonly file: string; readonly program: Promise<number | undefined> } | undefined;
  private descriptor: number | undefined;

  constructor(private readonly options: RuntimeOptions) {}

  /** The absolute path of the binary. @throws ToolMissing */
  async path(): Promise<string> {
    // Check again: if the binary was removed, choom(1), which starts it, would report a missing command.
    if (this.binary !== undefined && !existsSync(this.binary)) this.binary = undefined;
    this.binary ??= await findProgram(this.options.path || this.options.name);
    return this.binary;
  }

  /** Looks for the binary again. */
  forget(): void {
    this.binary = undefined;
  }

  /**
   * A descriptor of a sealed copy of the binary, for RunOptions.program: crun starts in half the time from it.
   * undefined: the file itself is run.
   * @throws ToolMissing
   */
  async program(): Promise<number | undefined> {
    const path = await this.path();
    const file = fileVersion(path);
    if (this.copy?.file !== file) this.copy = { file, program: this.copyAfter(this.copy?.program, path) };
    return this.copy.program;
  }

  /** One descriptor for all versions: a start with it may be under way, so it is replaced and not closed. */
  private async copyAfter(last: Promise<unknown> | undefined, path: string): Promise<number | undefined> {
    await last;
    const copy = await runnableCopy(path);
    if (copy === undefined) return undefined;
    if (this.descriptor === undefined) return (this.descriptor = copy);
    replaceDescriptor(copy, this.descriptor);
    closeSync(copy);
    return this.descriptor;
  }

  /** The arguments before the verb. */
  get globalArgs(): string[] {
    return [
      ...this.options.args,
      `--root=${this.options.root}`,
      ...(this.options.systemdCgroup ? ['--systemd-cgroup'] : []),
    ];
  }

  /** The command line of a verb. @throws ToolMissing */
  async argv(verb: string, ...args: string[]): Promise<[string, ...string[]]> {
    return [await this.path(), ...this.globalArgs, verb, ...args];
  }

  /** The same with the runtime's own messages in a file, separate from the output of its process. */
  async argvLogging(file: string, verb: string, ...args: string[]): Promise<[string, ...string[]]> {
    return [await this.path(), ...this.globalArgs, `--log=${file}`, verb, ...args];
  }

  /** Runs a verb to its end; its stderr becomes the error. */
  async call(verb: string, args: readonly string[], options: Partial<RunOptions> = {}): Promise<RunResult> {
    try {
      return await run(await this.argv(verb, ...args), {
        timeoutMs: verbTimeoutMs,
        stage: `${this.options.name} ${verb}`,
        program: await this.program(),
        ...options,
      });
    } catch (error) {
      throw error instanceof CommandError && error.id === 'RuntimeFailed'
        ? this.explain(verb, error.stderr || error.message, error)
        : error;
    }
  }

  /** Maps the runtime's message to an error. */
  explain(verb: string, stderr: string, cause?: unknown): CrispError {
    const [id, hint] = (meanings.find(([pattern]) => pattern.test(stderr))?.slice(1) as
      [ErrorId, string?] | undefined) ?? ['RuntimeFailed'];
    const failed = `${this.options.name} ${verb} failed: `;
    const words = withoutPrefix(stderr);
    return new CrispError(
      id,
      `${failed}${lastLines(words.startsWith(failed) ? words.slice(failed.length) : words, 300)}`,
      {
        stage: `container ${verb}`,
        tool: this.options.name,
        stderr: stderr.trim().includes('\n') ? stderr : words,
        cause,
        ...(hint ? { hint } : {}),
      },
    );
  }

  /** The first line of --version. @throws ToolMissing, ToolTimeout, RuntimeFailed */
  async version(): Promise<string> {
    const { stdout } = await run([await this.path(), '--version'], { timeoutMs: verbTimeoutMs });
    return stdout.split('\n')[0]?.trim() ?? '';
  }

  /** Whether it is crun, which has options of its own; checked once for each version of the binary. */
  async isCrun(): Promise<boolean> {
    const file = fileVersion(await this.path());
    if (this.crun?.file !== file) this.crun = { file, is: (await this.version()).startsWith('crun ') };
    return this.crun.is;
  }

  /** The containers of the runtime under this root, including those of other programs. */
  async list(): Promise<{ id: string; bundle: string }[]> {
    const { stdout } = await this.call('list', ['--format', 'json']);
    return (JSON.parse(stdout.trim() || '[]') as { id: string; bundle: string }[] | null) ?? [];
  }

  /** undefined: the container does not exist. */
  async state(id: string): Promise<{ status: string; pid: number } | undefined> {
    const result = await this.call('state', [id], { okExitCodes: 'any' });
    return result.exitCode === 0 ? (JSON.parse(result.stdout) as { status: string; pid: number }) : undefined;
  }

  /** The runtime's state folder of a container. */
  stateFolder(id: string): string {
    return join(this.options.root, id);
  }
}

/** undefined: there is none, or the security policy of the host does not let it run. */
async function runnableCopy(path: string): Promise<number | undefined> {
  const program = sealedProgram(path);
  if (program === undefined) return undefined;
  try {
    await run([path, '--version'], { timeoutMs: verbTimeoutMs, program });
    return program;
  } catch (error) {
    log.warn({ err: error, path }, 'the copy of the runtime in memory does not run: its file is run');
    closeSync(program);
    return undefined;
  }
}

/** crun 1.21, of a file that cannot be executed. */
const notExecutable = 'exists but it is not executable|is not a regular file';

/** Messages of crun and runc, with the error for the caller. Both include the errno text of the kernel. */
const meanings: readonly [RegExp, ErrorId, string?][] = [
  [/unknown command/i, 'Unsupported', 'this build of the runtime lacks the command'],
  [
    /executable file .*not found|exec(ve)?:? .*no such file|no such file or directory: .*(exec|open executable)/i,
    'StartFailed',
    'the command is not in the image: check command, args and PATH',
  ],
  [/exec format error/i, 'StartFailed', 'the program is for another architecture, or a script without #!'],
  [
    new RegExp(`open executable|exec .*permission denied|permission denied.*exec|${notExecutable}`, 'i'),
    'StartFailed',
    'the program is not executable for the user of the container',
  ],
  [
    /(chdir|mkdir|cwd).*(no such file|not a directory|permission denied)/i,
    'StartFailed',
    'check the working folder of the container',
  ],
  [/container .* is not running|cannot exec in a (stopped|paused) container/i, 'WrongContainerState'],
  [/container .* does not exist|container does not exist|error opening file.*status/i, 'ContainerNotFound'],
  [/no space left on device/i, 'DiskFull'],
  [/resource temporarily unavailable|too many open files/i, 'LimitReached'],
  [
    /cannot allocate memory|memory limit could be too low|memory\.limit_in_bytes.*(busy|invalid)|memory\.max/i,
    'OutOfMemory',
    'the memory limit is too small to start the container',
  ],
  [
    /cgroups? in hybrid mode/i,
    'RuntimeFailed',
    'this crun cannot use cgroup v1 with an additional v2 tree: boot with systemd.unified_cgroup_hierarchy=1, or use runc',
  ],
  [
    /sd-bus|systemd not running|(dbus|d-bus).*(connect|no such file)/i,
    'RuntimeFailed',
    'systemd does not answer: if it is not running, set runtime.cgroup_driver to cgroupfs',
  ],
  [/operation not permitted/i, 'PermissionDenied'],
];

const unexecuted = new RegExp(
  `open executable|exec format error|exec.*(permission denied|is a directory)|${notExecutable}`,
  'i',
);

/**
 * A shell's exit code for a program that cannot be run: the runtimes use 1 and 255. @param words its log
 * (argvLogging)
 */
export function exitCodeOf(words: string): number | undefined {
  if (/executable file .*not found|exec.*no such file or directory/i.test(words)) return 127;
  return unexecuted.test(words) ? 126 : undefined;
}

function withoutPrefix(stderr: string): string {
  const line = stderr.trim().split('\n').at(-1) ?? '';
  return /msg="((?:[^"\\]|\\.)*)"/.exec(line)?.[1]?.replaceAll('\\"', '"') ?? line;
}

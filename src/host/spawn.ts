// Child processes by posix_spawn(3), with pipes and notification of their end.
// Called by run.ts only.
//
// Node's own spawn forks the daemon with all its page tables, which blocks the
// only thread for milliseconds, and makes socketpairs instead of pipes:
// /dev/stdin and the like cannot be opened on a socket (docs/adr/0012).
import { fchownSync, statSync } from 'node:fs';
import { Socket } from 'node:net';
import { constants } from 'node:os';
import { socketOn } from './descriptor-socket.js';
import { withOomScoreAdj } from './proc.js';
import {
  bytesWaiting,
  close,
  endOf,
  openProcess,
  pipe,
  reap,
  spawnProcess,
  SystemError,
  type Exit,
} from './syscalls.js';

export interface SpawnOptions {
  readonly cwd?: string | undefined;
  readonly env: Readonly<Record<string, string>>;
  /** Which of 0, 1 and 2 are pipes to crisp; the others are /dev/null. */
  readonly stdin?: boolean;
  readonly stdout?: boolean;
  readonly stderr?: boolean;
  /** Open files of the caller for 1 and 2, instead of pipes. */
  readonly outputs?: readonly [stdout: number, stderr: number];
  /** The owner of the pipes on 0, 1 and 2. Default: crisp's uid. */
  readonly streamsOwner?: number | undefined;
  /** Pipes on 3 and up, by the use of crisp's end. */
  readonly pipes?: readonly ('read' | 'write')[];
  /** One more open file of the caller, on the descriptor after the last pipe. */
  readonly inherited?: number | undefined;
  /** The same for the file to run: argv[0] is then only its name. */
  readonly program?: number | undefined;
  /** It gets a session and a process group of its own. */
  readonly session?: boolean;
  /** Its oom_score_adj, inherited by its children, if crisp may set it; default: crisp's own. */
  readonly oomScoreAdj?: number | undefined;
}

/** What crisp does with its end of a pipe. */
type Direction = 'read' | 'write' | undefined;

/** A child from its start until it is waited for; during this time its pid cannot be reused. */
export class Child {
  readonly stdin: Socket | undefined;
  readonly stdout: Socket | undefined;
  readonly stderr: Socket | undefined;
  readonly pipes: readonly Socket[];
  /** How it ended; from then on its pid may be reused. */
  readonly exited: Promise<Exit>;
  private gone = false;
  /** crisp's ends of its outputs, while they are open. */
  private readonly reading = new Map<Socket, number>();
  private readonly atEnd: (() => void)[] = [];

  /** @throws SystemError, also for a missing program (ENOENT); leaves nothing behind */
  static async start(argv: readonly [string, ...string[]], options: SpawnOptions): Promise<Child> {
    const { program, inherited = program, pipes = [] } = options;
    const path =
      program === undefined
        ? locate(argv[0], options.env['PATH'] ?? '')
        : `/proc/self/fd/${3 + pipes.length}`; // of the child
    if (path === undefined) throw new SystemError('posix_spawn', constants.errno.ENOENT, argv[0]);
    const wanted = [
      options.stdin ? 'write' : undefined,
      options.stdout ? 'read' : undefined,
      options.stderr ? 'read' : undefined,
      ...pipes,
    ] as const;
    const made: ReturnType<typeof pipe>[] = [];
    const ours: (number | undefined)[] = [];
    const theirs: (number | undefined)[] = [];
    let pid: number | undefined;
    let watch: Socket;
    try {
      for (const [index, direction] of wanted.entries()) {
        const ends = direction && pipe();
        if (ends) made.push(ends);
        if (ends && index < 3 && options.streamsOwner) fchownSync(ends.read, options.streamsOwner, 0);
        ours[index] = ends && (direction === 'read' ? ends.read : ends.write);
        theirs[index] = ends && (direction === 'read' ? ends.write : ends.read);
      }
      pid = await inTurn(options.oomScoreAdj, () =>
        spawnProcess({
          path,
          argv,
          env: Object.entries(options.env).map(([name, value]) => `${name}=${value}`),
          cwd: options.cwd,
          descriptors: [
            ...theirs.map((fd, index) => options.outputs?.[index - 1] ?? fd),
            ...(inherited === undefined ? [] : [inherited]),
          ],
          session: options.session ?? false,
        }),
      );
      watch = socketOn(openProcess(pid));
    } catch (error) {
      for (const { read, write } of made) {
        close(read);
        close(write);
      }
      if (pid !== undefined) killUnwatched(pid);
      throw error;
    }
    for (const fd of theirs) if (fd !== undefined) close(fd);
    return new Child(pid, watch, ours, wanted, options.session ?? false);
  }

  private constructor(
    readonly pid: number,
    private readonly watch: Socket,
    ours: readonly (number | undefined)[],
    wanted: readonly Direction[],
    private readonly session: boolean,
  ) {
    const [stdin, stdout, stderr, ...others] = ours.map((fd, index) => this.end(fd, wanted[index]));
    [this.stdin, this.stdout, this.stderr] = [stdin, stdout, stderr];
    this.pipes = others.filter((socket) => socket !== undefined);
    // A pidfd becomes readable when the process ends, and reading it returns EINVAL: the socket gets an
    // error.
    this.watch.on('error', () => undefined);
    this.exited = new Promise((resolve) => {
      this.watch.once('close', () => {
        this.settle(resolve);
      });
    });
  }

  /** Waiting for its end does not keep crisp running. */
  unref(): void {
    this.watch.unref();
  }

  /** Whether `pid` still belongs to this child: it is running, or has ended and was not waited for. */
  get present(): boolean {
    return !this.gone;
  }

  /** Sends a signal to it, or to its process group; no effect after it has been waited for. */
  kill(signal: NodeJS.Signals, group: boolean): void {
    if (this.gone) return;
    try {
      process.kill(group && this.session ? -this.pid : this.pid, signal);
    } catch {
      /* ESRCH: it is just ending, and its group is empty */
    }
  }

  /** Called after it has ended and before it is waited for, while its pid and its group cannot be reused. */
  onEnd(listener: () => void): void {
    this.atEnd.push(listener);
  }

  /** The bytes of an output that are not delivered yet, in the pipe and in crisp's buffers. */
  waiting(output: Socket): number {
    const fd = output.destroyed ? undefined : this.reading.get(output);
    return output.readableLength + (fd === undefined ? 0 : bytesWaiting(fd));
  }

  private end(fd: number | undefined, direction: Direction): Socket | undefined {
    if (fd === undefined || direction === undefined) return undefined;
    const socket = new Socket({ fd, readable: direction === 'read', writable: direction === 'write' });
    socket.on('error', () => undefined); // EPIPE: it does not read its input
    if (direction === 'read') {
      this.reading.set(socket, fd);
      socket.once('close', () => this.reading.delete(socket));
    }
    return socket;
  }

  private settle(resolve: (exit: Exit) => void): void {
    // Not after reap(): then its pid and its group's id may be reused.
    for (const listener of this.atEnd.splice(0)) listener();
    const exit = endOf(this.pid);
    if (exit === undefined) {
      setTimeout(() => {
        this.settle(resolve);
      }, 1);
      return;
    }
    this.gone = true;
    reap(this.pid);
    this.stdin?.destroy();
    resolve(exit);
  }
}

/**
 * Starts a program when it is its turn. Up to `mostStarts` programs start at the same time. A start with an
 * oom_score_adj of its own sets that value for the whole daemon, so no other program starts meanwhile.
 */
async function inTurn<T>(oomScoreAdj: number | undefined, start: () => Promise<T>): Promise<T> {
  const weight = oomScoreAdj === undefined ? 1 : mostStarts;
  await new Promise<void>((begin) => {
    waiting.push({ weight, begin });
    letBegin();
  });
  try {
    return await (oomScoreAdj === undefined ? start() : withOomScoreAdj(oomScoreAdj, start));
  } finally {
    starting -= weight;
    letBegin();
  }
}

function letBegin(): void {
  for (let [next] = waiting; next && starting + next.weight <= mostStarts; [next] = waiting) {
    waiting.shift();
    starting += next.weight;
    next.begin();
  }
}

/** Each start occupies a thread of the pool and memory of koffi, which refuses more than 256 calls at a time. */
const mostStarts = 8;
/** The sum of the weights of the starts that have begun. */
let starting = 0;
/** The starts that wait for their turn, in order. */
const waiting: { readonly weight: number; readonly begin: () => void }[] = [];

/** For a child without a pidfd (no descriptor was free): it is killed and waited for at once. */
function killUnwatched(pid: number): void {
  process.kill(pid, 'SIGKILL');
  while (endOf(pid) === undefined);
  reap(pid);
}

/** Finds a program like execvp(3), but on the PATH of the program's environment, not on crisp's. */
function locate(name: string, path: string): string | undefined {
  const candidates = name.includes('/') ? [name] : path.split(':').map((folder) => `${folder}/${name}`);
  return candidates.find((candidate) => {
    try {
      const found = statSync(candidate, { throwIfNoEntry: false });
      return found?.isFile() && (found.mode & 0o111) !== 0;
    } catch {
      return false;
    }
  });
}

/** The name of a signal number, such as "SIGTERM"; "signal 34" for one without a name. */
export function signalName(number: number): string {
  return Object.entries(constants.signals).find(([, value]) => value === number)?.[0] ?? `signal ${number}`;
}

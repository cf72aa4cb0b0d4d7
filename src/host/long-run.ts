// Runs tools that take long: copies of images, archives, and what `crisp check` asks.
//
// execa forks the whole process, which holds the daemon's only thread for some milliseconds
// (docs/adr/0012): run.ts starts what a pod waits for.
import { baseEnvironment, judge, kept, killAfterMs, type RunOptions, type RunResult } from './run.js';
import { inTurn } from './spawn.js';

export interface LongRunOptions extends Pick<
  RunOptions,
  'timeoutMs' | 'signal' | 'env' | 'maxOutputBytes' | 'stage' | 'errorId'
> {
  /** Is called when it has been started. */
  onStart?: (pid: number) => void;
}

/**
 * Runs a tool to its end, like run().
 * @throws CommandError: ToolMissing, ToolTimeout, Cancelled, or `errorId` for an exit code other than 0.
 */
export async function runLong(
  [file, ...args]: readonly [string, ...string[]],
  options: LongRunOptions,
): Promise<RunResult> {
  const { execa } = await import('execa'); // most daemons and commands do not need it for a while
  const started = performance.now();
  const { child } = await inTurn(undefined, () =>
    Promise.resolve({
      child: execa(file, args, {
        env: { ...baseEnvironment, ...options.env },
        extendEnv: false,
        stdin: 'ignore',
        buffer: false, // its limit would end the tool
        reject: false,
        timeout: options.timeoutMs,
        forceKillAfterDelay: killAfterMs,
        cleanup: false, // it would handle the signals that crisp gets
        ...(options.signal ? { cancelSignal: options.signal } : {}),
      }),
    }),
  );
  if (child.pid !== undefined) options.onStart?.(child.pid);
  const most = options.maxOutputBytes ?? 1 << 20;
  const [stdout, stderr] = [kept(child.stdout, most), kept(child.stderr, most)];
  const ended = await child;
  const output = { stdout: stdout(), stderr: stderr() };
  return judge([file, ...args], options, ended, output, performance.now() - started);
}

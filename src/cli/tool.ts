// Runs tools for the command line.
//
// execa forks the whole process: a command notices nothing of that, and the daemon, whose pods would wait, starts
// its programs by host/run.ts (docs/adr/0012).
import { baseEnvironment, judge, killAfterMs, type RunOptions, type RunResult } from '../host/run.js';

/**
 * Runs a tool to its end, without input.
 * @throws CommandError: ToolMissing, ToolTimeout, or `errorId` for an exit code other than 0.
 */
export async function runTool(
  [file, ...args]: readonly [string, ...string[]],
  options: Pick<RunOptions, 'timeoutMs' | 'stage' | 'errorId'>,
): Promise<RunResult> {
  const { execa } = await import('execa'); // most commands do not need it
  const started = performance.now();
  const ended = await execa(file, args, {
    env: baseEnvironment,
    extendEnv: false,
    stdin: 'ignore',
    stripFinalNewline: false,
    reject: false,
    timeout: options.timeoutMs,
    forceKillAfterDelay: killAfterMs,
  });
  return judge([file, ...args], options, ended, ended, performance.now() - started);
}

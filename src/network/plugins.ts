// Runs CNI plugins: finds the program, passes its environment and its
// configuration, and parses its answer.  Called by cni.ts.  Facts: the CNI
// specification 1.1, section 2 (execution protocol).
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { CrispError, lastLines } from '../errors.js';
import { run } from '../host/run.js';

export type CniCommand = 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS' | 'VERSION';

/** CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME and CNI_ARGS of one attachment. */
export interface CallParameters {
  readonly containerId: string;
  /** Empty: the namespace is gone (DEL only). */
  readonly netns: string;
  readonly interfaceName: string;
  readonly args: string;
}

/** The error object that a failing plugin prints on stdout. */
interface PluginError {
  readonly code: number;
  readonly msg: string;
  readonly details?: string;
}

/** Finds and runs the CNI plugins. */
export class Plugins {
  /**
   * Cache of found programs, so that a pod needs no search; cleared when the configuration is loaded again.
   */
  private readonly found = new Map<string, string>();

  constructor(
    private readonly binDirs: readonly string[],
    private readonly timeoutMs: number,
  ) {}

  /** Clears the cache, so that each plugin is searched again. */
  forget(): void {
    this.found.clear();
  }

  /** The program of a plugin type, in the first folder that has it. @throws CniFailed */
  async find(type: string): Promise<string> {
    const known = this.found.get(type);
    if (known) return known;
    for (const folder of this.binDirs) {
      const path = join(folder, type);
      if (await isProgram(path)) {
        this.found.set(type, path);
        return path;
      }
    }
    throw new CrispError('CniFailed', `the CNI plugin "${type}" is not in ${this.binDirs.join(' or ')}`, {
      tool: type,
      hint: 'install it (Debian: containernetworking-plugins)',
    });
  }

  /**
   * Runs one plugin to its end; at its timeout or the caller's abort it is killed with all
   * its children.
   * @param input the JSON for its stdin
   * @returns its output, parsed; undefined if it printed nothing
   * @throws CniFailed with the plugin's own code, message and details; ToolTimeout; Cancelled
   */
  async call(
    command: CniCommand,
    type: string,
    input: string,
    parameters?: CallParameters,
    signal?: AbortSignal,
  ): Promise<unknown> {
    const stage = `cni ${command.toLowerCase()}`;
    const program = await this.find(type);
    const result = await run([program], {
      timeoutMs: this.timeoutMs,
      signal,
      input,
      stage,
      okExitCodes: 'any',
      errorId: 'CniFailed',
      wholeGroup: true,
      env: {
        CNI_COMMAND: command,
        CNI_PATH: this.binDirs.join(delimiter),
        ...(parameters
          ? {
              CNI_CONTAINERID: parameters.containerId,
              CNI_NETNS: parameters.netns,
              CNI_IFNAME: parameters.interfaceName,
              CNI_ARGS: parameters.args,
            }
          : {}),
      },
    });
    const answer = parseAnswer(result.stdout);
    if (result.exitCode !== 0) {
      throw new CrispError(
        'CniFailed',
        `CNI plugin ${type} failed ${command}: ${explain(answer) ?? `exit code ${result.exitCode}`}`,
        {
          stage,
          tool: type,
          stderr: [result.stderr, explain(answer) ? '' : result.stdout].filter(Boolean).join('\n'),
        },
      );
    }
    if (answer === unreadable) {
      throw new CrispError(
        'CniFailed',
        `CNI plugin ${type} answered ${command} with invalid JSON: ${lastLines(result.stdout, 200)}`,
        { stage, tool: type, stderr: result.stderr },
      );
    }
    return answer;
  }
}

const unreadable = Symbol('no JSON');

function parseAnswer(stdout: string): unknown {
  if (!stdout.trim()) return undefined;
  try {
    return JSON.parse(stdout) as unknown;
  } catch {
    return unreadable;
  }
}

/** The text of a plugin's error object: "msg (code 7): details". */
function explain(answer: unknown): string | undefined {
  const { code, msg, details } = (
    typeof answer === 'object' && answer !== null ? answer : {}
  ) as Partial<PluginError>;
  return msg === undefined && code === undefined
    ? undefined
    : `${msg || 'no message'} (code ${code ?? 'unknown'})${details ? `: ${details}` : ''}`;
}

async function isProgram(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

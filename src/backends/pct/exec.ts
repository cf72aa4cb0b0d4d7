// Runs a command in a running CT: by lxc-attach, which takes 0.05 s, while `pct
// exec` takes 1.2 s (Perl's start-up) and runs the same lxc-attach.
//
// lxc-attach takes the privileges, limits and environment from the CT's own process,
// but not the user and the working folder, which are set here.
import { CrispError } from '../../errors.js';
import { runStreaming } from '../../host/run.js';
import type { Process } from '../../shapes/spec.js';
import type { ExecPlan } from '../backend.js';
import { killBelow, limited } from '../exec-limit.js';
import { endRelay, runInTerminal } from '../relay.js';
import { fitsLine } from './lxc-config.js';

export interface AttachPlan {
  readonly program: string;
  readonly lxcFolder: string;
  readonly vmid: number;
  /** The CT's own process. */
  readonly own: Pick<Process, 'user' | 'cwd' | 'env' | 'oomScoreAdj'>;
  /** The host's uid of the CT's user, to own the standard streams, so that it can open them by name. */
  readonly hostUid: number;
  /** The folder of the CT's bundle, for a file of the relay. */
  readonly bundle: string;
  /** The image has /bin/sh. */
  readonly hasShell: boolean;
}

/** @throws ExecTimeout, Cancelled, RuntimeFailed */
export async function exec(
  attach: AttachPlan,
  plan: ExecPlan,
  signal: AbortSignal,
): Promise<{ exitCode: number }> {
  const { argv, env } = attachCommand(attach, plan);
  const options = { env, cwd: '/', oomScoreAdj: attach.own.oomScoreAdj }; // inherited from lxc-attach
  const running = plan.io.terminal
    ? await runInTerminal(argv, plan.io, attach.bundle, options)
    : await runStreaming(argv, plan.io, {
        timeoutMs: 0,
        okExitCodes: 'any',
        stage: 'exec',
        ownStreams: true,
        streamsOwner: attach.hostUid,
        ...options,
      });
  const limit = limited(plan.timeoutMs, signal, () => {
    if (plan.io.terminal) endRelay(running);
    return killBelow(running);
  });
  try {
    const { exitCode, signal: endedBy } = await running.ended.finally(() => limit.check());
    if (exitCode === undefined)
      throw new CrispError('RuntimeFailed', `exec was ended by ${endedBy ?? 'a signal'}`, {
        stage: 'exec',
        tool: 'lxc-attach',
      });
    return { exitCode };
  } finally {
    limit.clear();
  }
}

/**
 * Variables are passed in lxc-attach's own environment, since all users can read
 * /proc/PID/cmdline; except variables that the loader of lxc-attach itself would
 * evaluate (ld.so(8)).
 */
export function attachCommand(
  { program, lxcFolder, vmid, own, hasShell }: Omit<AttachPlan, 'bundle' | 'hostUid'>,
  {
    args,
    env = [],
    io: { terminal },
  }: Pick<ExecPlan, 'args' | 'env'> & { readonly io: Pick<ExecPlan['io'], 'terminal'> },
): { argv: [string, ...string[]]; env: Record<string, string> } {
  const type =
    terminal && ![...own.env, ...env].some((entry) => entry.startsWith('TERM=')) ? ['TERM=xterm'] : [];
  const added = [...own.env.filter((entry) => !fitsLine(entry)), ...env, ...type];
  const variables = Object.fromEntries(
    added.map((entry) => {
      const at = entry.indexOf('=');
      return [entry.slice(0, at), entry.slice(at + 1)];
    }),
  );
  const kept = Object.keys(variables).filter((name) => !/^(LD_|GLIBC_|GCONV_)/.test(name) && name !== 'PATH');
  const open = Object.keys(variables).filter((name) => !kept.includes(name));
  return {
    argv: [
      program,
      '-n',
      String(vmid),
      '-P',
      lxcFolder,
      '--clear-env',
      '-u',
      String(own.user.uid),
      '-g',
      String(own.user.gid),
      ...kept.flatMap((name) => ['--keep-var', name]),
      ...open.flatMap((name) => ['--set-var', `${name}=${variables[name]}`]),
      '--',
      ...inFolder(own.cwd, hasShell, args),
    ],
    env: Object.fromEntries(kept.map((name) => [name, variables[name] ?? ''])),
  };
}

/** lxc-attach has no option for the folder; without a shell in the image the command starts in /. */
function inFolder(cwd: string, hasShell: boolean, args: readonly string[]): readonly string[] {
  return cwd === '/' || !hasShell ? args : ['/bin/sh', '-c', 'cd "$0" && exec "$@"', cwd, ...args];
}

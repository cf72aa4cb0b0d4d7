// `crisp check`: the whole preflight, or with --images the content of the images.
import { loadConfig } from '../../config/config.js';
import { printJson } from '../output.js';
import { UsageError } from '../parse.js';
import { cgroupChecks } from './cgroups.js';
import { runChecks, thisHost, type Checked, type Level } from './check.js';
import { handlerChecks } from './handlers.js';
import { imageChecks } from './images.js';
import { kernelChecks } from './kernel.js';
import { networkChecks } from './network.js';
import { proxmoxChecks } from './proxmox.js';
import { storageChecks } from './storage.js';
import { toolChecks } from './tools.js';

export interface CheckFlags {
  readonly config: string | undefined;
  readonly json: boolean;
  readonly quiet: boolean;
  readonly images: boolean;
  readonly repair: boolean;
}

/** @throws UsageError @returns 1 if there are failures; warnings do not change the exit code */
export async function checkCommand(flags: CheckFlags): Promise<number> {
  if (flags.repair && !flags.images) throw new UsageError('--repair needs --images');
  const config = loadConfig(flags.config);
  const checks = flags.images
    ? imageChecks(flags.repair)
    : [
        ...kernelChecks,
        ...cgroupChecks,
        ...toolChecks,
        ...handlerChecks,
        ...networkChecks,
        ...storageChecks,
        ...proxmoxChecks(thisHost, config),
      ];
  const checked = await runChecks(checks, thisHost, config);
  const count = (level: Level): number =>
    checked.flatMap(({ findings }) => findings).filter((finding) => finding.level === level).length;
  const sums = { failures: count('failure'), warnings: count('warning') };
  if (flags.json) printJson({ ...sums, checks: checked });
  else
    process.stdout.write(
      `${inWords(checked, flags.quiet, process.stdout.isTTY)}${counted(sums.failures, 'failure')}, ${counted(sums.warnings, 'warning')}\n`,
    );
  return sums.failures > 0 ? 1 : 0;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

const marks: Readonly<Record<Level, readonly [word: string, colour: number]>> = {
  ok: ['ok     ', 32],
  warning: ['warning', 33],
  failure: ['FAILURE', 31],
};

export function inWords(checked: readonly Checked[], onlyTrouble: boolean, coloured: boolean): string {
  return checked
    .flatMap(({ title, findings }) =>
      findings
        .filter(({ level }) => !onlyTrouble || level !== 'ok')
        .map(({ level, message, hint }) => {
          const [word, colour] = marks[level];
          return `${coloured ? `\x1b[${colour}m${word}\x1b[0m` : word}  ${title}: ${message}\n${hint ? `         hint: ${hint}\n` : ''}`;
        }),
    )
    .join('');
}

// The errors of a request, for a person who has given flags: the checks are those of
// pods, and name the fields of the CRI.
import { CrispError } from '../errors.js';

/** Field -> the flag that it comes from (container-config.ts). */
const flags: readonly [RegExp, string][] = [
  [/^resources\.memory_limit_in_bytes\b/, '--memory'],
  [/^resources\.cpu_quota\b/, '--cpus'],
  [/^capabilities\.add_capabilities\b/, '--cap-add'],
  [/^capabilities\.drop_capabilities\b/, '--cap-drop'],
  [/^mounts\[\d+\](\.\w+)?/, '--volume'],
  [/^working_dir\b/, '--workdir'],
];

/** The same error, about the flag. */
export function inFlags(error: unknown): unknown {
  if (!(error instanceof CrispError)) return error;
  const [field, flag] = flags.find(([pattern]) => pattern.test(error.message)) ?? [];
  if (!field || !flag) return error;
  const { id, message, stage, tool, stderr, hint } = error;
  return new CrispError(id, message.replace(field, flag), {
    ...(stage === undefined ? {} : { stage }),
    ...(tool === undefined ? {} : { tool }),
    ...(stderr === undefined ? {} : { stderr }),
    hint,
    cause: error,
  });
}

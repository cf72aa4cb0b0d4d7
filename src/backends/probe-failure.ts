// The result of a failed probe, from its error. Called by the backends.
import { toCrispError } from '../errors.js';
import type { Probe } from './backend.js';

/** The result of a probe that failed with this error. */
export function notReady(error: unknown): Pick<Probe, 'ready' | 'reason' | 'failure'> {
  const { id, report, finding, hint, tool } = toCrispError(error);
  return {
    ready: false,
    reason: report,
    failure: { finding, hint, missing: id === 'ToolMissing' ? tool : undefined },
  };
}

// Which backend runs a pod.  Decided once per pod, at RunPodSandbox, and kept
// in its record together with the rule that decided.
import type { Config } from './config.js';
import { CrispError } from './errors.js';

export interface RouteInput {
  readonly handler: string;
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Known for the command line only: a pod is routed before its images are. */
  readonly image?: string;
}

export interface Route {
  /** The handler's name; its Backend is built by daemon.ts. */
  readonly backend: string;
  /** What decided, in words: "RuntimeClass handler crun", "default_container_type". */
  readonly rule: string;
}

/** @throws UnknownHandler */
export function route(config: Config, input: RouteInput): Route {
  if (input.handler) {
    if (!(input.handler in config.handlers)) {
      throw new CrispError('UnknownHandler', `runtime handler "${input.handler}" is not configured; there are: ${Object.keys(config.handlers).join(', ')}`);
    }
    return { backend: input.handler, rule: `RuntimeClass handler ${input.handler}` };
  }
  return { backend: config.default_container_type, rule: 'default_container_type' };
}

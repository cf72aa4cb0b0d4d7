// Which backend runs a pod.  Decided once per pod, at RunPodSandbox (or by a
// standalone command), and kept in its record with the rule that decided:
//
//   RuntimeClass handler ─► rules, in order ─► crun_name_patterns ─► default_container_type
//                                └── a handler whose probe failed gives way to its fallback ──┘
//
// Pure: the caller brings the configuration and what the probes found.
import type { Config, RuleConfig } from './config.js';
import { CrispError } from '../errors.js';
import { pattern } from './pattern.js';

export interface RouteInput {
  readonly handler: string;
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Known for the command line only: a pod is routed before its images are named. */
  readonly image?: string;
}

export interface Route {
  /** The handler's name. */
  readonly handler: string;
  /** What decided, in words: "RuntimeClass handler crun", "default_container_type". */
  readonly rule: string;
  /** The handler that the rule names, where this one took its place. */
  readonly insteadOf?: string;
}

/** What routing needs to know of a handler: the outcome of its probe. */
export interface Readiness {
  readonly ready: boolean;
  readonly reason: string;
}

/** What the configuration says, whether it is ready or not. @throws UnknownHandler, RuleTimeout */
export function route(config: Config, input: RouteInput): Route {
  if (input.handler) {
    if (!Object.hasOwn(config.handlers, input.handler)) {
      throw new CrispError(
        'UnknownHandler',
        `runtime handler "${input.handler}" is not configured; there are: ${Object.keys(config.handlers).join(', ')}`,
      );
    }
    return { handler: input.handler, rule: `RuntimeClass handler ${input.handler}` };
  }
  const index = config.routing.rules.findIndex((rule) => matches(rule, input));
  const rule = config.routing.rules[index];
  if (rule) return { handler: rule.handler, rule: `routing.rules[${index}] (${conditions(rule)})` };
  const name = config.routing.crun_name_patterns.find((text) => pattern(text)(input.name));
  if (name !== undefined) return { handler: 'crun', rule: `routing.crun_name_patterns ${name}` };
  return { handler: config.default_container_type, rule: 'default_container_type' };
}

/** The handlers that may run what is routed to the first, in their order. */
export function withFallbacks(config: Config, first: string): string[] {
  const names = [];
  for (let name: string | undefined = first; name !== undefined; name = config.fallback[name])
    names.push(name);
  return names;
}

/**
 * The handler that runs a pod: route(), and where that handler is broken, its
 * fallback.  A pod that names its RuntimeClass gets that one or an error: it
 * may have been chosen for what only it can do.
 * @throws UnknownHandler, RuleTimeout, HandlerNotReady
 */
export function chooseHandler(
  parts: { readonly config: Config; readonly handlers: ReadonlyMap<string, { readonly probe: Readiness }> },
  input: RouteInput,
): Route {
  const wanted = route(parts.config, input);
  const tried: string[] = [];
  for (const name of input.handler ? [wanted.handler] : withFallbacks(parts.config, wanted.handler)) {
    const probe = parts.handlers.get(name)?.probe;
    if (probe?.ready)
      return tried.length === 0
        ? wanted
        : {
            handler: name,
            rule: `${wanted.rule}, with ${name} as the fallback of ${tried.join(' and ')}`,
            insteadOf: wanted.handler,
          };
    tried.push(name);
  }
  const reasons = tried.map(
    (name) => `${name}: ${parts.handlers.get(name)?.probe.reason ?? 'it was not probed'}`,
  );
  throw new CrispError(
    'HandlerNotReady',
    `no handler for this pod is ready (decided by ${wanted.rule}): ${reasons.join('; ')}`,
  );
}

function matches(rule: RuleConfig, input: RouteInput): boolean {
  return (
    fits(rule.namespace, input.namespace) &&
    fits(rule.pod, input.name) &&
    fits(rule.image, input.image) &&
    fitsAll(rule.labels, input.labels) &&
    fitsAll(rule.annotations, input.annotations)
  );
}

/** No condition fits anything; a condition never fits what is not there. */
function fits(text: string | undefined, value: string | undefined): boolean {
  return text === undefined || (value !== undefined && pattern(text)(value));
}

function fitsAll(
  texts: Readonly<Record<string, string>> | undefined,
  values: Readonly<Record<string, string>>,
): boolean {
  return Object.entries(texts ?? {}).every(([key, text]) =>
    fits(text, Object.hasOwn(values, key) ? values[key] : undefined),
  );
}

/** The conditions of a rule in words: `namespace "kube-*", label app "web"`. */
export function conditions(rule: RuleConfig): string {
  const all = (kind: string, texts: Readonly<Record<string, string>> | undefined) =>
    Object.entries(texts ?? {}).map(([key, text]): [string, string] => [`${kind} ${key}`, text]);
  return [
    ...(['namespace', 'pod'] as const).map((key): [string, string | undefined] => [key, rule[key]]),
    ...all('label', rule.labels),
    ...all('annotation', rule.annotations),
    ['image', rule.image] as const,
  ]
    .filter(([, text]) => text !== undefined)
    .map(([what, text]) => `${what} "${text}"`)
    .join(', ');
}

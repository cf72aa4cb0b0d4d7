// Chooses the handler of a pod. Decided once per pod, at RunPodSandbox (or by a standalone
// command), and kept in its record with the rule:
//
//   RuntimeClass handler ─► rules, in order ─► crun_name_patterns ─► default_container_type
//                                └── a handler with a failed probe is replaced by its fallback ──┘
//
// Pure: the caller passes the configuration and the results of the probes.
import type { Config, RuleConfig } from './config.js';
import { CrispError } from '../errors.js';
import { pattern } from './pattern.js';

export interface RouteInput {
  readonly handler: string;
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Set by the command line only: a pod is routed before its images are known. */
  readonly image?: string;
}

export interface Route {
  /** The handler's name. */
  readonly handler: string;
  /** The rule, as text: "RuntimeClass handler crun", "default_container_type". */
  readonly rule: string;
  /** The handler of the rule, if this one is its fallback. */
  readonly insteadOf?: string;
}

/** The part of a handler that routing uses: the result of its probe. */
export interface Readiness {
  readonly ready: boolean;
  readonly reason: string;
}

/** The handler by configuration, whether it is ready or not. @throws UnknownHandler, RuleTimeout */
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

/** A handler and its fallbacks, in order. */
export function withFallbacks(config: Config, first: string): string[] {
  const names = [];
  for (let name: string | undefined = first; name !== undefined; name = config.fallback[name])
    names.push(name);
  return names;
}

/**
 * The handler that runs a pod: the result of route(), or its fallback if that
 * handler is not ready. A pod with a RuntimeClass gets that handler or an
 * error: it may have been chosen for a feature that only it has.
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

/** No condition matches every value; a condition never matches a missing value. */
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

/** The conditions of a rule as text: `namespace "kube-*", label app "web"`. */
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

// From the router to a backend: the only file of the command line that
// imports concrete backends (checked by architecture.test.ts).
import { join } from 'node:path';
import type { Backend, ContainerPlan, Features, Probe } from '../backends/backend.js';
import { buildBackend } from '../backends/build.js';
import { probeOnce } from '../backends/probe-once.js';
import { runtimeRoot } from '../backends/oci/backend.js';
import { monitorArgv } from '../backends/oci/conmon.js';
import { Runtime } from '../backends/oci/runtime.js';
import { explainCt } from '../backends/pct/explain.js';
import { optionsOf } from '../backends/pct/options.js';
import type { Config } from '../config/config.js';
import { CrispError, toCrispError } from '../errors.js';
import { cgroupDriver } from '../host/cgroup.js';
import { exists } from '../host/files.js';
import type { IdMaps, SandboxPlan } from '../shapes/sandbox.js';
import { findProgram } from '../host/programs.js';
import { chooseHandler, route, withFallbacks, type Route, type RouteInput } from '../config/router.js';

export interface Routed extends Route {
  readonly backend: Backend;
  /** The result of its probe. */
  readonly features: Features;
}

/**
 * The backend for a container, chosen like in the daemon: rules, then a fallback if the chosen handler is not
 * ready.
 */
export async function routeTo(config: Config, state: string, input: RouteInput): Promise<Routed> {
  const wanted = route(config, input).handler;
  const names = input.handler ? [wanted] : withFallbacks(config, wanted);
  const handlers = new Map<string, { backend: Backend; probe: Probe }>();
  for (const name of names) {
    const backend = open(config, state, name);
    const probe = await probeOnce({ config, state, name, backend, fingerprint: await backend.fingerprint() });
    handlers.set(name, { backend, probe });
    if (probe.ready) break;
  }
  const chosen = chooseHandler({ config, handlers }, input);
  const routed = handlers.get(chosen.handler);
  if (!routed) throw new CrispError('HandlerNotReady', `handler ${chosen.handler} was not probed`);
  return { ...chosen, backend: routed.backend, features: routed.probe.features };
}

/** The backend with which a container was made. @throws UnknownHandler */
export function open(config: Config, state: string, name: string): Backend {
  const handler = Object.hasOwn(config.handlers, name) ? config.handlers[name] : undefined;
  if (!handler)
    throw new CrispError(
      'UnknownHandler',
      `the handler "${name}" of this container is not configured any more`,
    );
  return buildBackend(config, name, handler, state);
}

/** Whether a handler may have containers: an OCI handler that was never used has no folder for them. */
export async function mayHaveContainers(config: Config, state: string, name: string): Promise<boolean> {
  const handler = config.handlers[name];
  return (
    handler !== undefined &&
    (handler.type === 'pct' || exists(runtimeRoot({ name, state, root: handler.root })))
  );
}

/** Runs a temporary container on a handler, without using a stored result. Never throws. */
export async function probeOf(config: Config, state: string, name: string): Promise<Probe> {
  try {
    const backend = open(config, state, name);
    try {
      return await backend.probe();
    } finally {
      await backend.close();
    }
  } catch (error) {
    return {
      ready: false,
      reason: toCrispError(error).report,
      version: '',
      features: { recursiveReadOnlyMounts: false, userNamespaces: false },
      lacks: {},
    };
  }
}

/** The result of Backend.userNamespace(), for `crisp explain`; nothing is run. */
export function userNamespaceOf(
  config: Config,
  state: string,
  name: string,
  plan: SandboxPlan,
): IdMaps | undefined {
  return Object.hasOwn(config.handlers, name) ? open(config, state, name).userNamespace?.(plan) : undefined;
}

/** How a container would be run, for `crisp explain`. */
export interface Explanation {
  readonly commands: readonly { readonly what: string; readonly argv: readonly string[] }[];
  /** Other files that the backend would write beside config.json. */
  readonly files: readonly { readonly path: string; readonly text: string }[];
  readonly notHonoured: readonly string[];
}

/** Nothing is run. A missing program is shown by its name only. */
export async function explanationOf(
  config: Config,
  state: string,
  name: string,
  plan: ContainerPlan,
): Promise<Explanation> {
  const handler = Object.hasOwn(config.handlers, name) ? config.handlers[name] : undefined;
  if (!handler) return { commands: [], files: [], notHonoured: [] };
  if (handler.type === 'pct') return explainCt(optionsOf(config, name, state), plan);
  const systemdCgroup = cgroupDriver(config.runtime.cgroup_driver) === 'systemd';
  const runtime = await programOr(handler.path || name);
  const globalArgs = new Runtime({
    name,
    path: handler.path,
    args: handler.args,
    root: runtimeRoot({ name, state, root: handler.root }),
    systemdCgroup,
  }).globalArgs;
  const monitor = {
    conmon: await programOr(config.runtime.conmon),
    runtime,
    runtimeArgs: globalArgs,
    exitDir: join(state, 'exits', name),
    id: plan.id,
    bundle: plan.folder,
    log: plan.logPath !== '',
    terminal: plan.spec.process.terminal ?? false,
    stdin: plan.stdin,
    stdinOnce: plan.stdinOnce,
    ownStreams: plan.spec.linux.namespaces.some(({ type }) => type === 'user'),
  };
  return {
    commands: [
      { what: 'create', argv: monitorArgv(monitor) },
      { what: 'start', argv: [runtime, ...globalArgs, 'start', plan.id] },
      { what: 'delete', argv: [runtime, ...globalArgs, 'delete', '--force', plan.id] },
    ],
    files: [],
    notHonoured: [],
  };
}

async function programOr(name: string): Promise<string> {
  try {
    return await findProgram(name);
  } catch {
    return name;
  }
}

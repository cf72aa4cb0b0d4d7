// The composition root: makes each service once, in order, and closes them
// again.
import { dirname } from 'node:path';
import { buildBackend } from './backends/build.js';
import { keptProbe, probeOnce } from './backends/probe-once.js';
import { diffConfig } from './config/reload.js';
import { withoutSecrets, type Config } from './config/config.js';
import { Stops } from './records/stops.js';
import { recordExit, watchForLostExits } from './cri/exits.js';
import { monitorLost } from './cri/monitor-lost.js';
import { Events } from './cri/event-log.js';
import { streamingHandlers } from './cri/exec.js';
import { beingProbed, Handler, refreshHandlers } from './cri/handlers.js';
import type { Services } from './cri/services.js';
import { recover } from './cri/recover.js';
import { holderRuntimes } from './cri/sandbox-run.js';
import { writeStateDump } from './cri/state-dump.js';
import { UsageCache } from './cri/usage-cache.js';
import { CriServer } from './cri/serve.js';
import { CrispError, toCrispError } from './errors.js';
import { trimWhenIdle } from './memory.js';
import { makeFolder, takeFrom, tightenState } from './host/files.js';
import { bootId } from './host/proc.js';
import { preferThread } from './host/syscalls.js';
import { freeSocketPath } from './host/unix-socket.js';
import { Rootfs } from './images/rootfs.js';
import { Images, imagesOptionsOf } from './images/store.js';
import { log } from './log.js';
import { metrics, MetricsServer } from './metrics.js';
import { Network, networkOptionsOf } from './network/cni.js';
import { readHostFacts } from './oci/host-facts.js';
import { findHolderTools } from './pod/pid-holder.js';
import { rootGroupOf } from './oci/namespaces.js';
import { claimState } from './records/claim.js';
import { InFlight } from './records/creations.js';
import { Locks } from './records/locks.js';
import { containerState, sandboxState } from './records/records.js';
import { Store } from './records/store.js';
import { StreamingServer } from './streaming/server.js';
import { feedWatchdog, notifySystemd } from './systemd.js';
import { version } from './version.js';

/** How long calls in flight may continue after SIGTERM. */
const closeGraceMs = 5_000;

/**
 * Runs the daemon until `signal` aborts. Containers keep running afterwards.
 * @param read reads the configuration again, for SIGHUP
 */
export async function serve(config: Config, read: () => Config, signal: AbortSignal): Promise<void> {
  log.level = config.log_level;
  log.info({ version, root: config.root, state: config.state }, 'crisp starts');
  log.debug({ config: withoutSecrets(config) }, 'configuration');
  goFirst();
  // A bug that loses an error must affect one call at most, not all; the containers do not need the daemon,
  // but the kubelet does.
  process.on('unhandledRejection', (error) => log.error({ err: error }, 'unhandled error'));
  let reload = (): void =>
    log.warn('SIGHUP while crisp starts: ignored, since the configuration has just been read');
  process.on('SIGHUP', () => reload());
  const closers: (() => Promise<void> | void)[] = [];
  try {
    const services = await open(config, closers);
    reload = () => reloadConfig(services, read);
    notifySystemd('READY=1', `STATUS=${statusLine(services.handlers)}`);
    closers.push(feedWatchdog(config.listen), trimWhenIdle());
    void probeTheRest(services.handlers);
    // Until the daemon is stopped; containers, their monitors and their logs do not need it.
    await aborted(signal);
    notifySystemd('STOPPING=1', 'STATUS=containers run on');
  } finally {
    // Also after a failed start: open servers would keep the process running, and systemd would wait for it.
    for (const close of closers.reverse()) await close();
  }
  log.info('crisp has ended; containers run on');
}

/**
 * On a busy machine each of the short turns of the only thread, and so each call, would wait for a time
 * slice: this takes more time than the work itself. Containers and tools keep the default priority.
 */
function goFirst(): void {
  try {
    preferThread(-10);
  } catch (error) {
    log.debug({ err: error }, 'the priority of the daemon could not be raised');
  }
}

/**
 * Makes all services and opens the socket. @param closers gets a function for each opened service, in order;
 * also if a later one fails
 */
async function open(config: Config, closers: (() => Promise<void> | void)[]): Promise<Services> {
  // 1. The folders and the socket path.
  const socketPath = config.listen.replace(/^unix:\/\//, '');
  makePlace('state', config.state, 0o711);
  makePlace('root', config.root, 0o700);
  makePlace('listen', dirname(socketPath), 0o755);
  let dumped: Services | undefined = undefined;
  process.on('SIGUSR2', () => writeStateDump(config.state, dumped));
  await claimState(config.state);
  await freeSocketPath(socketPath); // before anything is repaired: an error ends the start at once

  // 2. The services.
  const store = new Store(config.state);
  await store.load();
  takeFrom(config.root, 0o700);
  tightenState(config.state, (id) =>
    rootGroupOf(
      (store.sandboxes.get(id) ?? store.sandboxes.get(store.containers.get(id)?.sandboxId ?? ''))?.plan
        .idMaps,
    ),
  );
  const images = new Images(imagesOptionsOf(config));
  await images.open();
  const rootfs = new Rootfs({ root: config.root, state: config.state, images });
  const network = new Network(networkOptionsOf(config, config.root));
  closers.push(() => network.close());
  await network.start();
  const handlers = await buildHandlers(config);
  for (const handler of handlers.values())
    closers.push(async () => {
      await handler.settled();
      await handler.backend.close();
    });
  const { tls_cert: cert, tls_key: key, address, port } = config.streaming;
  const streaming = new StreamingServer({
    address,
    port,
    handlers: streamingHandlers(() => services),
    ...(cert ? { tls: { cert, key } } : {}),
  });
  closers.push(() => streaming.close());
  await streaming.start();
  const creations = new InFlight(config.runtime.unclaimed_seconds * 1000);
  const services: Services = {
    config,
    version,
    bootId: await bootId(),
    host: readHostFacts(config),
    store,
    locks: new Locks(),
    creations,
    stops: new Stops(),
    handlers,
    network,
    images,
    rootfs,
    usageCache: new UsageCache((ids) => rootfs.usage(ids)),
    events: new Events({ store, creations }),
    streaming,
  };
  dumped = services;
  for (const { backend } of handlers.values()) {
    backend.onExit(
      (id, exit) =>
        void recordExit(services, id, exit).catch((error: unknown) =>
          log.error({ err: error, containerId: id }, 'exit not recorded'),
        ),
    );
    backend.onMonitorLost(
      (id) =>
        void monitorLost(services, id).catch((error: unknown) =>
          log.error({ err: error, containerId: id }, 'the end of a monitor could not be handled'),
        ),
    );
  }
  const figures = config.metrics.port === 0 ? undefined : await serveMetrics(services);
  closers.push(() => figures?.close());

  // 3. The state of an earlier run: repaired before the socket opens.
  await recover(services);
  const ended = new AbortController();
  closers.push(() => ended.abort());
  void watchForLostExits(services, ended.signal);

  await findHolderTools(holderRuntimes(services)).catch((error: unknown) =>
    log.warn({ error: toCrispError(error).report }, 'pods that share one pid namespace cannot run'),
  );

  // 4. The socket.
  const server = new CriServer(services);
  closers.push(() => server.close(closeGraceMs));
  await server.listen(socketPath);
  logReadiness(config.listen, handlers);
  return services;
}

/** Logs first, each at its own level, the handlers that cannot run pods. */
function logReadiness(listen: string, handlers: ReadonlyMap<string, Handler>): void {
  const probes = [...handlers].map(([name, { probe }]) => ({ name, ...probe }));
  const broken = probes.filter(({ ready, reason }) => !ready && reason !== beingProbed.reason);
  for (const { name, reason } of broken)
    log.warn({ handler: name, reason }, 'a runtime handler is not ready');
  if (broken.length === probes.length) return log.error({ listen }, cannotRunPods);
  log.info(
    {
      listen,
      handlers: probes.map(({ name, ready, version: own, lacks, reason }) =>
        ready ? { name, ready, version: own, lacks } : { name, ready, reason },
      ),
    },
    'crisp is ready',
  );
}
const cannotRunPods = 'crisp serves, but cannot run pods: no runtime handler is ready; see `crisp check`';

/** Waits for handlers with a long first probe. Never rejects. */
async function probeTheRest(handlers: ReadonlyMap<string, Handler>): Promise<void> {
  const wasPending = [...handlers.values()].some(({ probe }) => probe === beingProbed);
  await refreshHandlers(handlers);
  notifySystemd(`STATUS=${statusLine(handlers)}`);
  if (wasPending && ![...handlers.values()].some(({ probe }) => probe.ready)) log.error(cannotRunPods);
}

/**
 * Makes a configured folder. @throws InvalidConfigFile if this is not possible at the path; DiskFull,
 * PermissionDenied
 */
function makePlace(key: 'state' | 'root' | 'listen', folder: string, mode: number): void {
  try {
    makeFolder(folder, mode);
  } catch (error) {
    const known = toCrispError(error);
    if (known.id === 'DiskFull' || known.id === 'PermissionDenied') throw known;
    throw new CrispError('InvalidConfigFile', `${key}: ${known.message}`, { cause: error });
  }
}

async function buildHandlers(config: Config): Promise<Map<string, Handler>> {
  const handlers = await Promise.all(
    Object.entries(config.handlers).map(async ([name, handler]): Promise<[string, Handler]> => {
      const backend = buildBackend(config, name, handler, config.state);
      const input = (fingerprint: string) => ({ config, state: config.state, name, backend, fingerprint });
      const probe = (fingerprint: string) => probeOnce(input(fingerprint));
      // The probe of a CT takes long: the kubelet's first calls, and pods of other handlers, must not wait
      // for it.
      const first =
        handler.type === 'pct'
          ? async (fingerprint: string) => (await keptProbe(input(fingerprint))) ?? beingProbed
          : probe;
      return [name, await Handler.open(backend, probe, first)];
    }),
  );
  return new Map(handlers);
}

/** Applies the keys that can change in a running daemon; an invalid configuration changes nothing. */
function reloadConfig(services: Services, read: () => Config): void {
  try {
    const { config, applied, needRestart } = diffConfig(services.config, read());
    services.config = config;
    log.level = config.log_level;
    log.info(
      { applied, needRestart },
      needRestart.length ? 'configuration reloaded; some keys need a restart' : 'configuration reloaded',
    );
  } catch (error) {
    log.error({ error: toCrispError(error).report }, 'configuration not reloaded');
  }
}

async function serveMetrics({ config, store, handlers }: Services): Promise<MetricsServer> {
  const counted = (items: readonly { readonly handler: string; readonly state: string }[]) => {
    const groups = new Map<string, number>();
    for (const { handler, state } of items)
      groups.set(`${handler} ${state}`, (groups.get(`${handler} ${state}`) ?? 0) + 1);
    return [...groups].map(([group, value]) => {
      const [handler = '', state = ''] = group.split(' ');
      return { labels: { handler, state }, value };
    });
  };
  metrics.pods.collect(() =>
    counted(
      store.sandboxes.all().map((record) => ({ handler: record.handler, state: sandboxState(record) })),
    ),
  );
  metrics.containers.collect(() =>
    counted(
      store.containers.all().map((record) => ({ handler: record.handler, state: containerState(record) })),
    ),
  );
  metrics.handlersReady.collect(() =>
    [...handlers].map(([handler, { probe }]) => ({ labels: { handler }, value: probe.ready ? 1 : 0 })),
  );
  metrics.handlersBroken.collect(() =>
    [...handlers]
      .filter(([, { probe }]) => !probe.ready)
      .map(([handler, { probe }]) => ({ labels: { handler, reason: probe.reason }, value: 1 })),
  );
  metrics.build.collect(() => [{ labels: { version }, value: 1 }]);
  // These events are rare: in a series that begins at 1, Prometheus' increase() does not count the first one.
  metrics.eventsDropped.add({}, 0);
  for (const handler of handlers.keys()) metrics.monitorsLost.add({ handler }, 0);
  for (const [from, to] of Object.entries(config.fallback)) metrics.fallbacks.add({ from, to }, 0);
  const ailment = (): string | undefined =>
    [...handlers.values()].some(({ probe }) => probe.ready) ? undefined : 'no runtime handler is ready';
  const server = new MetricsServer({ ...config.metrics, ailment });
  await server.start();
  return server;
}

/** For `systemctl status`. */
function statusLine(handlers: ReadonlyMap<string, Handler>): string {
  const named = (ready: boolean): string =>
    [...handlers]
      .filter(([, { probe }]) => probe.ready === ready)
      .map(([name]) => name)
      .join(', ');
  if (!named(true)) return `cannot run pods: no runtime handler is ready (see crisp check)`;
  return `ready: ${named(true)}${named(false) ? `; not ready: ${named(false)} (see crisp check)` : ''}`;
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

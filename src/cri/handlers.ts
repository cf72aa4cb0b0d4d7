// The runtime handlers: each with the result of its probe. Made by daemon.ts;
// refreshed by sandbox-run and Status, since a package upgrade may replace a
// runtime while the daemon is running.
import type { Backend, Probe } from '../backends/backend.js';
import { log } from '../log.js';

/** The result for a handler before its first probe has ended. */
export const beingProbed: Probe = {
  ready: false,
  reason: 'it is being probed, which takes a few seconds',
  version: '',
  features: { recursiveReadOnlyMounts: false, userNamespaces: false },
  lacks: {},
};

/** Returns the new or stored result of a probe for the programs with this fingerprint. Never rejects. */
type ProbeFor = (fingerprint: string) => Promise<Probe>;

/** A backend with the result of its last probe. */
export class Handler {
  private probing: Promise<void> | undefined;
  private probedAt = performance.now();
  private constructor(
    readonly backend: Backend,
    private readonly probeNow: ProbeFor,
    private fingerprint: string,
    private found: Probe,
  ) {
    if (found === beingProbed) this.probedAt = -Infinity;
  }

  /**
   * @param probe probes the backend, or returns the result of the last probe
   * @param first the initial result, or `beingProbed`: refresh() then starts the probe
   */
  static async open(backend: Backend, probe: ProbeFor, first = probe): Promise<Handler> {
    const fingerprint = await backend.fingerprint(); // before the probe, so that a change during it is detected
    return new Handler(backend, probe, fingerprint, await first(fingerprint));
  }

  /** Resolves when no probe is running. Never rejects. */
  async settled(): Promise<void> {
    await this.probing;
  }

  /** The result of the last probe. */
  get probe(): Probe {
    return this.found;
  }

  /**
   * Probes again if its programs have changed, and periodically while it is not ready:
   * the cause may be gone (a cluster file system that starts later, a full disk). Calls
   * during a probe share it. Never rejects.
   */
  async refresh(): Promise<void> {
    const fingerprint = await this.backend.fingerprint();
    const hasChanged = fingerprint !== this.fingerprint;
    if (!hasChanged && (this.probing || this.found.ready || performance.now() - this.probedAt < retryAfterMs))
      return this.probing;
    this.fingerprint = fingerprint;
    this.probing = this.probeAgain(hasChanged).finally(() => {
      this.probing = undefined;
      this.probedAt = performance.now();
    });
    return this.probing;
  }

  private async probeAgain(hasChanged: boolean): Promise<void> {
    const before = this.found;
    this.found = await this.probeNow(this.fingerprint);
    const { ready, version, reason } = this.found;
    if (!hasChanged && reason === before.reason) return;
    log[ready ? 'info' : 'warn'](
      { handler: this.backend.name, ready, version, ...(ready ? {} : { reason }) },
      hasChanged
        ? 'the programs of a handler have changed: probed again'
        : 'a handler that was not ready: probed again',
    );
  }
}

/** How long a pod of a handler that is not ready may wait for a new probe. */
const retryAfterMs = 30_000;

/** To be called before a decision that depends on the probes. @param names the handlers; all if absent */
export async function refreshHandlers(
  handlers: ReadonlyMap<string, Handler>,
  names: readonly string[] = [...handlers.keys()],
): Promise<void> {
  await Promise.all(names.map(async (name) => handlers.get(name)?.refresh()));
}

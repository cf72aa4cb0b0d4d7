// The runtime handlers: each with what its probe found.  Built by daemon.ts;
// kept true by sandbox-run and Status, since a package upgrade may replace a
// runtime under a running daemon.
import type { Backend, Probe } from '../backends/backend.js';
import { log } from '../log.js';

/** Of a handler whose first probe has not ended. */
export const beingProbed: Probe = {
  ready: false,
  reason: 'it is being probed, which takes a few seconds',
  version: '',
  features: { recursiveReadOnlyMounts: false, userNamespaces: false },
  lacks: {},
};

/** What a probe finds, or has found, while the programs behind a handler have this fingerprint. Never rejects. */
type ProbeFor = (fingerprint: string) => Promise<Probe>;

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
   * @param probe probes the backend, or knows what the last probe found
   * @param first what is known for now, or `beingProbed`: refresh() then begins the probe
   */
  static async open(backend: Backend, probe: ProbeFor, first = probe): Promise<Handler> {
    const fingerprint = await backend.fingerprint(); // before the probe: a change during it is then seen
    return new Handler(backend, probe, fingerprint, await first(fingerprint));
  }

  /** Resolves when no probe is at work. Never rejects. */
  async settled(): Promise<void> {
    await this.probing;
  }

  /** What the last probe found. */
  get probe(): Probe {
    return this.found;
  }

  /**
   * Probes again if the programs behind it have changed, and now and then while
   * it is not ready: what was missing may have come (a cluster file system that
   * starts after us, room on a disk). One probe for all who ask meanwhile. Never rejects.
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

/** A pod of a broken handler may wait so long for a probe that finds it mended. */
const retryAfterMs = 30_000;

/** Before something is decided on what the probes found. @param names of those that it is decided on; all if absent */
export async function refreshHandlers(
  handlers: ReadonlyMap<string, Handler>,
  names: readonly string[] = [...handlers.keys()],
): Promise<void> {
  await Promise.all(names.map(async (name) => handlers.get(name)?.refresh()));
}

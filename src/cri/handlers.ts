// The runtime handlers: each with what its probe found.  Built by daemon.ts;
// kept true by sandbox-run and Status, since a package upgrade may replace a
// runtime under a running daemon.
import type { Backend, Probe } from '../backends/backend.js';
import { log } from '../log.js';

export class Handler {
  private probing: Promise<void> | undefined;

  private constructor(readonly backend: Backend, private fingerprint: string, private found: Probe) {}

  static async open(backend: Backend): Promise<Handler> {
    const fingerprint = await backend.fingerprint(); // before the probe: a change during it is then seen
    return new Handler(backend, fingerprint, await backend.probe());
  }

  /** What the last probe found. */
  get probe(): Probe { return this.found; }

  /** Probes again if the programs behind it have changed; one probe for all who ask meanwhile. Never rejects. */
  async refresh(): Promise<void> {
    const fingerprint = await this.backend.fingerprint();
    if (fingerprint === this.fingerprint) return this.probing;
    this.fingerprint = fingerprint;
    this.probing = this.probeAgain().finally(() => { this.probing = undefined; });
    return this.probing;
  }

  private async probeAgain(): Promise<void> {
    this.found = await this.backend.probe();
    const { ready, version, reason } = this.found;
    log[ready ? 'info' : 'warn']({ handler: this.backend.name, ready, version, ...(ready ? {} : { reason }) }, 'the programs of a handler have changed: probed again');
  }
}

/** Before something is decided on what the probes found. */
export async function refreshHandlers(handlers: ReadonlyMap<string, Handler>): Promise<void> {
  await Promise.all([...handlers.values()].map((handler) => handler.refresh()));
}

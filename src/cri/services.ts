// The services that the calls of cri/ use, made once by daemon.ts.
import type { Config } from '../config/config.js';
import type { Images } from '../images/store.js';
import type { Rootfs } from '../images/rootfs.js';
import type { Network } from '../network/cni.js';
import type { HostFacts } from '../oci/host-facts.js';
import type { Locks } from '../records/locks.js';
import type { StreamingServer } from '../streaming/server.js';
import type { Events } from './event-log.js';
import type { Handler } from './handlers.js';
import type { Stops } from '../records/stops.js';
import type { Shown } from './shown.js';
import type { UsageCache } from './usage-cache.js';

export interface Services extends Shown {
  /** Replaced at SIGHUP. */
  config: Config;
  /** crisp's own version. */
  readonly version: string;
  readonly bootId: string;
  readonly host: HostFacts;
  readonly locks: Locks;
  readonly stops: Stops;
  readonly handlers: ReadonlyMap<string, Handler>;
  readonly network: Network;
  readonly images: Images;
  readonly rootfs: Rootfs;
  readonly usageCache: UsageCache;
  readonly events: Events;
  readonly streaming: StreamingServer;
}

/** One call of a client. */
export interface Call {
  readonly requestId: string;
  /** Aborts when the client disconnects or its deadline passes. */
  readonly signal: AbortSignal;
}

// From a handler of the configuration to its backend: the only place that
// depends on the types of handlers.  Called by daemon.ts and, for the command
// line, by cli/backend.ts.
import type { Config, HandlerConfig } from '../config/config.js';
import { cgroupDriver } from '../host/cgroup.js';
import type { Backend } from './backend.js';
import { OciBackend } from './oci/backend.js';
import { PctBackend } from './pct/backend.js';
import { optionsOf } from './pct/options.js';

/** @param state the folder of the daemon, or of the command line */
export function buildBackend(config: Config, name: string, handler: HandlerConfig, state: string): Backend {
  if (handler.type === 'pct') return new PctBackend(optionsOf(config, name, state));
  return new OciBackend({
    name,
    path: handler.path,
    root: handler.root,
    args: handler.args,
    conmon: config.runtime.conmon,
    state,
    systemdCgroup: cgroupDriver(config.runtime.cgroup_driver) === 'systemd',
  });
}

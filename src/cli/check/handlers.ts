// The check of the runtime handlers: runs a temporary container on each.
import { chmod, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Probe, ProbeFailure } from '../../backends/backend.js';
import type { Config } from '../../config/config.js';
import { remove } from '../../host/files.js';
import { chooseHandler } from '../../config/router.js';
import { probeOf } from '../backend.js';
import { lacking } from '../output.js';
import { failure, ok, warning, type Check, type Finding } from './check.js';
import { tools } from './tools.js';

export const handlerChecks: readonly Check[] = [
  {
    id: 'handlers',
    title: 'Runtime handlers',
    async run(host, config) {
      if (host.uid !== 0) return warning('not tested: it requires root', 'sudo crisp check');
      const folder = await mkdtemp(join(tmpdir(), 'crisp-check-'));
      await chmod(folder, 0o711); // like the state folder
      try {
        const handlers = new Map<string, { probe: Probe }>();
        for (const name of Object.keys(config.handlers))
          handlers.set(name, { probe: await probeOf(config, folder, name) });
        return judge(config, handlers);
      } finally {
        await remove(folder);
      }
    },
  },
];

function broken(config: Config, name: string, { reason, failure: why }: Probe): Finding[] {
  return warning(`${name}: its probe failed: ${why?.finding ?? reason}`, why && fixOf(config, name, why));
}

/** The fix: the hint of the error if no program is missing, otherwise how to install the program. */
function fixOf(config: Config, name: string, { hint, missing }: ProbeFailure): string | undefined {
  const { type, path } = config.handlers[name] ?? {};
  const isPackaged = type === 'oci' && !path && ['crun', 'runc'].includes(name);
  if (missing === undefined) return hint || (isPackaged ? `apt install --reinstall ${name}` : undefined);
  if (missing.includes('/'))
    return missing === config.runtime.conmon
      ? 'set runtime.conmon to the program'
      : `set handlers.${name}.path to the binary, or remove this handler from the configuration`;
  const packaged = tools.find((tool) => tool.name === missing)?.package ?? (isPackaged ? name : undefined);
  if (packaged !== undefined) return `apt install ${packaged}`;
  return type === 'pct'
    ? 'run crisp on a Proxmox VE node, or remove this handler from the configuration'
    : `set handlers.${name}.path to the binary, or remove this handler from the configuration`;
}

/** Each handler, and whether a pod without a RuntimeClass would get one. */
export function judge(config: Config, handlers: ReadonlyMap<string, { readonly probe: Probe }>): Finding[] {
  const each = [...handlers].flatMap(([name, { probe }]) =>
    probe.ready
      ? ok(`${name}: ${probe.version}; ${['a container ran', ...lacking(probe.lacks)].join('; ')}`)
      : broken(config, name, probe),
  );
  try {
    chooseHandler(
      { config, handlers },
      { handler: '', namespace: '', name: '', labels: {}, annotations: {} },
    );
    return each;
  } catch {
    return [
      ...each,
      ...failure(
        `${config.default_container_type} is the default and not ready, and neither is a fallback`,
        'fix one of the handlers, or change default_container_type',
      ),
    ];
  }
}

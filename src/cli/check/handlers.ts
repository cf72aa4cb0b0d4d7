// The check of the runtime handlers: a throw-away container on each.
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
      if (host.uid !== 0) return warning('not tried: it takes root', 'sudo crisp check');
      const folder = await mkdtemp(join(tmpdir(), 'crisp-check-'));
      await chmod(folder, 0o711); // as the state folder is
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

/** Where nothing is missing, the fix is the hint of the error, if it says more than where to look. */
function fixOf(config: Config, name: string, { hint, missing }: ProbeFailure): string | undefined {
  const { type, path } = config.handlers[name] ?? {};
  const isPackaged = type === 'oci' && !path && ['crun', 'runc'].includes(name);
  if (missing === undefined) return hint || (isPackaged ? `apt install --reinstall ${name}` : undefined);
  if (missing.includes('/'))
    return missing === config.runtime.conmon
      ? 'set runtime.conmon to the program'
      : `set handlers.${name}.path to the binary, or take this handler out of the configuration`;
  const packaged = tools.find((tool) => tool.name === missing)?.package ?? (isPackaged ? name : undefined);
  if (packaged !== undefined) return `apt install ${packaged}`;
  return type === 'pct'
    ? 'run crisp on a Proxmox VE node, or take this handler out of the configuration'
    : `set handlers.${name}.path to the binary, or take this handler out of the configuration`;
}

/** Each handler by itself, and whether a pod that asks for nothing would find one. */
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
        `${config.default_container_type} is the default and not ready, and no fallback is`,
        'mend one of the handlers, or change default_container_type',
      ),
    ];
  }
}

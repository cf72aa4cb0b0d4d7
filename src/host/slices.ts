// The slices of pods for which nobody else has made one, under systemd. For
// cgroup.ts alone.
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { run } from './run.js';

/** A slice needs no unit file. @param path "/crisp.slice/crisp-ID.slice" */
export async function startSlice(path: string): Promise<void> {
  await systemctl('start', path);
}

/** Also for one that does not run. */
export async function stopSlice(path: string): Promise<void> {
  await systemctl('stop', path);
  if (existsSync(`/run/systemd/system.control/${basename(path)}.d`)) await systemctl('revert', path); // its properties
}

/**
 * Tells systemd the limits of a slice: it is who makes the files of a controller
 * appear, and writes them anew whenever it reloads its units.
 * @param settings files of cgroup v2 with their values; systemd knows no more of them than these
 */
export async function setSliceProperties(
  path: string,
  settings: readonly (readonly [file: string, value: string])[],
): Promise<void> {
  const properties = settings.flatMap(([file, value]) => propertiesOf(file, value));
  if (properties.length > 0) await systemctl('set-property', path, ...properties);
}

/** A file of v2 in the words of systemd.resource-control(5). */
export function propertiesOf(file: string, value: string): string[] {
  const atMost = value === 'max' ? 'infinity' : value;
  switch (file) {
    case 'cpu.weight':
      return [`CPUWeight=${value}`];
    case 'cpu.max': {
      const [quota = '', period] = value.split(' ');
      const percent = quota === 'max' ? '' : `${((Number(quota) * 100) / Number(period)).toFixed(2)}%`; // systemd keeps no more digits
      return [`CPUQuota=${percent}`, `CPUQuotaPeriodSec=${period}us`];
    }
    case 'cpuset.cpus':
      return [`AllowedCPUs=${value}`];
    case 'cpuset.mems':
      return [`AllowedMemoryNodes=${value}`];
    case 'memory.max':
      return [`MemoryMax=${atMost}`];
    case 'memory.swap.max':
      return [`MemorySwapMax=${atMost}`];
    case 'pids.max':
      return [`TasksMax=${atMost}`];
    default:
      return [];
  }
}

async function systemctl(verb: string, path: string, ...args: string[]): Promise<void> {
  const options = verb === 'set-property' ? ['--runtime'] : [];
  await run(['systemctl', verb, ...options, '--', basename(path), ...args], {
    timeoutMs: 30_000,
    stage: `${verb} slice`,
  });
}

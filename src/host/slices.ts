// The slices that crisp makes for pods under systemd. Only for cgroup.ts.
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { run } from './run.js';

/** A slice needs no unit file. @param path "/crisp.slice/crisp-ID.slice" */
export async function startSlice(path: string): Promise<void> {
  await systemctl('start', path);
}

/** Also for an inactive slice. */
export async function stopSlice(path: string): Promise<void> {
  await systemctl('stop', path);
  if (existsSync(`/run/systemd/system.control/${basename(path)}.d`)) await systemctl('revert', path); // its properties
}

/**
 * Sets the limits of a slice through systemd, which enables the controllers, and writes the
 * limits again whenever it reloads its units.
 * @param settings files of cgroup v2 with their values; only those that systemd supports
 */
export async function setSliceProperties(
  path: string,
  settings: readonly (readonly [file: string, value: string])[],
): Promise<void> {
  const properties = settings.flatMap(([file, value]) => propertiesOf(file, value));
  if (properties.length > 0) await systemctl('set-property', path, ...properties);
}

/** The property of systemd.resource-control(5) for a file of v2. */
export function propertiesOf(file: string, value: string): string[] {
  const atMost = value === 'max' ? 'infinity' : value;
  switch (file) {
    case 'cpu.weight':
      return [`CPUWeight=${value}`];
    case 'cpu.max': {
      const [quota = '', period] = value.split(' ');
      const percent = quota === 'max' ? '' : `${((Number(quota) * 100) / Number(period)).toFixed(2)}%`; // systemd's precision
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

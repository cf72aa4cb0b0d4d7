// The files of a CT in its bundle, which liblxc, systemd and the watcher read;
// config.json, the log of liblxc and the watcher's own files are there too.
// Used by the backend and by `crisp explain`.
import { realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { perlProgram } from '../../installed.js';
import { cgroupFolder, cgroupLayout } from '../../host/cgroup.js';
import { shown } from '../../host/run.js';
import { deviceNumbers } from '../../oci/host-devices.js';
import type { Device, Spec } from '../../shapes/spec.js';
import type { ContainerPlan } from '../backend.js';
import { cgroupOf } from './cgroups.js';
import { lxcConfig, type LxcPlan } from './lxc-config.js';
import { consoleLink } from './watcher.js';

const oomHook = perlProgram('oom.pl');

/** The file that the CT's configuration includes. */
export function includeFile(bundle: string): string {
  return join(bundle, 'lxc.conf');
}
/** The environment that ct-start.pl passes to lxc-start. */
export function environmentFile(bundle: string): string {
  return join(bundle, 'environment');
}
/** The log of liblxc for the start of the CT. */
export function lxcLog(bundle: string): string {
  return join(bundle, 'lxc.log');
}

/** The text of the included file. @param spec the plan's spec, with its volumes as mounted */
export function includeText(
  { folder, stopSignal, template }: ContainerPlan,
  spec: Spec,
  vmid: number | string,
  { cgroup, environmentReachesHooks, passed }: Pick<LxcPlan, 'cgroup' | 'environmentReachesHooks' | 'passed'>,
): string {
  const layout = cgroupLayout();
  const group = cgroupFolder(layout, 'memory', cgroupOf(vmid));
  const counts =
    group === undefined
      ? []
      : [group, join(group, 'ns')].map((path) =>
          join(path, layout.version === 'v2' ? 'memory.events' : 'memory.oom_control'),
        );
  return lxcConfig({
    spec,
    console: join(folder, consoleLink),
    stopSignal,
    logFile: lxcLog(folder),
    stopHook: shown(['perl', oomHook, folder, ...counts]),
    isFolder,
    deviceSource,
    cgroup,
    guest: template !== undefined,
    environmentReachesHooks,
    passed,
  });
}

/** The host's path of a device: the same as in the CT, or udev's link by number. */
export function deviceSource({ type, path, major, minor }: Device): string | undefined {
  const numbered = `/dev/${type === 'b' ? 'block' : 'char'}/${major}:${minor}`;
  const found = [path, numbered].find((candidate) => {
    const info = statSync(candidate, { throwIfNoEntry: false });
    if (!info || !(type === 'b' ? info.isBlockDevice() : info.isCharacterDevice())) return false;
    const numbers = deviceNumbers(info.rdev);
    return numbers.major === major && numbers.minor === minor;
  });
  return found === undefined ? undefined : realpathSync(found);
}

/** Whether the path leads to a folder, also through links; false if it cannot be read. */
export function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

// Checks of control groups.
import { failure, ok, warning, type Check, type Host } from './check.js';

const needed = ['cpu', 'memory', 'pids', 'cpuset'] as const;
const useful = ['hugetlb'] as const;

/** v2 if its tree is mounted at the root. */
function isV2(host: Host): boolean {
  return host.exists('/sys/fs/cgroup/cgroup.controllers');
}

const version: Check = {
  id: 'cgroup.version',
  title: 'Control groups',
  run(host) {
    if (isV2(host)) return ok('v2');
    if (!host.exists('/sys/fs/cgroup/memory'))
      return failure(
        'no control groups are mounted at /sys/fs/cgroup',
        'mount -t cgroup2 none /sys/fs/cgroup',
      );
    return warning(
      `v1${host.exists('/sys/fs/cgroup/unified/cgroup.procs') ? ' with an additional v2 tree (hybrid), which crun before 1.9 refuses' : ''}: pod-level limits and swap are restricted, and Kubernetes is dropping support for it`,
      'boot with systemd.unified_cgroup_hierarchy=1 on the kernel command line',
    );
  },
};

const controllers: Check = {
  id: 'cgroup.controllers',
  title: 'Control group controllers',
  run(host) {
    const has = (name: string): boolean =>
      isV2(host)
        ? (host.read('/sys/fs/cgroup/cgroup.controllers') ?? '').split(/\s+/).includes(name)
        : host.exists(`/sys/fs/cgroup/${name}`);
    const missing = needed.filter((name) => !has(name));
    if (missing.length)
      return failure(
        `missing: ${missing.join(', ')}`,
        missing.includes('memory')
          ? 'boot with cgroup_enable=memory on the kernel command line'
          : 'use a kernel with these controllers',
      );
    const lacking = useful.filter((name) => !has(name));
    return lacking.length
      ? warning(`missing: ${lacking.join(', ')}: these limits are refused`)
      : ok([...needed, ...useful].join(', '));
  },
};

const driver: Check = {
  id: 'cgroup.driver',
  title: 'Control group driver',
  run(host, config) {
    const systemd = host.exists('/run/systemd/system');
    const wanted = config.runtime.cgroup_driver;
    if (wanted === 'systemd' && !systemd)
      return failure(
        'runtime.cgroup_driver is systemd, but systemd is not running',
        'set runtime.cgroup_driver to cgroupfs',
      );
    if (wanted === 'cgroupfs' && systemd)
      return warning(
        'runtime.cgroup_driver is cgroupfs on a host with systemd: two managers of the same tree',
        "set runtime.cgroup_driver to auto, and the kubelet's cgroupDriver to systemd",
      );
    return ok(
      `${wanted === 'auto' ? (systemd ? 'systemd' : 'cgroupfs') : wanted}; the kubelet gets it from crisp, or must be configured to the same`,
    );
  },
};

export const cgroupChecks: readonly Check[] = [version, controllers, driver];

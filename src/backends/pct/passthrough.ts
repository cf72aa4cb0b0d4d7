// Devices that PVE makes in a CT, by its options devN: the GUI shows them, and the
// device node has an owner in the CT.  A bind mount of the host's device node
// belongs to nobody in a user namespace.
import type { Device, Spec } from '../../shapes/spec.js';
import { devicesOfLxc, hooksAreCleared, type LxcPlan } from './lxc-config.js';

export interface PassedDevice {
  /** On the host and in the CT. */
  readonly path: string;
  readonly mode: number;
  /** In the CT. */
  readonly uid: number;
  readonly gid: number;
  readonly denyWrite: boolean;
}

/** The limit of devices passed by PVE, which supports 256; further devices are bind-mounted. */
const most = 64;

/**
 * The devices that PVE can pass to an unprivileged CT: the path in the CT must be the
 * same as on the host, and PVE's hook, which makes the devices, must run.
 */
export function passedDevices(
  plan: Pick<LxcPlan, 'spec' | 'deviceSource' | 'environmentReachesHooks' | 'guest'>,
): readonly PassedDevice[] {
  const { spec, deviceSource, guest } = plan;
  const isUnprivileged = spec.linux.namespaces.some(({ type }) => type === 'user');
  if (!isUnprivileged || guest || hooksAreCleared(plan)) return [];
  return (spec.linux.devices ?? [])
    .filter((device) => !devicesOfLxc.test(device.path) && isSimple(device.path))
    .filter((device) => deviceSource(device) === device.path)
    .slice(0, most)
    .map((device) => ({
      path: device.path,
      mode: (device.fileMode ?? 0o660) & 0o777,
      uid: device.uid ?? 0,
      gid: device.gid ?? 0,
      denyWrite: !mayWrite(spec, device),
    }));
}

/** A path that PVE accepts (PVE::LXC::Config, verify_lxc_dev_string), without separators of its options. */
function isSimple(path: string): boolean {
  return /^(\/(?!\.{1,2}(\/|$))[\w.:@+-]+)+$/.test(path) && path.startsWith('/dev/');
}

function mayWrite({ linux }: Spec, { type, major, minor }: Device): boolean {
  return (linux.resources?.devices ?? []).some(
    (rule) =>
      rule.allow &&
      (rule.type ?? 'a') !== (type === 'b' ? 'c' : 'b') &&
      (rule.major === undefined || rule.major === major) &&
      (rule.minor === undefined || rule.minor === minor) &&
      (rule.access ?? 'rwm').includes('w'),
  );
}

const tun: Device = {
  type: 'c',
  path: '/dev/net/tun',
  major: 10,
  minor: 200,
  fileMode: 0o666,
  uid: 0,
  gid: 0,
};

/** Adds the device of the feature tun. */
export function withTun(spec: Spec): Spec {
  const { devices = [], resources } = spec.linux;
  if (devices.some(({ path }) => path === tun.path)) return spec;
  return {
    ...spec,
    linux: {
      ...spec.linux,
      devices: [...devices, tun],
      resources: {
        ...resources,
        devices: [
          ...(resources?.devices ?? []),
          { allow: true, type: 'c', major: 10, minor: 200, access: 'rwm' },
        ],
      },
    },
  };
}

// Devices of a container: its device nodes and its access rights. Pure.
import { CrispError } from '../errors.js';
import type { Device, DeviceRule } from '../shapes/spec.js';

/** A device of a container, from the request or from CDI. */
export interface GivenDevice {
  readonly device: Device;
  readonly permissions: string;
}

/**
 * The devices that every container may use (runtime-spec, config-linux.md, default devices; devpts and ptmx).
 */
const defaultRules: readonly DeviceRule[] = [
  { allow: false, access: 'rwm' },
  { allow: true, type: 'c', access: 'm' },
  { allow: true, type: 'b', access: 'm' }, // mknod alone opens nothing
  ...(
    [
      [1, 3],
      [1, 5],
      [1, 7],
      [1, 8],
      [1, 9],
      [5, 0],
      [5, 1],
      [5, 2],
    ] as const
  ).map(([major, minor]): DeviceRule => ({ allow: true, type: 'c', major, minor, access: 'rwm' })),
  { allow: true, type: 'c', major: 136, access: 'rwm' },
];

/**
 * A privileged container has all devices of the host; if two have the same path, the later one
 * takes precedence.
 * @throws InvalidArgument for permissions other than r, w and m
 */
export function containerDevices(
  given: readonly GivenDevice[],
  hostDevices: readonly Device[],
  privileged: boolean,
): { devices: Device[]; rules: DeviceRule[] } {
  for (const { device, permissions } of given) {
    if (!/^[rwm]{1,3}$/.test(permissions))
      throw new CrispError(
        'InvalidArgument',
        `devices: permissions "${permissions}" of ${device.path} must be made of r, w and m`,
      );
  }
  const byPath = new Map(
    [...(privileged ? hostDevices : []), ...given.map(({ device }) => device)].map((device) => [
      device.path,
      device,
    ]),
  );
  const rules = given.flatMap(({ device, permissions }): DeviceRule[] =>
    device.type === 'p'
      ? []
      : [
          {
            allow: true,
            type: device.type === 'b' ? 'b' : 'c',
            ...(device.major === undefined ? {} : { major: device.major }),
            ...(device.minor === undefined ? {} : { minor: device.minor }),
            access: permissions,
          },
        ],
  );
  return {
    devices: [...byPath.values()],
    rules: privileged ? [{ allow: true, access: 'rwm' }] : [...defaultRules, ...rules],
  };
}

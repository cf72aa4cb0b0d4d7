// Devices of a container: which nodes it has and which it may use. Pure.
import { CrispError } from '../errors.js';
import type { RootfsFacts } from './inspect.js';
import type { Device, Resources } from './spec.js';

type Rule = NonNullable<Resources['devices']>[number];

/** What every container may use besides its own (runtime-spec, config-linux.md, default devices; devpts and ptmx). */
const defaultRules: readonly Rule[] = [
  { allow: false, access: 'rwm' },
  { allow: true, type: 'c', access: 'm' }, { allow: true, type: 'b', access: 'm' }, // mknod alone opens nothing
  ...([[1, 3], [1, 5], [1, 7], [1, 8], [1, 9], [5, 0], [5, 1], [5, 2]] as const).map(([major, minor]): Rule => ({ allow: true, type: 'c', major, minor, access: 'rwm' })),
  { allow: true, type: 'c', major: 136, access: 'rwm' },
];

/** @throws InvalidArgument for permissions other than r, w and m */
export function containerDevices(facts: Pick<RootfsFacts, 'devices' | 'hostDevices'>, privileged: boolean): { devices: Device[]; rules: Rule[] } {
  const requested = facts.devices.map(({ device, permissions }) => {
    if (!/^[rwm]{1,3}$/.test(permissions)) throw new CrispError('InvalidArgument', `devices: permissions "${permissions}" must be made of r, w and m`);
    return { device, permissions };
  });
  const own = requested.map(({ device }) => device);
  if (privileged) {
    const named = new Set(own.map((device) => device.path));
    return { devices: [...facts.hostDevices.filter((device) => !named.has(device.path)), ...own], rules: [{ allow: true, access: 'rwm' }] };
  }
  return {
    devices: own,
    rules: [...defaultRules, ...requested.map(({ device, permissions }): Rule => ({
      allow: true, type: device.type === 'b' ? 'b' : 'c', ...(device.major === undefined ? {} : { major: device.major }), ...(device.minor === undefined ? {} : { minor: device.minor }), access: permissions,
    }))],
  };
}

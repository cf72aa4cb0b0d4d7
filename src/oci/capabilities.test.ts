import { expect, test } from '@jest/globals';
import type { Capability } from '../cri/generated/runtime/v1/Capability.js';
import { receivedSecurity } from '../../test/helpers/received.js';
import { containerCapabilities, defaultCapabilities } from './capabilities.js';

const host = {
  kernelCapabilities: [...defaultCapabilities, 'CAP_NET_ADMIN', 'CAP_SYS_ADMIN', 'CAP_SYS_RESOURCE'],
  capabilities: [...defaultCapabilities, 'CAP_NET_ADMIN', 'CAP_SYS_ADMIN'],
};
const of = (wanted: Capability | null, privileged = false) =>
  containerCapabilities(wanted && receivedSecurity({ capabilities: wanted }).capabilities, privileged, host);
const sorted = (names: readonly string[]): string[] => [...names].sort();

test('by default there are fourteen, none of them inheritable', () => {
  const { capabilities, missing } = of(null);
  expect(sorted(capabilities.bounding)).toEqual(sorted(defaultCapabilities));
  expect(capabilities).toMatchObject({
    effective: capabilities.bounding,
    permitted: capabilities.bounding,
    inheritable: [],
    ambient: [],
  });
  expect(missing).toEqual([]);
});

test.each<[Capability, string[]]>([
  [{ add_capabilities: ['net_admin'], drop_capabilities: ['ALL'] }, ['CAP_NET_ADMIN']],
  [
    { add_capabilities: ['CAP_NET_ADMIN', 'KILL'], drop_capabilities: ['all', 'cap_kill'] },
    ['CAP_NET_ADMIN'],
  ],
  [{ add_capabilities: ['ALL'], drop_capabilities: ['ALL', 'CHOWN'] }, []],
  [{ drop_capabilities: defaultCapabilities.slice(1) }, [defaultCapabilities[0] ?? '']],
])('%j leaves %j', (wanted, expected) => {
  expect(of(wanted)).toMatchObject({ capabilities: { bounding: expected }, missing: [] });
});

test('capabilities that the host does not support are omitted and reported', () => {
  expect(of({ add_capabilities: ['SYS_RESOURCE', 'SYS_ADMIN'], drop_capabilities: ['ALL'] })).toMatchObject({
    capabilities: { bounding: ['CAP_SYS_ADMIN'] },
    missing: ['CAP_SYS_RESOURCE'],
  });
  expect(of({ add_capabilities: ['ALL'] }).missing).toEqual(['CAP_SYS_RESOURCE']);
  expect(of({ add_capabilities: ['ALL'], drop_capabilities: ['SYS_RESOURCE'] }).missing).toEqual([]);
  expect(of(null, true).missing).toEqual(['CAP_SYS_RESOURCE']);
});

test('privileged has all capabilities, whatever is dropped', () => {
  expect(sorted(of({ drop_capabilities: ['ALL'] }, true).capabilities.bounding)).toEqual(
    sorted(host.capabilities),
  );
});

test('ambient capabilities apply to users other than root as well', () => {
  const { capabilities } = of({
    add_ambient_capabilities: ['NET_ADMIN', 'SYS_RESOURCE'],
    drop_capabilities: ['ALL'],
  });
  expect(capabilities).toEqual({
    bounding: ['CAP_NET_ADMIN'],
    effective: ['CAP_NET_ADMIN'],
    permitted: ['CAP_NET_ADMIN'],
    inheritable: ['CAP_NET_ADMIN'],
    ambient: ['CAP_NET_ADMIN'],
  });
});

test('an unknown name is refused, naming the field', () => {
  expect(() => of({ drop_capabilities: ['FLY'] })).toThrow(
    'capabilities.drop_capabilities: "FLY" is not a capability',
  );
});

import { expect, test } from '@jest/globals';
import { guestOptions } from './guest-options.js';

const bridge = { name: 'vmbr0', vlan: 0, rate: 0, firewall: false };
const cni = { network: 'cni' as const, bridge, rootfs: { storage: '', size_gib: 8 } };
const key = (name: string): string => `io.crisp.lxc.${name}`;
function of(
  annotations: Record<string, string>,
  lxc: Parameters<typeof guestOptions>[0]['lxc'] = cni,
  allowedAnnotations = ['io.crisp.lxc.*'],
) {
  return guestOptions({ lxc, allowedAnnotations }, annotations);
}

test('as the configuration has it', () => {
  expect(of({ 'some.other/annotation': 'x' })).toEqual({ bridge: undefined, volume: undefined });
  expect(
    of(
      {},
      {
        network: 'bridge',
        bridge: { name: 'vmbr1', vlan: 7, rate: 1.5, firewall: true },
        rootfs: { storage: 'local-lvm', size_gib: 4 },
      },
    ),
  ).toEqual({
    bridge: { name: 'vmbr1', vlan: 7, rate: 1.5, firewall: true, address: 'dhcp', gateway: '' },
    volume: { storage: 'local-lvm', sizeGib: 4 },
  });
});

test('as the pod has it, key by key', () => {
  const annotations = {
    [key('network')]: 'bridge',
    [key('vlan')]: '20',
    [key('address')]: '10.0.0.5/24',
    [key('gateway')]: '10.0.0.1',
    [key('storage')]: 'tank',
    [key('size-gib')]: '0.5',
  };
  expect(of(annotations)).toEqual({
    bridge: { ...bridge, vlan: 20, address: '10.0.0.5/24', gateway: '10.0.0.1' },
    volume: { storage: 'tank', sizeGib: 0.5 },
  });
  expect(of({ [key('network')]: 'cni' }, { ...cni, network: 'bridge' }).bridge).toBeUndefined();
  expect(
    of({ [key('storage')]: '' }, { ...cni, rootfs: { storage: 'tank', size_gib: 1 } }).volume,
  ).toBeUndefined();
});

test('nothing that the handler does not allow', () => {
  expect(() => of({ [key('vlan')]: '20' }, cni, [])).toThrow('not allowed');
  expect(() => of({ [key('vlan')]: '20' }, cni, [key('bridge')])).toThrow('not allowed');
  expect(
    of({ [key('network')]: 'bridge', [key('bridge')]: 'vmbr9' }, cni, [key('bridge'), key('network')]).bridge
      ?.name,
  ).toBe('vmbr9');
});

test.each([
  ['vlan', '4095'],
  ['vlan', '-1'],
  ['rate', 'fast'],
  ['address', '10.0.0.5'],
  ['address', '300.0.0.1/24'],
  ['address', '10.0.0.5/33'],
  ['gateway', 'none'],
  ['bridge', 'vmbr0,ip=dhcp'],
  ['storage', 'a:b'],
  ['size-gib', ''],
  ['firewall', 'yes'],
  ['network', 'host'],
  ['unknown', 'x'],
])('%s cannot be "%s"', (name, value) => {
  expect(() => of({ [key(name)]: value })).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
});

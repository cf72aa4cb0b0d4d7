import { expect, test } from '@jest/globals';
import { guestOptions } from './guest-options.js';

const choices = { bridges: ['*'], storages: ['*'], max_size_gib: 1024, features: [] };
const bridge = { name: 'vmbr0', vlan: 0, rate: 0, firewall: false };
const cni = { network: 'cni' as const, bridge, rootfs: { storage: '', size_gib: 8 }, choices };
const key = (name: string): string => `io.crisp.lxc.${name}`;
function of(
  annotations: Record<string, string>,
  lxc: Parameters<typeof guestOptions>[0]['lxc'] = cni,
  allowedAnnotations = ['io.crisp.lxc.*'],
) {
  return guestOptions({ lxc, allowedAnnotations }, annotations);
}

test('from the configuration', () => {
  expect(of({ 'some.other/annotation': 'x' })).toEqual({
    bridges: [],
    volume: undefined,
    mountPoints: [],
    features: [],
  });
  expect(
    of(
      {},
      {
        network: 'bridge',
        bridge: { name: 'vmbr1', vlan: 7, rate: 1.5, firewall: true },
        rootfs: { storage: 'local-lvm', size_gib: 4 },
        choices,
      },
    ),
  ).toMatchObject({
    bridges: [{ index: 0, name: 'vmbr1', vlan: 7, rate: 1.5, firewall: true, address: 'dhcp', gateway: '' }],
    volume: { storage: 'local-lvm', sizeGib: 4 },
  });
});

test('from the pod, which overrides key by key', () => {
  const annotations = {
    [key('network')]: 'bridge',
    [key('vlan')]: '20',
    [key('address')]: '10.0.0.5/24',
    [key('gateway')]: '10.0.0.1',
    [key('storage')]: 'tank',
    [key('size-gib')]: '0.5',
  };
  expect(of(annotations)).toMatchObject({
    bridges: [{ index: 0, ...bridge, vlan: 20, address: '10.0.0.5/24', gateway: '10.0.0.1' }],
    volume: { storage: 'tank', sizeGib: 0.5 },
  });
  expect(of({ [key('network')]: 'cni' }, { ...cni, network: 'bridge' }).bridges).toEqual([]);
  expect(
    of({ [key('storage')]: '' }, { ...cni, rootfs: { storage: 'tank', size_gib: 1 } }).volume,
  ).toBeUndefined();
});

test('without what the handler does not allow', () => {
  expect(() => of({ [key('vlan')]: '20' }, cni, [])).toThrow('not allowed');
  expect(() => of({ [key('vlan')]: '20' }, cni, [key('bridge')])).toThrow('not allowed');
  expect(
    of({ [key('network')]: 'bridge', [key('bridge')]: 'vmbr9' }, cni, [key('bridge'), key('network')])
      .bridges[0]?.name,
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

test('several networks, volumes and features', () => {
  const lxc = { ...cni, choices: { ...choices, features: ['fuse' as const, 'tun' as const] } };
  expect(
    of(
      {
        [key('network')]: 'bridge',
        [key('net3')]: 'address=10.0.0.5/24,bridge=vnet1',
        [key('net1')]: 'bridge=vmbr1,vlan=20,rate=2,firewall=true',
        [key('mp1')]: 'path=/data,storage=tank,size-gib=8,backup=true',
        [key('mp0')]: 'path=/var/cache/x-1,storage=tank,size-gib=0.5',
        [key('features')]: 'tun,fuse',
      },
      lxc,
    ),
  ).toEqual({
    bridges: [
      { ...bridge, index: 0, address: 'dhcp', gateway: '' },
      { index: 1, name: 'vmbr1', vlan: 20, rate: 2, firewall: true, address: 'dhcp', gateway: '' },
      { ...bridge, index: 3, name: 'vnet1', address: '10.0.0.5/24', gateway: '' },
    ],
    volume: undefined,
    mountPoints: [
      { index: 0, path: '/var/cache/x-1', storage: 'tank', sizeGib: 0.5, backup: false },
      { index: 1, path: '/data', storage: 'tank', sizeGib: 8, backup: true },
    ],
    features: ['fuse', 'tun'],
  });
});

test.each<[string, Record<string, string>, RegExp]>([
  ['another bridge', { network: 'bridge', bridge: 'vmbr9' }, /"vmbr9" is not in lxc\.choices\.bridges/],
  ['another bridge for net1', { network: 'bridge', net1: 'bridge=vmbr9' }, /net1: "vmbr9"/],
  ['another storage', { storage: 'ceph' }, /"ceph" is not in lxc\.choices\.storages/],
  ['another storage for mp0', { mp0: 'path=/x,storage=ceph,size-gib=1' }, /mp0: "ceph"/],
  ['a root filesystem that is too large', { storage: 'tank', 'size-gib': '10.1' }, /max_size_gib/],
  ['a volume that is too large', { mp7: 'path=/x,storage=tank,size-gib=11' }, /max_size_gib/],
  ['a feature', { features: 'nesting' }, /nesting is not in lxc\.choices\.features/],
])('%s is refused unless lxc.choices lists it', (_, chosen, words) => {
  const lxc = {
    ...cni,
    rootfs: { storage: 'here', size_gib: 20 },
    choices: {
      bridges: ['vmbr1', 'vnet*'],
      storages: ['tank'],
      max_size_gib: 10,
      features: ['tun' as const],
    },
  };
  const annotations = (given: Record<string, string>) =>
    Object.fromEntries(Object.entries(given).map(([name, value]) => [key(name), value]));
  expect(() => of(annotations(chosen), lxc)).toThrow(
    expect.objectContaining({ id: 'PermissionDenied', message: expect.stringMatching(words) as unknown }),
  );
  expect(of(annotations({ network: 'bridge', bridge: 'vmbr0', storage: 'here' }), lxc).volume?.storage).toBe(
    'here',
  );
});

test.each([
  ['net1', 'bridge=vmbr1'], // on the CNI network
  ['net0', 'bridge=vmbr1'],
  ['net8', 'bridge=vmbr1'],
  ['mp8', 'path=/x,storage=tank,size-gib=1'],
  ['mp0', 'path=/x,storage=tank'],
  ['mp0', 'path=/x,path=/y,storage=tank,size-gib=1'],
  ['mp0', 'path=/x,storage=tank,size-gib=1,shared=1'],
  ['mp0', '/srv,path=/x,storage=tank,size-gib=1'],
  ['mp0', 'path=/x/../../etc,storage=tank,size-gib=1'],
  ['mp0', 'path=/proc/x,storage=tank,size-gib=1'],
  ['mp0', 'path=/,storage=tank,size-gib=1'],
  ['mp0', 'path=x,storage=tank,size-gib=1'],
  ['mp0', `path=/${'x'.repeat(2000)},storage=tank,size-gib=1`],
  ['mp0', 'path=/x,storage=tank,size-gib=-1'],
  ['mp0', 'path=/x,storage=/dev/sda,size-gib=1'],
  ['mp0', 'constructor=1'],
  ['features', 'mknod'],
  ['features', ''],
])('%s cannot be "%.60s" either', (name, value) => {
  expect(() => of({ [key(name)]: value })).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
});

test('a network card needs a bridge, and a path has one volume', () => {
  const onBridge = { [key('network')]: 'bridge' };
  expect(() => of({ ...onBridge, [key('net1')]: 'vlan=7' })).toThrow('bridge is missing');
  expect(() => of({ ...onBridge, [key('net1')]: 'bridge=vmbr1,gateway=10.0.0.1' })).toThrow(
    'may be there once',
  );
  const volume = 'path=/x,storage=tank,size-gib=1';
  expect(() => of({ [key('mp0')]: volume, [key('mp1')]: volume })).toThrow('another one has /x');
});

const named = (given: Record<string, string>): Record<string, string> =>
  Object.fromEntries(Object.entries(given).map(([name, value]) => [key(name), value]));

test('each network has the values of the configuration where the pod names none, net0 alone a gateway', () => {
  const lxc = { ...cni, bridge: { name: 'vmbr0', vlan: 7, rate: 1.5, firewall: true } };
  expect(of(named({ network: 'bridge', net1: 'bridge=vmbr1' }), lxc).bridges).toEqual([
    { index: 0, name: 'vmbr0', vlan: 7, rate: 1.5, firewall: true, address: 'dhcp', gateway: '' },
    { index: 1, name: 'vmbr1', vlan: 0, rate: 1.5, firewall: true, address: 'dhcp', gateway: '' },
  ]);
  const own = { network: 'bridge', rate: '3', firewall: 'false', net1: 'bridge=vmbr1,firewall=false,rate=4' };
  expect(of(named(own), lxc).bridges).toMatchObject([
    { vlan: 7, rate: 3, firewall: false },
    { vlan: 0, rate: 4, firewall: false },
  ]);
});

test.each(['nesting', 'fuse', 'keyctl', 'tun'] as const)('%s is a feature that may be allowed', (feature) => {
  const lxc = { ...cni, choices: { ...choices, features: [feature] } };
  expect(of(named({ features: feature }), lxc).features).toEqual([feature]);
  expect(() => of(named({ features: feature }))).toThrow(
    expect.objectContaining({
      id: 'PermissionDenied',
      message: expect.stringContaining('io.crisp.lxc.features: ') as unknown,
    }),
  );
});

test('a list has each feature at most once, with a comma between two', () => {
  const all = 'nesting,fuse,keyctl,tun';
  const lxc = { ...cni, choices: { ...choices, features: ['nesting', 'fuse', 'keyctl', 'tun'] as never } };
  expect(of(named({ features: all }), lxc).features).toHaveLength(4);
  for (const wrong of [`${all},tun`, 'nestingfuse', 'nesting,', 'nesting,nestingfuse'])
    expect(() => of(named({ features: wrong }), lxc)).toThrow(
      expect.objectContaining({ id: 'InvalidArgument' }),
    );
});

test.each([
  ['size-gib', '10', { storage: 'tank' }],
  ['mp0', 'path=/x,storage=tank,size-gib=10', {}],
])('%s may be as large as lxc.choices.max_size_gib', (name, value, more) => {
  const lxc = { ...cni, choices: { ...choices, max_size_gib: 10 } };
  of(named({ [name]: value, ...more }), lxc);
  expect(() => of(named({ [name]: value.replace('10', '10.001'), ...more }), lxc)).toThrow(
    expect.objectContaining({
      id: 'PermissionDenied',
      message: expect.stringContaining(`${key(name)}: `) as unknown,
    }),
  );
});

test.each<[string, Record<string, string>]>([
  ['bridge', { network: 'bridge', bridge: 'vmbr9' }],
  ['net1', { network: 'bridge', net1: 'bridge=vmbr9' }],
  ['storage', { storage: 'ceph' }],
  ['mp3', { mp3: 'path=/x,storage=ceph,size-gib=1' }],
])('what is not among the choices is named by its annotation: %s', (name, given) => {
  const lxc = { ...cni, choices: { ...choices, bridges: ['vmbr0'], storages: [] } };
  expect(() => of(named(given), lxc)).toThrow(`annotation ${key(name)}: `);
});

test.each([
  ['address', 'x10.0.0.5/24'],
  ['address', '10.0.0.5/24x'],
  ['address', '10.0.0/24'],
  ['gateway', 'x10.0.0.1'],
  ['gateway', '10.0.0.1x'],
  ['mp0', 'path=/x,storage=tank,size-gib=true'],
  ['mp0', 'path=/x,storage=tank,size-gib=1,backup=1'],
  ['mp0', 'storage=tank,size-gib=1'],
  ['mp0', 'path=/x,size-gib=1'],
  ['net1', 'bridge=vmbr1,bridge=vmbr2'],
])('nor can %s be "%s"', (name, value) => {
  expect(() => of(named({ network: 'bridge', [name]: value }))).toThrow(
    expect.objectContaining({ id: 'InvalidArgument' }),
  );
});

test('a value has at most 1024 characters, and 100 of a wrong one are quoted', () => {
  const folders = `/${'x'.repeat(254)}`.repeat(3);
  const value = (length: number): string =>
    `path=${folders}/${'x'.repeat(length - 795)},storage=tank,size-gib=1`;
  expect(value(1024)).toHaveLength(1024);
  expect(of(named({ mp0: value(1024) })).mountPoints).toHaveLength(1);
  expect(() => of(named({ mp0: value(1025) }))).toThrow('may be there once');
  expect(() => of(named({ vlan: 'v'.repeat(200) }))).toThrow(`"${'v'.repeat(100)}" is not`);
});

test('the message for a pod on the CNI network names the first of its networks', () => {
  expect(() => of(named({ net3: 'bridge=a', net2: 'bridge=b' }))).toThrow('io.crisp.lxc.net2: ');
});

test('an unknown option is answered with those that there are', () => {
  expect(() => of(named({ unknown: 'x' }))).toThrow(
    /there can be network, bridge, .*size-gib.*net1 to net7, mp0 to mp7/,
  );
});

import { expect, test } from '@jest/globals';
import type { Device, DeviceRule, Spec } from '../../shapes/spec.js';
import { passedDevices, withTun } from './passthrough.js';

const card: Device = {
  type: 'c',
  path: '/dev/dri/card0',
  major: 226,
  minor: 0,
  fileMode: 0o660,
  uid: 0,
  gid: 44,
};
const rule: DeviceRule = { allow: true, type: 'c', major: 226, minor: 0, access: 'rw' };

function spec(devices: Device[], rules: DeviceRule[] = [rule], env: string[] = ['A=1']): Spec {
  return {
    ociVersion: '1.0.2',
    process: { user: { uid: 0, gid: 0 }, args: [], env, cwd: '/' },
    root: { path: '/rootfs' },
    mounts: [],
    linux: { namespaces: [{ type: 'user', path: '/ns/user' }], devices, resources: { devices: rules } },
  };
}
function passed(made: Spec, { environmentReachesHooks = false, guest = false } = {}) {
  return passedDevices({
    spec: made,
    deviceSource: ({ path }) => (path === '/dev/elsewhere' ? '/dev/other' : path),
    environmentReachesHooks,
    guest,
  });
}

test('a device of the host has an owner and a mode in the CT', () => {
  expect(passed(spec([card]))).toEqual([
    { path: '/dev/dri/card0', mode: 0o660, uid: 0, gid: 44, denyWrite: false },
  ]);
  expect(passed(spec([card], [{ ...rule, access: 'r' }]))).toMatchObject([{ denyWrite: true }]);
  expect(passed(spec([card], [{ allow: true }]))).toMatchObject([{ denyWrite: false }]);
});

test.each<[object, boolean]>([
  [{}, false],
  [{ type: 'b' }, true],
  [{ type: 'a', major: undefined, minor: undefined }, false],
  [{ type: undefined, access: undefined }, false],
  [{ major: undefined }, false],
  [{ minor: undefined }, false],
  [{ major: 1 }, true],
  [{ minor: 1 }, true],
  [{ allow: false }, true],
])('a rule that differs in %j denies writing: %p', (change, denyWrite) => {
  expect(passed(spec([card], [{ ...rule, ...change }]))).toMatchObject([{ denyWrite }]);
});

test('a device without an owner, a mode or any rule is of root, and not for all', () => {
  const made = spec([{ type: 'c', path: '/dev/dri/card0', major: 226, minor: 0 }]);
  delete made.linux.resources;
  expect(passed(made)).toEqual([{ path: '/dev/dri/card0', mode: 0o660, uid: 0, gid: 0, denyWrite: true }]);
});

test.each<[string, Spec, { environmentReachesHooks?: boolean; guest?: boolean }]>([
  ['of a privileged CT', { ...spec([card]), linux: { ...spec([card]).linux, namespaces: [] } }, {}],
  ['of a whole guest', spec([card]), { guest: true }],
  ["where PVE's hook would see the environment of the pod", spec([card]), { environmentReachesHooks: true }],
  ['where the hook would see a variable of several lines', spec([card], [rule], ['A=1\n2']), {}],
  ['with another name on the host', spec([{ ...card, path: '/dev/elsewhere' }]), {}],
  ['with a name that contains another option', spec([{ ...card, path: '/dev/a,uid=0' }]), {}],
  ['with a name that leaves /dev', spec([{ ...card, path: '/dev/../etc/x' }]), {}],
  ['outside /dev', spec([{ ...card, path: '/devices/x' }]), {}],
  ['that every CT has by default', spec([{ ...card, path: '/dev/null' }]), {}],
])('a device %s is not passed through', (_, made, options) => {
  expect(passed(made, options)).toEqual([]);
});

test('tun is one device with one rule', () => {
  const made = withTun(spec([]));
  expect(passed(made)).toEqual([{ path: '/dev/net/tun', mode: 0o666, uid: 0, gid: 0, denyWrite: false }]);
  expect(made.linux.resources?.devices).toContainEqual({
    allow: true,
    type: 'c',
    major: 10,
    minor: 200,
    access: 'rwm',
  });
  expect(withTun(made)).toBe(made);
});

import { expect, test } from '@jest/globals';
import { containerDevices, type GivenDevice } from './devices.js';

const given = (path: string, more: Partial<GivenDevice['device']> = {}, permissions = 'rw'): GivenDevice => ({
  device: { type: 'c', path, major: 10, minor: 200, ...more },
  permissions,
});

test('a container may use the standard devices and its own', () => {
  const { devices, rules } = containerDevices([given('/dev/net/tun')], [], false);
  expect(devices).toEqual([{ type: 'c', path: '/dev/net/tun', major: 10, minor: 200 }]);
  expect(rules[0]).toEqual({ allow: false, access: 'rwm' });
  expect(rules).toContainEqual({ allow: true, type: 'c', major: 1, minor: 3, access: 'rwm' });
  expect(rules.at(-1)).toEqual({ allow: true, type: 'c', major: 10, minor: 200, access: 'rw' });
});

test('a privileged container may use all devices, and the last entry for a path counts', () => {
  const host = [
    { type: 'b' as const, path: '/dev/sda', major: 8, minor: 0 },
    { type: 'c' as const, path: '/dev/x', major: 1, minor: 1 },
  ];
  const { devices, rules } = containerDevices([given('/dev/x'), given('/dev/x', { minor: 7 })], host, true);
  expect(devices).toEqual([host[0], { type: 'c', path: '/dev/x', major: 10, minor: 7 }]);
  expect(rules).toEqual([{ allow: true, access: 'rwm' }]);
});

test('a FIFO needs no rule', () => {
  expect(containerDevices([given('/dev/fifo', { type: 'p' })], [], false).rules).not.toContainEqual(
    expect.objectContaining({ major: 10 }),
  );
});

test.each(['', 'x', 'rwmx', 'r w'])('permissions "%s" are refused', (permissions) => {
  expect(() => containerDevices([given('/dev/x', {}, permissions)], [], false)).toThrow(
    'must be made of r, w and m',
  );
});

test('the standard devices are those of the runtime specification', () => {
  const { rules } = containerDevices([], [], false);
  const device = (major: number, minor?: number) => ({
    allow: true,
    type: 'c',
    major,
    ...(minor === undefined ? {} : { minor }),
    access: 'rwm',
  });
  expect(rules).toEqual([
    { allow: false, access: 'rwm' },
    { allow: true, type: 'c', access: 'm' },
    { allow: true, type: 'b', access: 'm' },
    ...[3, 5, 7, 8, 9].map((minor) => device(1, minor)), // null, zero, full, random, urandom
    ...[0, 1, 2].map((minor) => device(5, minor)), // tty, console, ptmx
    device(136), // pts
  ]);
});

import { expect, test } from '@jest/globals';
import { containerArgs, containerEnv, workingFolder } from './process.js';

const image = {
  Entrypoint: ['/entry'],
  Cmd: ['image', 'cmd'],
  Env: ['PATH=/image', 'A=1', 'BARE', '=x'],
  WorkingDir: '/srv',
};
const env = (envs: [string, string][] = [], tty = false, of = image, devices: string[] = []): string[] =>
  containerEnv({ envs: envs.map(([key, value]) => ({ key, value: Buffer.from(value) })), tty }, of, {
    hostname: 'box',
    home: '/root',
    devices,
  });

// The four rows of the table in Kubernetes' "Define a Command and Arguments for a Container".
test.each([
  [[], [], ['/entry', 'image', 'cmd']],
  [['c'], [], ['c']],
  [[], ['a'], ['/entry', 'a']],
  [['c'], ['a'], ['c', 'a']],
])('command %j and args %j run %j', (command, args, expected) => {
  expect(containerArgs({ command, args }, image)).toEqual(expected);
});

test('an image may have one of the two, or neither', () => {
  expect(containerArgs({ command: [], args: [] }, { Cmd: ['sh'] })).toEqual(['sh']);
  expect(containerArgs({ command: [], args: ['a'] }, { Cmd: ['sh'], Entrypoint: null })).toEqual(['a']);
  expect(() => containerArgs({ command: [], args: [] }, { Entrypoint: [], Cmd: null })).toThrow(
    'there is no command',
  );
});

test('the environment of the request overrides that of the image', () => {
  expect(env()).toEqual(['PATH=/image', 'HOSTNAME=box', 'HOME=/root', 'A=1']);
  expect(
    env([
      ['A', '2'],
      ['HOME', '/else'],
      ['B', 'x=y\nz'],
    ]),
  ).toEqual(['PATH=/image', 'HOSTNAME=box', 'HOME=/else', 'A=2', 'B=x=y\nz']);
  // The variables of devices come last, as in containerd and CRI-O.
  expect(env([['A', '2']], false, image, ['A=device', 'D=1'])).toEqual([
    'PATH=/image',
    'HOSTNAME=box',
    'HOME=/root',
    'A=device',
    'D=1',
  ]);
});

test('an environment of the image or of a device with a NUL byte is refused', () => {
  expect(() => env([], false, { ...image, Env: ['A=x\0B=y'] })).toThrow('NUL');
  expect(() => env([], false, image, ['A=x\0B=y'])).toThrow('NUL');
});

test('PATH is always set, and TERM with a terminal', () => {
  expect(containerEnv({ envs: [], tty: true }, {}, { hostname: 'box', home: '/' })).toEqual([
    'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    'TERM=xterm',
    'HOSTNAME=box',
    'HOME=/',
  ]);
});

test.each([
  ['', 'x'],
  ['A=B', 'x'],
  ['A', 'x\0y'],
])('a variable %j with the value %j is refused', (key, value) => {
  expect(() => env([[key, value]])).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
});

test('the working folder is that of the request, of the image, or the root', () => {
  expect(workingFolder({ working_dir: '/here' }, image)).toBe('/here');
  expect(workingFolder({ working_dir: '' }, image)).toBe('/srv');
  expect(workingFolder({ working_dir: '' }, {})).toBe('/');
  expect(() => workingFolder({ working_dir: 'here' }, {})).toThrow('absolute');
  expect(() => containerArgs({ command: ['a\0b'], args: [] }, {})).toThrow('NUL');
});

import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { noCdi, readCdi } from './cdi.js';

let base: string;
beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'crisp-cdi-'));
  for (const folder of ['etc', 'run']) await mkdir(join(base, folder));
});
afterEach(async () => {
  await rm(base, { recursive: true });
});

const read = (...names: string[]) =>
  readCdi(names, [join(base, 'etc'), join(base, 'run'), join(base, 'none')]);
const write = (path: string, text: string): Promise<void> => writeFile(join(base, path), text);

const gpu = `
cdiVersion: "0.7.0"
kind: vendor.com/gpu
containerEdits:
  env: [ALL=1]
devices:
- name: "0"
  containerEdits:
    env: [GPU=0]
    deviceNodes: [{path: /dev/gpu0, hostPath: /dev/HOST, permissions: r, gid: 44}, {path: /dev/made, type: b, major: 9, minor: 8}]
    mounts: [{hostPath: /usr/lib/gpu, containerPath: /lib/gpu, options: [ro, bind]}]
    hooks: [{hookName: createContainer, path: /usr/bin/hook, args: [hook, "0"], timeout: 5}]
    additionalGids: [0, 44]
- name: "1"
  containerEdits: {env: [GPU=1], hooks: [{hookName: createContainer, path: /usr/bin/hook}], additionalGids: [44]}
`;

test('without devices no spec is read', async () => {
  expect(await readCdi([], ['/no/such'])).toEqual(noCdi);
});

test('the edits of a device, with those of its spec once', async () => {
  execFileSync('mknod', ['-m', '660', join(base, 'node'), 'c', '1', '3']);
  await write('etc/gpu.yaml', gpu.replace('/dev/HOST', join(base, 'node')));
  expect(await read('vendor.com/gpu=0', 'vendor.com/gpu=1')).toEqual({
    env: ['ALL=1', 'GPU=0', 'GPU=1'],
    devices: [
      {
        device: { type: 'c', path: '/dev/gpu0', major: 1, minor: 3, fileMode: 0o660, uid: 0, gid: 44 },
        permissions: 'r',
      },
      { device: { type: 'b', path: '/dev/made', major: 9, minor: 8 }, permissions: 'rwm' },
    ],
    mounts: [{ destination: '/lib/gpu', source: '/usr/lib/gpu', type: 'bind', options: ['ro', 'bind'] }],
    hooks: {
      createContainer: [
        { path: '/usr/bin/hook', args: ['hook', '0'], timeout: 5 },
        { path: '/usr/bin/hook' },
      ],
    },
    additionalGids: [44],
    notHonoured: [],
  });
});

test('a mode with a leading zero is octal, as in the CDI library for Go, and the rest is YAML 1.2', async () => {
  await write(
    'etc/a.yaml',
    `
cdiVersion: "0.6.0"
kind: v.com/c
devices:
- name: "010"
  containerEdits:
    env: [SWITCH=on, 'MODE=0640']
    deviceNodes: [{path: /dev/made, type: c, major: 10, minor: 010, fileMode: 0640}]
    hooks: [{hookName: createContainer, path: /usr/bin/hook, args: [hook, yes]}]
- name: json
  containerEdits: {deviceNodes: [{path: /dev/made, type: c, major: 1, minor: 0, fileMode: 0o600}]}
`,
  );
  expect(await read('v.com/c=010')).toMatchObject({
    env: ['SWITCH=on', 'MODE=0640'],
    devices: [{ device: { type: 'c', path: '/dev/made', major: 10, minor: 8, fileMode: 0o640 } }],
    hooks: { createContainer: [{ path: '/usr/bin/hook', args: ['hook', 'yes'] }] },
  });
  expect((await read('v.com/c=json')).devices[0]?.device).toMatchObject({
    major: 1,
    minor: 0,
    fileMode: 0o600,
  });
});

test('the later folder takes precedence; a conflict within a folder disables the device', async () => {
  const spec = (env: string): string =>
    JSON.stringify({
      cdiVersion: '0.5.0',
      kind: 'v.com/c',
      devices: [{ name: 'a', containerEdits: { env: [env] } }],
    });
  await write('etc/a.json', spec('FROM=etc'));
  await write('run/a.json', spec('FROM=run'));
  expect((await read('v.com/c=a')).env).toEqual(['FROM=run']);
  await write('run/b.json', spec('FROM=b'));
  await expect(read('v.com/c=a')).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: 'CDI_devices[0]: two specs have a device "v.com/c=a"',
  });
});

test('an invalid spec disables only its own devices', async () => {
  await write('etc/broken.json', '{');
  await write('etc/wrong.yaml', 'cdiVersion: "0.6.0"\nkind: nonsense\ndevices: []');
  await write('etc/notes.txt', gpu);
  await write('run/gpu.yml', gpu);
  expect((await read('vendor.com/gpu=1')).env).toEqual(['ALL=1', 'GPU=1']);
  await expect(read('vendor.com/gpu=2')).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringContaining('CDI_devices[0]'),
  });
});

test('a device node that the host lacks, and edits that are not applied', async () => {
  await write(
    'etc/a.json',
    JSON.stringify({
      cdiVersion: '1.1.0',
      kind: 'v.com/c',
      devices: [
        { name: 'gone', containerEdits: { deviceNodes: [{ path: '/dev/no-such-device' }] } },
        { name: 'net', containerEdits: { netDevices: [{ hostInterfaceName: 'eth9', name: 'eth1' }] } },
      ],
    }),
  );
  await expect(read('v.com/c=gone')).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringContaining('/dev/no-such-device'),
  });
  expect((await read('v.com/c=net')).notHonoured).toEqual(['CDI_devices']);
});

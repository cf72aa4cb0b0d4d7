import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cdiFolders, noCdi, readCdi } from './cdi.js';

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

/** A spec with one device "v.com/c=a", which has these edits. */
const one = (edits: object | undefined, device: object = {}): Promise<void> =>
  write(
    'etc/one.json',
    JSON.stringify({
      cdiVersion: '0.6.0',
      kind: 'v.com/c',
      devices: [{ name: 'a', containerEdits: edits, ...device }],
    }),
  );

test('what a spec leaves out has the values of the CDI specification', async () => {
  await one({
    deviceNodes: [{ path: '/dev/null' }],
    mounts: [
      { hostPath: '/usr/lib/x', containerPath: '/x' },
      { hostPath: 't', containerPath: '/t', type: 'tmpfs' },
    ],
    hooks: [{ hookName: 'poststop', path: '/h', env: ['A=b'] }],
  });
  const { devices, mounts, hooks } = await read('v.com/c=a');
  expect(devices).toMatchObject([
    { device: { type: 'c', major: 1, minor: 3, path: '/dev/null' }, permissions: 'rwm' },
  ]);
  expect(mounts).toEqual([
    { destination: '/x', source: '/usr/lib/x', type: 'bind', options: ['rbind', 'nosuid', 'nodev'] },
    { destination: '/t', source: 't', type: 'tmpfs', options: ['rbind', 'nosuid', 'nodev'] },
  ]);
  expect(hooks).toEqual({ poststop: [{ path: '/h', env: ['A=b'] }] });
  await one(undefined);
  expect(await read('v.com/c=a')).toEqual(noCdi);
});

test('hooks run at every point of the runtime specification', async () => {
  const names = ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'];
  await one({ hooks: names.map((hookName) => ({ hookName, path: `/bin/${hookName}` })) });
  expect((await read('v.com/c=a')).hooks).toEqual(
    Object.fromEntries(names.map((name) => [name, [{ path: `/bin/${name}` }]])),
  );
});

test('a device is of the host, unless the spec has its type and its numbers', async () => {
  const node = async (edits: object): Promise<unknown> => {
    await one({ deviceNodes: [{ path: '/dev/null', ...edits }] });
    return (await read('v.com/c=a')).devices[0]?.device;
  };
  const host = { type: 'c', path: '/dev/null', major: 1, minor: 3 };
  expect(await node({ type: 'c', major: 5 })).toMatchObject({ ...host, major: 5 });
  expect(await node({ type: 'b', minor: 6 })).toMatchObject({ ...host, minor: 6 });
  expect(await node({ major: 5, minor: 6 })).toMatchObject({ ...host, major: 5, minor: 6 });
  expect(await node({ type: 'p' })).toEqual({ type: 'p', path: '/dev/null' });
  expect(await node({ fileMode: 0o20640, uid: 0, gid: 0 })).toMatchObject({
    fileMode: 0o640,
    uid: 0,
    gid: 0,
  });
  expect(await node({ uid: 7 })).toMatchObject({ uid: 7, fileMode: 0o666 });
});

test('a folder is no device', async () => {
  for (const [name, minor] of [
    ['one', '3'],
    ['two', '5'],
  ] as const)
    execFileSync('mknod', [join(base, 'run', name), 'c', '1', minor]);
  await one({ deviceNodes: [{ path: '/dev/x', hostPath: join(base, 'run') }] });
  await expect(read('v.com/c=a')).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringContaining(join(base, 'run')),
  });
});

test.each([
  [{ additionalGids: [0] }, {}, true],
  [{ additionalGids: [-1] }, {}, false],
  [{ deviceNodes: [{ path: '/dev/null', uid: -1 }] }, {}, false],
  [{ deviceNodes: [{ path: '/dev/null', gid: -1 }] }, {}, false],
  [{ hooks: [{ hookName: 'prestart', path: '/h', timeout: 1 }] }, {}, true],
  [{ hooks: [{ hookName: 'prestart', path: '/h', timeout: 0 }] }, {}, false],
  [{ hooks: [{ hookName: 'later', path: '/h' }] }, {}, false],
  [{ mounts: [{ hostPath: '/x', containerPath: 'x' }] }, {}, false],
  [{ env: ['=x'] }, {}, false],
])('edits %j are usable: %p', async (edits, device, usable) => {
  await one(edits, device);
  const found = read('v.com/c=a');
  if (usable) await found;
  else await expect(found).rejects.toMatchObject({ id: 'InvalidArgument' });
});

test('a device without a name makes its file unusable, and so does a file of more than 1 MiB', async () => {
  await one({ env: ['A=b'] });
  expect((await read('v.com/c=a')).env).toEqual(['A=b']);
  await one({}, { name: '' });
  await expect(read('v.com/c=')).rejects.toMatchObject({ id: 'InvalidArgument' });
  await one({ env: ['A=b'] }, { annotations: { x: 'x'.repeat(1 << 20) } });
  await expect(read('v.com/c=a')).rejects.toMatchObject({ id: 'InvalidArgument' });
  await one({ env: ['A=b'] }, { annotations: { x: 'x'.repeat((1 << 20) - 200) } });
  expect((await read('v.com/c=a')).env).toEqual(['A=b']);
});

test('edits of a kind that crisp does not apply are reported', async () => {
  await one({ intelRdt: { closID: 'x' } });
  expect((await read('v.com/c=a')).notHonoured).toEqual(['CDI_devices']);
});

test('the folders are those of the CDI specification, static ones first', () => {
  expect(cdiFolders).toEqual(['/etc/cdi', '/var/run/cdi']);
});

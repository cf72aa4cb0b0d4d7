// The chain of plugins of the CNI specification, with small plugins that record their
// calls. test/integration/network.test.ts uses real plugins.
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fakeTimeouts } from '../../test/helpers/services.js';
import { readFileIfThere } from '../host/files.js';
import { identify } from '../host/proc.js';
import { setAside } from '../set-aside.js';
import { configSchema } from '../config/config.js';
import { Network, networkOptionsOf, type PodNetwork } from './cni.js';

let base: string;
let network: Network;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'crisp-cni-'));
  await mkdir(join(base, 'bin'));
  await mkdir(join(base, 'net.d'));
  network = newNetwork();
});
afterEach(async () => {
  jest.useRealTimers();
  network.close();
  await rm(base, { recursive: true, maxRetries: 20, retryDelay: 50 }); // a look that status() began may still run
});

const pluginTimeoutMs = 20_000;
function newNetwork(): Network {
  return new Network({
    confDir: join(base, 'net.d'),
    binDirs: [join(base, 'none'), join(base, 'bin')],
    pluginTimeoutMs,
    root: join(base, 'root'),
    template: join(base, 'template'),
  });
}

function pod(id: string, more: Partial<PodNetwork> = {}): PodNetwork {
  return {
    id,
    name: 'web-0',
    namespace: 'shop',
    uid: 'u-1',
    netns: join(base, 'no-netns'),
    portMappings: [],
    ...more,
  };
}

/** A plugin that notes each call in base/calls, keeps its stdin as base/COMMAND.TYPE and its environment, and does `cases` (of a shell's case). */
async function plugin(type: string, cases = '', versions = '"0.4.0","1.0.0","1.1.0"'): Promise<void> {
  await writeFile(
    join(base, 'bin', type),
    `#!/bin/sh
cat /dev/stdin > '${base}'/$CNI_COMMAND.${type}
env > '${base}'/$CNI_COMMAND.${type}.env
[ $CNI_COMMAND = VERSION ] || echo $CNI_COMMAND ${type} $CNI_CONTAINERID >> '${base}'/calls
case $CNI_COMMAND in
${cases}
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":[${versions}]}';;
ADD) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.9.8.7/24","interface":0},{"address":"fd09::7/64","interface":0}],"by":"${type}"}';;
esac
`,
    { mode: 0o755 },
  );
}

async function conflist(
  plugins: readonly object[],
  more: object = {},
  name = '10-pods.conflist',
): Promise<void> {
  await writeFile(
    join(base, 'net.d', name),
    JSON.stringify({ cniVersion: '1.0.0', name: 'pods', plugins, ...more }),
  );
}

async function calls(): Promise<string[]> {
  return ((await readFileIfThere(join(base, 'calls'))) ?? '').split('\n').filter(Boolean);
}
async function input(command: string, type: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(join(base, `${command}.${type}`), 'utf8')) as Record<string, unknown>;
}
async function environmentOf(command: string, type: string): Promise<string[]> {
  return (await readFile(join(base, `${command}.${type}.env`), 'utf8')).split('\n');
}
async function argumentsOf(command: string, type: string): Promise<string | undefined> {
  return (await environmentOf(command, type)).find((line) => line.startsWith('CNI_ARGS='));
}
async function notes(): Promise<string[]> {
  return readdir(join(base, 'root', 'network'));
}

test('the options are those of the configuration, with the limit in milliseconds', () => {
  const network = {
    ...configSchema.parse({}).network,
    conf_dir: '/etc/net',
    bin_dirs: ['/opt/a', '/opt/b'],
    plugin_timeout_seconds: 17,
    template: '/etc/template',
  };
  expect(networkOptionsOf({ network }, '/root/network')).toEqual({
    confDir: '/etc/net',
    binDirs: ['/opt/a', '/opt/b'],
    pluginTimeoutMs: 17_000,
    root: '/root/network',
    template: '/etc/template',
  });
});

describe('attach', () => {
  test('runs the chain, each plugin with the previous result and its own capabilities', async () => {
    await plugin('first', `ADD) echo '{"ips":[],"by":"first"}';;`);
    await plugin('second');
    await conflist([
      { type: 'first', capabilities: { dns: true } },
      {
        type: 'second',
        capabilities: {
          portMappings: true,
          bandwidth: true,
          'io.kubernetes.cri.pod-annotations': true,
          cgroupPath: true,
        },
      },
    ]);
    await network.start();
    const attachment = await network.attach(
      pod('p1', {
        portMappings: [
          { protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '127.0.0.1' },
          { protocol: 'udp', containerPort: 53, hostPort: 0, hostIp: '' },
        ],
        bandwidth: { ingressBitsPerSecond: 100_000_000, egressBitsPerSecond: 1_000 },
        dns: { servers: ['10.0.0.10'], searches: ['svc'], options: [] },
        annotations: { a: 'b' },
        cgroupParent: '/kubepods/p1',
      }),
    );
    expect(attachment.ips).toEqual(['10.9.8.7', 'fd09::7']);
    expect(JSON.parse(JSON.stringify(attachment))).toEqual(attachment);
    expect(await calls()).toEqual(['ADD first p1', 'ADD second p1']);
    expect(await input('ADD', 'first')).toEqual({
      type: 'first',
      name: 'pods',
      cniVersion: '1.0.0',
      runtimeConfig: { dns: { servers: ['10.0.0.10'], searches: ['svc'], options: [] } },
    });
    expect(await input('ADD', 'second')).toMatchObject({
      prevResult: { by: 'first' },
      runtimeConfig: {
        portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp', hostIP: '127.0.0.1' }],
        bandwidth: {
          ingressRate: 100_000_000,
          ingressBurst: 10_000_000,
          egressRate: 1_000,
          egressBurst: 524_288,
        },
        'io.kubernetes.cri.pod-annotations': { a: 'b' },
        cgroupPath: '/kubepods/p1',
      },
    });
    const environment = await environmentOf('ADD', 'first');
    expect(environment).toEqual(
      expect.arrayContaining([
        'CNI_COMMAND=ADD',
        'CNI_CONTAINERID=p1',
        `CNI_NETNS=${join(base, 'no-netns')}`,
        'CNI_IFNAME=eth0',
        `CNI_PATH=${join(base, 'none')}:${join(base, 'bin')}`,
        'CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=u-1',
      ]),
    );
    expect(environment).toContainEqual(expect.stringMatching(/^PATH=.*\/usr\/sbin/));
  });

  test('returns the error of a failing plugin and deletes all, newest first', async () => {
    await plugin('first');
    await plugin(
      'second',
      'ADD) echo grumble >&2; echo \'{"code":11,"msg":"no address","details":"pool is empty"}\'; exit 1;;',
    );
    await conflist([{ type: 'first' }, { type: 'second' }]);
    await network.start();
    const failure = expect(network.attach(pod('p1'))).rejects;
    await failure.toMatchObject({
      id: 'CniFailed',
      tool: 'second',
      stage: 'cni add',
      message: 'CNI plugin second failed ADD: no address (code 11): pool is empty',
      stderr: 'grumble\n',
    });
    expect(await calls()).toEqual(['ADD first p1', 'ADD second p1', 'DEL second p1', 'DEL first p1']);
    expect(await input('DEL', 'first')).toMatchObject({ prevResult: { by: 'first' } });
    expect(await notes()).toEqual([]);
  });

  test.each([
    ['exit 3', /exit code 3/],
    ['echo oops; exit 1', /exit code 1/],
    ['echo oops', /invalid JSON: oops/],
    ['true', /nothing/],
    ['kill -9 $$', /SIGKILL/],
  ])('reports a plugin that violates the protocol: %s', async (script, message) => {
    await plugin('odd', `ADD) ${script}; exit;;`);
    await conflist([{ type: 'odd' }]);
    await network.start();
    await expect(network.attach(pod('p1'))).rejects.toMatchObject({
      id: 'CniFailed',
      tool: 'odd',
      message: expect.stringMatching(message),
    });
    expect(await calls()).toEqual(['ADD odd p1', 'DEL odd p1']);
  });

  test('without a plugin of the chain deletes only what was called, and the note', async () => {
    await plugin('first');
    await conflist([{ type: 'first' }, { type: 'absent' }]);
    await network.start();
    await expect(network.attach(pod('p1'))).rejects.toMatchObject({
      id: 'CniFailed',
      message: expect.stringContaining('"absent" is not in'),
    });
    expect(await calls()).toEqual(['ADD first p1', 'DEL first p1']);
    expect(await notes()).toEqual([]);
  });

  test('that brings no address is undone, with a hint', async () => {
    await plugin('first', `ADD) echo '{"interfaces":[{"name":"eth0","sandbox":"x"}]}';;`);
    await conflist([{ type: 'first' }]);
    await network.start();
    await expect(network.attach(pod('p1'))).rejects.toMatchObject({
      id: 'CniFailed',
      message: 'network pods gave the pod no address',
      hint: expect.stringContaining('ipam'),
    });
    expect(await calls()).toEqual(['ADD first p1', 'DEL first p1']);
    expect(await notes()).toEqual([]);
  });

  test.each([
    [
      { ingressBitsPerSecond: 30_000_000 },
      { bandwidth: { ingressRate: 30_000_000, ingressBurst: 3_000_000 } },
    ],
    [{ egressBitsPerSecond: 70_000_000 }, { bandwidth: { egressRate: 70_000_000, egressBurst: 7_000_000 } }],
    [{}, undefined],
  ])('with the bandwidth %j limits that direction alone', async (bandwidth, runtimeConfig) => {
    await plugin('first');
    await conflist([{ type: 'first', capabilities: { bandwidth: true, portMappings: true, dns: true } }]);
    await network.start();
    await network.attach(pod('p1', { bandwidth }));
    expect((await input('ADD', 'first'))['runtimeConfig']).toEqual(runtimeConfig);
  });

  test('passes every host port with its protocol and address', async () => {
    await plugin('first');
    await conflist([{ type: 'first', capabilities: { portMappings: true } }]);
    await network.start();
    await network.attach(
      pod('p1', {
        portMappings: [
          { protocol: 'udp', containerPort: 53, hostPort: 5_353, hostIp: '10.1.2.3' },
          { protocol: 'sctp', containerPort: 99, hostPort: 1, hostIp: '' },
        ],
      }),
    );
    expect((await input('ADD', 'first'))['runtimeConfig']).toEqual({
      portMappings: [
        { hostPort: 5_353, containerPort: 53, protocol: 'udp', hostIP: '10.1.2.3' },
        { hostPort: 1, containerPort: 99, protocol: 'sctp', hostIP: '' },
      ],
    });
  });

  test('kills a plugin that hangs, with its child processes, and runs DEL', async () => {
    await plugin('first');
    await plugin('stuck', `ADD) sleep 60 & echo $! > '${base}'/child; wait;;`);
    await conflist([{ type: 'first' }, { type: 'stuck' }]);
    await network.start();
    fakeTimeouts();
    const attached = network.attach(pod('p1')).catch((error: unknown) => error);
    const child = Number(await content(join(base, 'child')));
    jest.advanceTimersByTime(pluginTimeoutMs);
    expect(await attached).toMatchObject({ id: 'ToolTimeout', tool: 'stuck' });
    expect(await identify(child)).toBeUndefined();
    expect(await calls()).toEqual(['ADD first p1', 'ADD stuck p1', 'DEL stuck p1', 'DEL first p1']);
    expect(await notes()).toEqual([]);
  });

  test('a plugin that also hangs in DEL does not stop the other DELs, and the note is kept for later', async () => {
    await plugin('first');
    await plugin('stuck', 'ADD|DEL) sleep 60;;');
    await conflist([{ type: 'first' }, { type: 'stuck' }]);
    await network.start();
    fakeTimeouts();
    const attached = network.attach(pod('p1')).catch((error: unknown) => error);
    for (const call of ['ADD stuck p1', 'DEL stuck p1']) {
      while (!(await calls()).includes(call)) await turn();
      jest.advanceTimersByTime(pluginTimeoutMs);
    }
    expect(await attached).toMatchObject({ id: 'ToolTimeout' });
    expect(await calls()).toEqual(['ADD first p1', 'ADD stuck p1', 'DEL stuck p1', 'DEL first p1']);
    expect(await notes()).toEqual(['p1.json']);
  });

  test('ends when its caller disconnects, and completes its undo', async () => {
    await plugin('first');
    await plugin('slow', `ADD) echo here > '${base}/net.d/reached'; sleep 60;;`);
    await conflist([{ type: 'first' }, { type: 'slow' }]);
    await network.start();
    const caller = new AbortController();
    const attached = network.attach(pod('p1'), caller.signal);
    await content(join(base, 'net.d', 'reached'));
    caller.abort();
    await expect(attached).rejects.toMatchObject({ id: 'Cancelled' });
    expect(await calls()).toEqual(['ADD first p1', 'ADD slow p1', 'DEL slow p1', 'DEL first p1']);
    expect(await notes()).toEqual([]);
  });

  test('refuses a name that could be read as another argument', async () => {
    await plugin('first');
    await conflist([{ type: 'first' }]);
    await network.start();
    await expect(network.attach(pod('p1', { name: 'a;IP=10.0.0.1' }))).rejects.toMatchObject({
      id: 'InvalidArgument',
    });
    expect(await calls()).toEqual([]);
  });

  test('finds a configuration that was added just before, and reports if there is none', async () => {
    await network.start();
    await expect(network.attach(pod('p1'))).rejects.toMatchObject({
      id: 'NetworkNotReady',
      message: expect.stringContaining(join(base, 'net.d')),
      hint: expect.stringContaining('put a conflist'),
    });
    await writeFile(join(base, 'net.d', '05-broken.conflist'), '{');
    await expect(network.attach(pod('p1'))).rejects.toMatchObject({
      id: 'NetworkNotReady',
      hint: expect.stringContaining('correct the file'),
    });
    await plugin('first');
    await conflist([{ type: 'first' }]);
    expect((await network.attach(pod('p1'))).ips).toHaveLength(2);
  });
});

describe('detach', () => {
  test('uses the conflist of the ADD, in reverse order, as often as it is called', async () => {
    await plugin('first');
    await plugin('second');
    await conflist([{ type: 'first', capabilities: { portMappings: true } }, { type: 'second' }]);
    await network.start();
    const web = pod('p1', {
      portMappings: [{ protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '' }],
    });
    const attachment = await network.attach(web);
    expect(await notes()).toEqual(['p1.json']);
    await conflist([{ type: 'second', other: true }], { name: 'replaced' });
    await network.detach(web, attachment);
    await network.detach(web, attachment);
    expect((await calls()).slice(2)).toEqual([
      'DEL second p1',
      'DEL first p1',
      'DEL second p1',
      'DEL first p1',
    ]);
    expect(await input('DEL', 'first')).toMatchObject({
      name: 'pods',
      prevResult: { by: 'second' },
      runtimeConfig: { portMappings: [{ hostPort: 8080 }] },
    });
    expect(await notes()).toEqual([]);
  });

  test('without an attachment uses the note, also of an interrupted ADD, and does nothing without one', async () => {
    await plugin('first');
    await conflist([{ type: 'first' }]);
    await network.start();
    await network.attach(pod('p1'));
    await network.attach(pod('p2'));
    await truncate(join(base, 'root', 'network', 'p2.json'), 20);
    const again = newNetwork(); // as after a restart
    await again.start();
    await again.detach(pod('p1'), undefined);
    await again.detach(pod('p2'), undefined);
    await again.detach(pod('p3'), undefined);
    again.close();
    expect((await calls()).slice(2)).toEqual(['DEL first p1', 'DEL first p2']);
    expect(await notes()).toEqual([]);
  });

  test('by the note tells the plugins what the ADD told them, and its result', async () => {
    await plugin('first');
    await conflist([{ type: 'first', capabilities: { portMappings: true } }]);
    await network.start();
    const portMappings = [{ protocol: 'udp', containerPort: 53, hostPort: 5_353, hostIp: '' }] as const;
    await network.attach(pod('p1', { portMappings }));
    await network.detach({ id: 'p1', name: 'x', namespace: 'x', uid: 'x', netns: '' });
    expect(await input('DEL', 'first')).toMatchObject({
      prevResult: { by: 'first' },
      runtimeConfig: { portMappings: [{ hostPort: 5_353, protocol: 'udp' }] },
    });
    expect(await argumentsOf('DEL', 'first')).toBe(await argumentsOf('ADD', 'first'));
  });

  test('of a note without a content uses the names of its caller', async () => {
    await plugin('first');
    await conflist([{ type: 'first', capabilities: { portMappings: true } }]);
    await network.start();
    await network.attach(pod('p1'));
    await truncate(join(base, 'root', 'network', 'p1.json'), 0);
    await network.detach(pod('p1'));
    expect(await argumentsOf('DEL', 'first')).toBe(await argumentsOf('ADD', 'first'));
    expect(await input('DEL', 'first')).toEqual({ type: 'first', name: 'pods', cniVersion: '1.0.0' });
  });

  test('names the namespace while there is one, and none when it is gone', async () => {
    await plugin('first');
    await conflist([{ type: 'first' }]);
    await network.start();
    const attachment = await network.attach(pod('p1'));
    const netns = '/proc/self/ns/net';
    await network.detach(pod('p1', { netns }), attachment);
    expect(await environmentOf('DEL', 'first')).toContain(`CNI_NETNS=${netns}`);
    await network.detach(pod('p1'), attachment); // as after a reboot
    expect(await environmentOf('DEL', 'first')).toContain('CNI_NETNS=');
  });

  test('that fails is reported and can be repeated', async () => {
    await plugin('first', `DEL) [ -e '${base}/mended' ] || { echo '{"code":5,"msg":"busy"}'; exit 1; };;`);
    await conflist([{ type: 'first' }]);
    await network.start();
    const attachment = await network.attach(pod('p1'));
    await expect(network.detach(pod('p1'), attachment)).rejects.toMatchObject({
      id: 'CniFailed',
      message: expect.stringContaining('busy (code 5)'),
    });
    expect(await notes()).toEqual(['p1.json']);
    await writeFile(join(base, 'mended'), '');
    await network.detach(pod('p1'), attachment);
    expect(await notes()).toEqual([]);
  });
});

describe('check', () => {
  test('calls every plugin, with the result of the ADD', async () => {
    await plugin('first');
    await plugin(
      'second',
      `CHECK) [ ! -e '${base}/broken' ] || { echo '{"code":100,"msg":"no route"}'; exit 1; };;`,
    );
    await conflist([{ type: 'first' }, { type: 'second' }]);
    await network.start();
    const attachment = await network.attach(pod('p1'));
    expect(await network.check(pod('p1'), attachment)).toBe(true);
    expect((await calls()).slice(2)).toEqual(['CHECK first p1', 'CHECK second p1']);
    expect(await input('CHECK', 'first')).toMatchObject({ prevResult: { by: 'second' } });
    await writeFile(join(base, 'broken'), '');
    await expect(network.check(pod('p1'), attachment)).rejects.toMatchObject({
      id: 'CniFailed',
      message: expect.stringContaining('no route'),
    });
  });

  test.each([
    ['the conflist forbids it', { disableCheck: true }],
    ['its version has no CHECK', { cniVersion: '0.3.1' }],
  ])('is skipped if %s', async (_, more) => {
    await plugin('first', '', '"0.3.1","1.0.0"');
    await conflist([{ type: 'first' }], more);
    await network.start();
    expect(await network.check(pod('p1'), await network.attach(pod('p1')))).toBe(false);
    expect(await calls()).toEqual(['ADD first p1']);
  });
});

describe('status', () => {
  test('gives the reason why the network is not ready: no file, a syntax error, a missing plugin', async () => {
    await network.start();
    expect(network.status()).toEqual({
      ready: false,
      reason: 'NetworkPluginNotReady',
      message: `no CNI configuration in ${join(base, 'net.d')}`,
    });
    await writeFile(join(base, 'net.d', '05-broken.conflist'), '{"cniVersion":');
    await statusWhich((status) => /05-broken\.conflist: .*JSON/.test(status.message));
    await conflist([{ type: 'first' }]);
    await statusWhich((status) => status.message.startsWith('the CNI plugin "first" is not in'));
    await plugin('first');
    expect(await statusWhich((status) => status.ready)).toEqual({ ready: true, reason: '', message: '' });
    await rm(join(base, 'net.d', '10-pods.conflist'));
    await network.start();
    expect(network.status().ready).toBe(false);
  });

  test('calls the plugins of a 1.1 network', async () => {
    await plugin(
      'first',
      `STATUS) [ -e '${base}/mended' ] || { echo '{"code":50,"msg":"no uplink"}'; exit 1; };;`,
    );
    await conflist([{ type: 'first' }], { cniVersion: '1.1.0' });
    await network.start();
    expect(network.status()).toMatchObject({
      ready: false,
      message: 'CNI plugin first failed STATUS: no uplink (code 50)',
    });
    await writeFile(join(base, 'mended'), '');
    await statusWhich((status) => status.ready);
    await rm(join(base, 'mended'));
    await statusWhich((status) => !status.ready);
  });

  test('negotiates a version with the plugins, or names those that do not support it', async () => {
    await plugin('old', '', '"0.4.0","1.0.0"');
    await plugin('new');
    await conflist([{ type: 'new' }, { type: 'old' }], { cniVersions: ['1.0.0', '1.1.0'] });
    await network.start();
    expect(network.status().ready).toBe(true);
    expect((await network.attach(pod('p1'))).network.cniVersion).toBe('1.0.0');
    await conflist([{ type: 'new' }, { type: 'old' }], { cniVersion: '1.1.0' });
    await network.start();
    expect(network.status().message).toBe('network pods is of CNI version 1.1.0, which old cannot use');
  });
});

test('host ports are supported if a plugin of the network has the capability', async () => {
  await plugin('first');
  await network.start();
  expect(network.mapsPorts).toBe(false);
  for (const [portMappings, supported] of [
    [true, true],
    [false, false],
  ] as const) {
    await conflist([{ type: 'first' }, { type: 'first', capabilities: { portMappings } }]);
    await network.start();
    expect(network.mapsPorts).toBe(supported);
  }
});

test('a program is looked for, and asked for its versions, once for each configuration', async () => {
  await plugin(
    'first',
    `VERSION) echo asked >> '${base}'/asked; echo '{"supportedVersions":["1.0.0","1.1.0"]}';;`,
  );
  await conflist([{ type: 'first' }], { cniVersion: '1.1.0' });
  await network.start();
  await network.start();
  await network.attach(pod('p1'));
  const asked = async (): Promise<number> =>
    (await readFile(join(base, 'asked'), 'utf8')).split('\n').length - 1;
  expect(await asked()).toBe(1);
  // From an earlier folder it would be taken, if it were looked for again.
  await mkdir(join(base, 'none'));
  await writeFile(join(base, 'none', 'first'), `#!/bin/sh\nexit 1\n`, { mode: 0o755 });
  await network.attach(pod('p2'));
  await conflist([{ type: 'first', other: 1 }], { cniVersion: '1.1.0' });
  await network.start();
  expect(network.status()).toMatchObject({ ready: false, message: expect.stringContaining('exit code 1') });
  expect(await asked()).toBe(1);
});

test('other files among the notes are no pods, and one that might be is set aside', async () => {
  await network.start();
  const folder = join(base, 'root', 'network');
  for (const name of ['p1.json', 'readme', '..x.json', 'p2.json.tmp'])
    await writeFile(join(folder, name), '{}');
  expect(await network.noted()).toEqual(['p1']);
  expect(
    setAside
      .all()
      .filter(({ kind }) => kind === 'lease')
      .map(({ name }) => name),
  ).toEqual([join(folder, '..x.json')]);
  setAside.replace('lease', []);
});

test.each([
  ['{"code":7}', 'no message (code 7)'],
  ['{"msg":"busy"}', 'busy (code unknown)'],
  ['{"code":7,"msg":"busy","details":"by p2"}', 'busy (code 7): by p2'],
  ['{}', 'exit code 1'],
  ['null', 'exit code 1'],
  ['"text"', 'exit code 1'],
])('a plugin that fails with %s is told as: %s', async (answer, words) => {
  await plugin('first', `ADD) echo '${answer}'; echo grumble >&2; exit 1;;`);
  await conflist([{ type: 'first' }]);
  await network.start();
  await expect(network.attach(pod('p1'))).rejects.toMatchObject({
    message: `CNI plugin first failed ADD: ${words}`,
    stderr: words.startsWith('exit') ? `grumble\n\n${answer}\n` : 'grumble\n',
  });
});

test('a configuration that comes, and one that goes, is followed without a call', async () => {
  await plugin('first');
  await conflist([{ type: 'first' }]);
  await network.start();
  const earlier = join(base, 'net.d', '05-ports.conflist');
  await conflist([{ type: 'first', capabilities: { portMappings: true } }], {}, '05-ports.conflist');
  while (!network.mapsPorts) await turn();
  await rm(earlier);
  while (network.mapsPorts) await turn();
  await rm(join(base, 'net.d', '10-pods.conflist'));
  await network.start();
  await expect(network.attach(pod('p1'))).rejects.toMatchObject({ id: 'NetworkNotReady' });
});

test('a closed network no longer follows its folder', async () => {
  await plugin('first');
  await conflist([{ type: 'first' }]);
  const open = newNetwork();
  await Promise.all([network.start(), open.start()]);
  network.close();
  await rm(join(base, 'net.d', '10-pods.conflist'));
  while (open.status().ready) await turn();
  for (let turns = 0; turns < 50; turns++) await turn();
  expect(network.status().ready).toBe(true);
  open.close();
});

describe('garbage collection', () => {
  test('releases only the attachments of removed pods', async () => {
    await plugin('first');
    await conflist([{ type: 'first' }]);
    await network.start();
    const [kept] = await Promise.all([
      network.attach(pod('kept')),
      network.attach(pod('gone')),
      network.attach(pod('cut')),
    ]);
    await truncate(join(base, 'root', 'network', 'cut.json'), 0);
    await rm(join(base, 'calls'));
    const again = newNetwork();
    await again.start();
    await again.attach(pod('new'));
    await again.collectGarbage([kept.containerId]);
    again.close();
    expect((await calls()).sort()).toEqual(['ADD first new', 'DEL first cut', 'DEL first gone']);
    expect((await notes()).sort()).toEqual(['kept.json', 'new.json']);
  });

  test('names the namespace of a pod that is gone, and no pod where the note is lost', async () => {
    await plugin('first');
    await conflist([{ type: 'first' }]);
    await network.start();
    await network.attach(pod('cut'));
    await truncate(join(base, 'root', 'network', 'cut.json'), 0);
    const again = newNetwork();
    await again.start();
    await again.collectGarbage([], (id) => (id === 'cut' ? '/proc/self/ns/net' : ''));
    again.close();
    expect(await environmentOf('DEL', 'first')).toEqual(
      expect.arrayContaining([
        'CNI_NETNS=/proc/self/ns/net',
        'CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=;K8S_POD_NAME=;K8S_POD_INFRA_CONTAINER_ID=cut;K8S_POD_UID=',
      ]),
    );
  });

  test('counts a pod as attached from its ADD to its DEL, whoever calls', async () => {
    await plugin('first');
    await conflist([{ type: 'first' }], { cniVersion: '1.1.0' });
    await network.start();
    await network.attach(pod('stays'));
    await network.detach(pod('leaves'), await network.attach(pod('leaves')));
    await network.collectGarbage([]);
    expect((await input('GC', 'first'))['cni.dev/valid-attachments']).toEqual([
      { containerID: 'stays', ifname: 'eth0' },
    ]);
  });

  test('a plugin that fails keeps no other from its GC', async () => {
    await plugin('first', 'GC) exit 1;;');
    await plugin('second');
    await conflist([{ type: 'first' }, { type: 'second' }], { cniVersion: '1.1.0' });
    await network.start();
    await network.collectGarbage([]);
    expect((await calls()).filter((call) => call.startsWith('GC'))).toEqual(['GC first', 'GC second']);
  });

  test('passes the valid attachments to the plugins of a 1.1 network, unless it forbids that', async () => {
    await plugin('first');
    await conflist([{ type: 'first' }], { cniVersion: '1.1.0' });
    await network.start();
    await network.collectGarbage([(await network.attach(pod('kept'))).containerId]);
    expect(await input('GC', 'first')).toEqual({
      type: 'first',
      name: 'pods',
      cniVersion: '1.1.0',
      'cni.dev/valid-attachments': [{ containerID: 'kept', ifname: 'eth0' }],
    });
    await conflist([{ type: 'first' }], { cniVersion: '1.1.0', disableGC: true });
    await network.start();
    await network.collectGarbage([]);
    expect((await calls()).filter((call) => call.startsWith('GC'))).toHaveLength(1);
  });
});

describe('the address range of the node', () => {
  test('fills the template once, and makes the network ready', async () => {
    await plugin('first');
    await writeFile(
      join(base, 'template'),
      JSON.stringify({
        cniVersion: '1.0.0',
        name: 'pods',
        plugins: [{ type: 'first', ipam: { ranges: '{{.PodCIDRRanges}}' } }],
      }),
    );
    await network.start();
    await network.setPodCidr('10.7.0.0/24');
    expect(network.status().ready).toBe(true);
    expect(JSON.parse(await readFile(join(base, 'net.d', '10-crisp.conflist'), 'utf8'))).toMatchObject({
      plugins: [{ ipam: { ranges: [[{ subnet: '10.7.0.0/24' }]] } }],
    });
    await expect(network.setPodCidr('all')).rejects.toMatchObject({ id: 'InvalidArgument' });
  });

  test('makes a folder and a file that all may read and root alone may write, and keeps an equal file', async () => {
    const umask = process.umask(0);
    try {
      await rm(join(base, 'net.d'), { recursive: true });
      await plugin('first');
      await writeFile(
        join(base, 'template'),
        JSON.stringify({ cniVersion: '1.0.0', name: 'pods', plugins: [{ type: 'first' }] }),
      );
      await network.setPodCidr('10.7.0.0/24');
      const [folder, file] = [join(base, 'net.d'), join(base, 'net.d', '10-crisp.conflist')];
      const first = await stat(file);
      expect([(await stat(folder)).mode & 0o777, first.mode & 0o777]).toEqual([0o755, 0o644]);
      await network.setPodCidr('10.8.0.0/24');
      expect((await stat(file)).ino).toBe(first.ino);
    } finally {
      process.umask(umask);
    }
  });

  test('is refused with a template that is too large', async () => {
    await writeFile(join(base, 'template'), ' '.repeat(1024 * 1024 + 1));
    await expect(network.setPodCidr('10.7.0.0/24')).rejects.toThrow(join(base, 'template'));
    expect(await readdir(join(base, 'net.d'))).toEqual([]);
  });

  test('is ignored without a template', async () => {
    const plain = new Network({
      confDir: join(base, 'net.d'),
      binDirs: [],
      pluginTimeoutMs: 1_000,
      root: base,
    });
    await plain.setPodCidr('10.7.0.0/24');
    expect(await readdir(join(base, 'net.d'))).toEqual([]);
  });
});

/** Asks as the kubelet does, until the answer is as wanted; status() looks anew each time it is not ready. */
async function statusWhich(
  wanted: (status: ReturnType<Network['status']>) => boolean,
): Promise<ReturnType<Network['status']>> {
  for (;;) {
    const status = network.status();
    if (wanted(status)) return status;
    await turn();
  }
}

/** Of the event loop; goes on when timers are fake. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** The lines that a plugin wrote into a file, once this line is there. */
async function content(path: string): Promise<string> {
  for (;;) {
    const text = await readFileIfThere(path);
    if (text?.endsWith('\n')) return text;
    await turn();
  }
}

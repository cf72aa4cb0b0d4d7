import { describe, expect, test } from '@jest/globals';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  atLeast,
  attachmentSchema,
  findNetwork,
  parseConflist,
  pluginInput,
  podAddresses,
  renderTemplate,
} from './conflist.js';

const list = { cniVersion: '1.0.0', name: 'pods', plugins: [{ type: 'bridge', bridge: 'b0' }] };
const parse = (value: unknown) => parseConflist(JSON.stringify(value), '/etc/cni/net.d/10-pods.conflist');

describe('a conflist', () => {
  test('has a name, a version and plugins with their own fields', () => {
    expect(parse(list)).toEqual({
      cniVersion: '1.0.0',
      offered: ['1.0.0'],
      name: 'pods',
      disableCheck: false,
      disableGC: false,
      plugins: [{ type: 'bridge', bridge: 'b0' }],
    });
  });

  test.each(['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'])('may be of version %s', (cniVersion) => {
    expect(parse({ ...list, cniVersion })).toMatchObject({ cniVersion, offered: [cniVersion] });
  });

  test('that does not parse is told without its text, which may hold a secret', () => {
    expect(() => parseConflist('{"key": secret}', '/etc/x.conflist')).toThrow(
      /^\/etc\/x\.conflist: Unexpected token '?s'?$/,
    );
  });

  test('may be a single plugin', () => {
    expect(
      parse({ cniVersion: '0.3.1', name: 'one', type: 'ptp', ipam: { type: 'host-local' } }),
    ).toMatchObject({
      name: 'one',
      cniVersion: '0.3.1',
      plugins: [{ type: 'ptp', ipam: { type: 'host-local' } }],
    });
  });

  test('lists versions, of which the newest supported one is used', () => {
    expect(parse({ ...list, cniVersions: ['0.4.0', '1.1.0', '9.0.0'] })).toMatchObject({
      cniVersion: '1.1.0',
      offered: ['0.4.0', '1.0.0', '1.1.0'],
    });
  });

  test('may have its flags as strings', () => {
    expect(parse({ ...list, disableCheck: 'true', disableGC: true })).toMatchObject({
      disableCheck: true,
      disableGC: true,
    });
  });

  test.each([
    ['{"cniVersion": "1.0.0",', /10-pods.conflist: .*JSON/],
    ['[]', /\(top\)/],
    ['null', /\(top\)/],
    [JSON.stringify({ ...list, name: undefined }), /name:/],
    [JSON.stringify({ ...list, name: '../up' }), /name: must be letters/],
    [JSON.stringify({ ...list, plugins: [] }), /plugins: must name a plugin/],
    [JSON.stringify({ ...list, plugins: [{ bridge: 'b0' }] }), /plugins\.0\.type:/],
    [
      JSON.stringify({ ...list, plugins: [{ type: '../../bin/sh' }] }),
      /plugins\.0\.type: must be the name of a program/,
    ],
    [
      JSON.stringify({ ...list, plugins: [{ type: '..' }] }),
      /plugins\.0\.type: must be the name of a program/,
    ],
    [JSON.stringify({ ...list, cniVersion: '2.0.0' }), /cniVersion: 2\.0\.0 is not one of/],
    [JSON.stringify({ ...list, cniVersion: 1 }), /cniVersion:/],
  ])('that is invalid is refused with the location: %s', (text, message) => {
    const attempt = () => parseConflist(text, '/etc/cni/net.d/10-pods.conflist');
    expect(attempt).toThrow(message);
    expect(attempt).toThrow(expect.objectContaining({ id: 'CniConfigInvalid' }));
  });

  test('knows its age', () => {
    expect(atLeast(parse(list), '0.4.0')).toBe(true);
    expect(atLeast(parse(list), '1.1.0')).toBe(false);
  });
});

test('the first valid configuration of a folder is used, with the errors of those before it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'crisp-conflist-'));
  try {
    expect(await findNetwork(join(folder, 'absent'))).toEqual({
      network: undefined,
      file: '',
      text: '',
      problems: [],
    });
    await writeFile(join(folder, '01-huge.conf'), `${' '.repeat(1024 * 1024)}{}`);
    expect((await findNetwork(folder)).problems).toEqual([expect.stringContaining('larger than 1048576')]);
    await rm(join(folder, '01-huge.conf'));
    await writeFile(join(folder, '05-broken.conf'), '{');
    await writeFile(join(folder, '20-late.conflist'), JSON.stringify({ ...list, name: 'late' }));
    await writeFile(join(folder, '10-early.conflist'), JSON.stringify({ ...list, name: 'early' }));
    await writeFile(join(folder, '00-kubeconfig'), 'no configuration');
    const found = await findNetwork(folder);
    expect(found.network?.name).toBe('early');
    expect(found.problems).toEqual([expect.stringContaining('05-broken.conf')]);
  } finally {
    await rm(folder, { recursive: true });
  }
});

describe('the configuration of a plugin', () => {
  const network = parse({
    ...list,
    plugins: [
      {
        type: 'portmap',
        snat: true,
        name: 'overridden',
        'cni.dev/own': 1,
        capabilities: { portMappings: true, bandwidth: false },
      },
    ],
  });
  const [plugin = { type: '' }] = network.plugins;

  test('is its own section, with the name of the list, without our keys', () => {
    expect(JSON.parse(pluginInput(network, plugin))).toEqual({
      type: 'portmap',
      snat: true,
      name: 'pods',
      cniVersion: '1.0.0',
    });
  });

  test('has only the runtime values that it supports', () => {
    expect(
      JSON.parse(
        pluginInput(network, plugin, {
          runtimeConfig: { portMappings: [1], bandwidth: {}, ips: [] },
          prevResult: { ips: [] },
        }),
      ),
    ).toMatchObject({ runtimeConfig: { portMappings: [1] }, prevResult: { ips: [] } });
    expect(JSON.parse(pluginInput(network, plugin, { runtimeConfig: { bandwidth: {} } }))).not.toHaveProperty(
      'runtimeConfig',
    );
  });
});

test('the addresses of a pod are those of its own interfaces, in the order of the plugin', () => {
  const interfaces = [{ name: 'cni0' }, { name: 'eth0', sandbox: '/run/netns/a' }];
  expect(
    podAddresses(
      {
        interfaces,
        ips: [
          { address: '10.0.0.1/24', interface: 0 },
          { address: 'fd00::5/64', interface: 1 },
          { address: '10.0.0.5/24', interface: 1 },
          { address: '10.0.0.5/24' },
        ],
      },
      'eth0',
    ),
  ).toEqual(['fd00::5', '10.0.0.5']);
  expect(podAddresses({}, 'eth0')).toEqual([]);
  expect(podAddresses({ ips: [{ address: '10.0.0.7/24' }] }, 'eth0')).toEqual(['10.0.0.7']); // of no interface
});

test('of several interfaces of a pod, the requested one has its addresses', () => {
  const [net1, eth0] = [
    { name: 'net1', sandbox: '/run/netns/a' },
    { name: 'eth0', sandbox: '/run/netns/a' },
  ];
  const ips = [
    { address: '192.168.7.5/24', interface: 0 },
    { address: '10.0.0.5/24', interface: 1 },
  ];
  expect(podAddresses({ interfaces: [net1, eth0], ips }, 'eth0')).toEqual(['10.0.0.5']);
  expect(podAddresses({ interfaces: [net1, { ...eth0, name: 'net2' }], ips }, 'eth0')).toEqual([
    '192.168.7.5',
    '10.0.0.5',
  ]);
});

describe('a conflist template', () => {
  const template = JSON.stringify({
    cniVersion: '1.0.0',
    name: 'pods',
    plugins: [
      {
        type: 'bridge',
        first: '{{.PodCIDR}}',
        ipam: { type: 'host-local', ranges: '{{.PodCIDRRanges}}', routes: '{{.Routes}}' },
      },
    ],
  });

  test('gets the ranges of the node', () => {
    expect(JSON.parse(renderTemplate(template, '10.1.0.0/24, fd00:1::/64', 't'))).toMatchObject({
      plugins: [
        {
          first: '10.1.0.0/24',
          ipam: {
            ranges: [[{ subnet: '10.1.0.0/24' }], [{ subnet: 'fd00:1::/64' }]],
            routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
          },
        },
      ],
    });
  });

  test.each(['10.1.0.1/32', 'fd00::1/128', '0.0.0.0/0'])('takes the whole width of a prefix: %s', (cidr) => {
    expect(renderTemplate(template, cidr, 't')).toContain(`"subnet": "${cidr}"`);
  });

  test.each([
    '',
    '10.1.0.0',
    '10.1.0.0/33',
    'fd00::/129',
    '10.1.0/24',
    '10.1.0.0/24,',
    '10.1.0.0/24/1',
    '","x":"',
  ])('refuses the range "%s"', (cidr) => {
    expect(() => renderTemplate(template, cidr, 't')).toThrow(
      expect.objectContaining({ id: 'InvalidArgument' }),
    );
  });

  test.each(['{', '{}', '{"name":"{{.PodCIDR}}"}'])(
    'that gives an invalid conflist is refused: %s',
    (broken) => {
      expect(() => renderTemplate(broken, '10.1.0.0/24', 't')).toThrow(
        expect.objectContaining({ id: 'CniConfigInvalid' }),
      );
    },
  );
});

test('an attachment without a result is read back: its DEL needs the ports', () => {
  const noted = {
    ips: [],
    containerId: 'one',
    interfaceName: 'eth0',
    network: {
      name: 'net',
      cniVersion: '1.0.0',
      offered: ['1.0.0'],
      disableCheck: false,
      disableGC: false,
      plugins: [{ type: 'portmap', capabilities: { portMappings: true } }],
    },
    runtimeConfig: { portMappings: [{ hostPort: 80 }] },
    result: undefined,
  };
  expect(attachmentSchema.parse(JSON.parse(JSON.stringify(noted)))).toEqual(noted);
});

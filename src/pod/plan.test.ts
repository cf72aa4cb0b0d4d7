import { describe, expect, test } from '@jest/globals';
import { podSandboxConfigOf } from '../cri/proto.js';
import {
  checkedConfig,
  checkOwnNetwork,
  ownsCgroup,
  planOf,
  podNetwork,
  sharesPids,
  userNamespace,
  wantedNamespaces,
} from './plan.js';
import { idMap, specIdMap } from '../../test/helpers/user-namespaces.js';

const id = 'a'.repeat(64);
const metadata = { name: 'web', namespace: 'shop', uid: 'u1', attempt: 3 };
const configOf = (more: object = {}) => podSandboxConfigOf({ metadata, ...more });
const withOptions = (options: object) =>
  configOf({ linux: { security_context: { namespace_options: options } } });
const networkOf = (more: object) =>
  podNetwork(planOf('/state', id, configOf(more), false), configOf(more), '/netns');

describe('the network of a pod', () => {
  test('has the name of the pod and its namespace path', () => {
    expect(networkOf({ annotations: { a: 'b' }, linux: { cgroup_parent: '/theirs' } })).toEqual({
      id,
      name: 'web',
      namespace: 'shop',
      uid: 'u1',
      netns: '/netns',
      annotations: { a: 'b' },
      cgroupParent: '/theirs',
      portMappings: [],
    });
  });

  test('maps each port with its protocol, to the requested address', () => {
    const port_mappings = [
      { protocol: 'TCP', container_port: 80, host_port: 8080, host_ip: '127.0.0.1' },
      { protocol: 'UDP', container_port: 53, host_port: 5353, host_ip: '' },
      { protocol: 'SCTP', container_port: 9, host_port: 9009, host_ip: '::1' },
      { protocol: 'TCP', container_port: 81, host_port: 0, host_ip: '' },
    ];
    expect(networkOf({ port_mappings }).portMappings).toEqual([
      { protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '127.0.0.1' },
      { protocol: 'udp', containerPort: 53, hostPort: 5353, hostIp: '' },
      { protocol: 'sctp', containerPort: 9, hostPort: 9009, hostIp: '::1' },
    ]);
  });

  test.each([
    ['10M', 10e6],
    ['1k', 1e3],
    ['2G', 2e9],
    ['3T', 3e12],
    ['1Ki', 1024],
    ['1.5Mi', 1.5 * 1024 ** 2],
    ['2Gi', 2 * 1024 ** 3],
    ['1Ti', 1024 ** 4],
    ['1500000', 1_500_000],
    ['0.5', 1],
    ['15e5', 1_500_000],
  ])('has a bandwidth of %s', (text, bits) => {
    const ingress = networkOf({ annotations: { 'kubernetes.io/ingress-bandwidth': text } });
    expect(ingress.bandwidth).toEqual({ ingressBitsPerSecond: bits });
    const egress = networkOf({ annotations: { 'kubernetes.io/egress-bandwidth': text } });
    expect(egress.bandwidth).toEqual({ egressBitsPerSecond: bits });
  });

  test('can have a different bandwidth in each direction, or none', () => {
    const annotations = { 'kubernetes.io/ingress-bandwidth': '1M', 'kubernetes.io/egress-bandwidth': '2M' };
    expect(networkOf({ annotations }).bandwidth).toEqual({
      ingressBitsPerSecond: 1e6,
      egressBitsPerSecond: 2e6,
    });
    expect(networkOf({}).bandwidth).toBeUndefined();
  });

  test.each(['', 'fast', '-1M', '1MB', '1e30'])('refuses a bandwidth of "%s"', (text) => {
    expect(() => networkOf({ annotations: { 'kubernetes.io/egress-bandwidth': text } })).toThrow(
      expect.objectContaining({
        id: 'InvalidArgument',
        message: expect.stringContaining('egress-bandwidth'),
      }),
    );
  });

  test('has the DNS settings of the pod', () => {
    const dns_config = { servers: ['10.0.0.1'], searches: ['a.b'], options: ['ndots:5'] };
    expect(networkOf({ dns_config }).dns).toMatchObject(dns_config);
  });
});

describe('ids of a user namespace', () => {
  const [uids, gids] = [idMap(100_000), idMap(300_000)];
  test('are user ids for users, and group ids for groups', () => {
    expect(userNamespace(withOptions({ userns_options: { mode: 'POD', uids, gids } }))).toEqual({
      uids: specIdMap(100_000),
      gids: specIdMap(300_000),
    });
  });
  test('are empty if none are requested', () => {
    expect(userNamespace(configOf())).toBeUndefined();
    expect(userNamespace(withOptions({ userns_options: { mode: 'NODE' } }))).toBeUndefined();
  });
});

test('a pod has the namespaces that it does not share with the node', () => {
  expect(wantedNamespaces(configOf())).toEqual({ network: true, ipc: true, uts: true });
  expect(wantedNamespaces(withOptions({ network: 'NODE', ipc: 'POD' }))).toEqual({
    network: false,
    ipc: true,
    uts: false,
  });
  expect(wantedNamespaces(withOptions({ network: 'POD', ipc: 'NODE' }))).toEqual({
    network: true,
    ipc: false,
    uts: true,
  });
});

test.each([
  ['POD', true],
  ['CONTAINER', false],
  ['NODE', false],
])('with pid %s its containers see each other: %s', (pid, shares) => {
  expect(sharesPids(withOptions({ pid }))).toBe(shares);
});

test('a plan depends only on the request and its id', () => {
  const config = configOf({ hostname: 'box', labels: { a: '1' }, annotations: { b: '2' } });
  expect(planOf('/state', id, config, false)).toEqual({
    id,
    ...metadata,
    labels: { a: '1' },
    annotations: { b: '2' },
    hostname: 'box',
    folder: `/state/pods/${id}`,
    namespaces: {},
    cgroupParent: `/crisp/${id}`,
  });
  expect(planOf('/state', id, config, true).cgroupParent).toMatch(/\.slice$/);
});

test('a cgroup that the request names is not owned by the pod', () => {
  const theirs = configOf({ linux: { cgroup_parent: '/kubepods/pod1' } });
  expect(planOf('/state', id, theirs, false).cgroupParent).toBe('/kubepods/pod1');
  expect([ownsCgroup(theirs), ownsCgroup(configOf())]).toEqual([false, true]);
});

describe('a request is refused', () => {
  const own = (more: object) => configOf({ log_directory: '/var/log/x', ...more });
  test.each<[string, object, RegExp]>([
    ['without a name', { metadata: { ...metadata, name: '' } }, /metadata\.name/],
    ['without a namespace', { metadata: { ...metadata, namespace: '' } }, /metadata\.namespace/],
    ['without a uid', { metadata: { ...metadata, uid: '' } }, /metadata\.uid/],
    ['with a plugin argument in its uid', { metadata: { ...metadata, uid: 'a;B=c' } }, /metadata\.uid/],
    [
      'with a plugin argument in its namespace',
      { metadata: { ...metadata, namespace: 'a;B=c' } },
      /metadata\.namespace/,
    ],
    ['with a relative log folder', { log_directory: 'logs' }, /log_directory/],
    ['with a hostname that ends with a dash', { hostname: 'box-' }, /hostname/],
    ['with a hostname that begins with a dot', { hostname: '.box' }, /hostname/],
    ['with a cgroup outside', { linux: { cgroup_parent: '/a/../..' } }, /cgroup_parent/],
    ['with a cgroup that has "." as a part', { linux: { cgroup_parent: '/a/./b' } }, /cgroup_parent/],
    [
      'with a cgroup that is too long',
      { linux: { cgroup_parent: `/${'a/'.repeat(1537)}` } },
      /cgroup_parent/,
    ],
    ['with a sysctl of the node', { linux: { sysctls: { 'vm.swappiness': '1' } } }, /swappiness/],
  ])('%s', (_, more, words) => {
    expect(() => checkedConfig(own(more))).toThrow(
      expect.objectContaining({ id: 'InvalidArgument', message: expect.stringMatching(words) }),
    );
  });
  test.each<[string, object, RegExp]>([
    ['with a network of a container', { network: 'CONTAINER' }, /network/],
    ['with an ipc of a container', { ipc: 'CONTAINER' }, /ipc/],
    ['with the pids of another', { pid: 'TARGET' }, /pid/],
    ['with a user namespace without mappings', { userns_options: { mode: 'POD' } }, /userns_options/],
  ])('%s', (_, options, words) => {
    expect(() => checkedConfig(withOptions(options))).toThrow(
      expect.objectContaining({ id: 'InvalidArgument', message: expect.stringMatching(words) }),
    );
  });
  test('and a complete one is accepted', () => {
    const config = own({ hostname: 'a_b-c.d', linux: { cgroup_parent: '/kubepods.slice/a-b@1' } });
    expect(checkedConfig(config)).toBe(config);
    for (const more of [
      { linux: { cgroup_parent: `/${'a/'.repeat(1535)}b` } }, // 3072 bytes
      { linux: { security_context: { namespace_options: { network: 'NODE', ipc: 'NODE' } } } },
      { linux: {} },
    ])
      expect(checkedConfig(own(more))).toBeDefined();
    expect(() => checkedConfig(null)).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
  });
});

test('settings that containers with their own network do not support are refused', () => {
  const refused = (field: RegExp) =>
    expect.objectContaining({ id: 'UnsupportedField', message: expect.stringMatching(field) });
  expect(() => checkOwnNetwork(configOf({ port_mappings: [{ container_port: 80, host_port: 80 }] }))).toThrow(
    refused(/host_port/),
  );
  for (const name of ['net.ipv4.ip_forward', 'net/ipv4/ip_forward'])
    expect(() => checkOwnNetwork(configOf({ linux: { sysctls: { [name]: '1' } } }))).toThrow(
      refused(/sysctls/),
    );
  checkOwnNetwork(
    configOf({ port_mappings: [{ container_port: 80 }], linux: { sysctls: { 'kernel.msgmax': '1' } } }),
  );
});

test.each<[object, boolean]>([
  [{ container_port: 1, host_port: 1 }, true],
  [{ container_port: 65_535, host_port: 65_535 }, true],
  [{ container_port: 0, host_port: 80 }, false],
  [{ container_port: 65_536, host_port: 80 }, false],
  [{ container_port: 80, host_port: 65_536 }, false],
  [{ container_port: 0, host_port: 0 }, true], // listed, and not mapped
  [{ container_port: 80, host_port: 80, host_ip: '::1' }, true],
  [{ container_port: 80, host_port: 80, host_ip: 'localhost' }, false],
])('the port mapping %j is a valid one: %p', (mapping, isValid) => {
  const check = () => checkedConfig(configOf({ port_mappings: [{ protocol: 'TCP', ...mapping }] }));
  if (isValid) expect(check).not.toThrow();
  else expect(check).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
});

test.each([
  ['net.ipv4.ip_forward', { network: 'POD', ipc: 'POD' }, true],
  ['net.ipv4.ip_forward', { network: 'NODE', ipc: 'POD' }, false],
  ['kernel.shmmax', { network: 'POD', ipc: 'POD' }, true],
  ['kernel.shmmax', { network: 'POD', ipc: 'NODE' }, false],
])('the sysctl %s with the namespaces %j is allowed: %p', (name, namespace_options, isAllowed) => {
  const check = () =>
    checkedConfig(configOf({ linux: { sysctls: { [name]: '1' }, security_context: { namespace_options } } }));
  if (isAllowed) expect(check).not.toThrow();
  else expect(check).toThrow();
});

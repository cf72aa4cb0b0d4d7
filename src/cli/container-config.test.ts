import { describe, expect, test } from '@jest/globals';
import { resolve } from 'node:path';
import { type CrispError } from '../errors.js';
import {
  bytes,
  containerConfig,
  pairs,
  portMapping,
  tmpfsMount,
  type ContainerWish,
} from './container-config.js';
import { CriJson } from './cri-json.js';
import { containerArgs } from '../oci/process.js';

const wish: ContainerWish = {
  name: 'web',
  image: 'busybox',
  command: ['ls'],
  entrypoint: undefined,
  initProgram: undefined,
  'read-only': false,
  'cap-add': [],
  'cap-drop': [],
  privileged: false,
  publish: [],
  env: ['A=b=c'],
  volume: ['/etc:/mnt:ro', '/srv:/srv'],
  label: ['k=v'],
  annotation: [],
  workdir: '/tmp',
  memory: '64m',
  cpus: '0.5',
  network: 'host',
  interactive: true,
  tty: false,
};

test('the input of a terminal stays open when who is attached leaves, that of a pipe ends', () => {
  expect(containerConfig({ ...wish, tty: true }, {}, true)).toMatchObject({ stdin: true, stdin_once: false });
});

test('the flags become a whole CRI message', () => {
  const config = containerConfig(wish, {}, true);
  expect(new CriJson().container(config, 'made')).toEqual(config);
  expect(config).toMatchObject({
    args: ['ls'],
    working_dir: '/tmp',
    labels: { k: 'v' },
    stdin: true,
    stdin_once: true,
    tty: false,
    envs: [{ key: 'A', value: Buffer.from('b=c') }],
    mounts: [
      { host_path: '/etc', container_path: '/mnt', readonly: true },
      { host_path: '/srv', readonly: false },
    ],
    linux: {
      resources: { cpu_quota: '50000', memory_limit_in_bytes: String(64 << 20) },
      security_context: {
        namespace_options: { network: 'NODE' },
        seccomp: { profile_type: 'RuntimeDefault' },
      },
    },
  });
});

test.each<[string, Partial<ContainerWish>]>([
  ['--volume', { volume: ['etc:/mnt'] }],
  ['--entrypoint', { entrypoint: '[1]' }],
  ['--entrypoint', { entrypoint: '', command: [] }],
  ['--entrypoint', { entrypoint: '["ls"' }],
  ['--volume', { volume: ['/etc'] }],
  ['--volume', { volume: ['/a:/b:rw:x'] }],
  ['--volume', { volume: ['/a:/b:exec'] }],
  ['--cpus', { cpus: 'many' }],
  ['--cpus', { cpus: '-1' }],
  ['--memory', { memory: '64x' }],
  ['--label', { label: ['x'] }],
])('%s is checked (%#)', (flag, over) => {
  let error: unknown;
  try {
    containerConfig({ ...wish, ...over }, {}, true);
  } catch (thrown) {
    error = thrown;
  }
  expect((error as CrispError).id).toBe('InvalidArgument');
  expect((error as CrispError).message).toContain(flag);
});

test.each([
  ['1', 1],
  ['1k', 1024],
  ['1.5g', 1.5 * 2 ** 30],
  ['2M', 2 ** 21],
  ['1t', 2 ** 40],
])('%s bytes', (text, value) => {
  expect(bytes(text)).toBe(value);
});
test('pairs', () => {
  expect(pairs(['a=1', 'b=x=y'], '--label')).toEqual({ a: '1', b: 'x=y' });
});

describe('what runs', () => {
  const image = { Entrypoint: ['/start'], Cmd: ['serve'] };
  test.each<[string, Partial<ContainerWish>, string[]]>([
    ['all of the image', { command: [] }, ['/start', 'serve']],
    ['another Cmd', {}, ['/start', 'ls']],
    ['another Entrypoint drops the Cmd', { entrypoint: '/x', command: [] }, ['/x']],
    ['both', { entrypoint: '["/x", "-v"]' }, ['/x', '-v', 'ls']],
    ['no Entrypoint', { entrypoint: '' }, ['ls']],
    ['behind an init', { initProgram: '/usr/bin/catatonit' }, ['/run/crisp-init', '--', '/start', 'ls']],
    [
      'all of the image behind an init',
      { initProgram: '/usr/bin/catatonit', command: [] },
      ['/run/crisp-init', '--', '/start', 'serve'],
    ],
  ])('%s', (_, over, words) => {
    expect(containerArgs(containerConfig({ ...wish, ...over }, image, true), image)).toEqual(words);
  });
});

test('the folder of a volume is taken from here', () => {
  const { mounts } = containerConfig({ ...wish, volume: ['./a:/b', '..:/c'] }, {}, true);
  expect(mounts.map((mount) => mount.host_path)).toEqual([resolve('a'), resolve('..')]);
});

test('a privileged container has no filter, and nothing hidden', () => {
  expect(containerConfig({ ...wish, privileged: true }, {}, true).linux?.security_context).toMatchObject({
    privileged: true,
    seccomp: { profile_type: 'Unconfined' },
    masked_paths: [],
    readonly_paths: [],
  });
});

test.each([
  ['8080:80', { host_ip: '', host_port: 8080, container_port: 80, protocol: 'TCP' }],
  ['127.0.0.1:53:5353/udp', { host_ip: '127.0.0.1', host_port: 53, container_port: 5353, protocol: 'UDP' }],
  ['[::1]:1:2/sctp', { host_ip: '::1', host_port: 1, container_port: 2, protocol: 'SCTP' }],
])('--publish %s', (text, mapping) => {
  expect(portMapping(text)).toEqual(mapping);
});
test.each(['80', '0:80', '80:70000', 'host:1:2', '1.2.3:1:2', '1:2/icmp', '1-2:3-4', ''])(
  '--publish "%s" is refused',
  (text) => {
    expect(() => portMapping(text)).toThrow(/--publish/);
  },
);

test('--tmpfs', () => {
  expect(tmpfsMount('/tmp')).toEqual({
    destination: '/tmp',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'nodev', 'noexec'],
  });
  expect(tmpfsMount('/x:size=1m,exec').options).toEqual(['nosuid', 'nodev', 'size=1m', 'exec']);
  for (const text of ['tmp', '/a/../b', '/a:b:c']) expect(() => tmpfsMount(text)).toThrow(/--tmpfs/);
});

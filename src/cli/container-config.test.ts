import { expect, test } from '@jest/globals';
import { type CrispError } from '../errors.js';
import { bytes, containerConfig, pairs, type ContainerWish } from './container-config.js';
import { CriJson } from './cri-json.js';

const wish: ContainerWish = {
  name: 'web',
  image: 'busybox',
  command: ['ls'],
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

test('the flags become a whole CRI message', () => {
  const config = containerConfig(wish, true);
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
  ['--env', { env: ['A'] }],
  ['--env', { env: ['=x'] }],
  ['--volume', { volume: ['etc:/mnt'] }],
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
    containerConfig({ ...wish, ...over }, true);
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

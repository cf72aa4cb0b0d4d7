import { describe, expect, jest, test } from '@jest/globals';
import { CrispError } from '../errors.js';
import { isLoopback, looksLikeId, parseReference, pinPattern } from './references.js';

const digest = `sha256:${'a'.repeat(64)}`;
const thrown = (work: () => unknown): unknown => {
  try {
    return work();
  } catch (error) {
    return error instanceof CrispError ? error.id : error;
  }
};

describe('parseReference', () => {
  test.each([
    ['busybox', 'docker.io/library/busybox:latest'],
    ['busybox:1.36', 'docker.io/library/busybox:1.36'],
    ['me/app', 'docker.io/me/app:latest'],
    ['docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['index.docker.io/busybox:1', 'docker.io/library/busybox:1'],
    ['index.docker.io/me/app', 'docker.io/me/app:latest'],
    ['quay.io/busybox', 'quay.io/busybox:latest'],
    ['localhost/app', 'localhost/app:latest'],
    ['localhost:5000/app', 'localhost:5000/app:latest'],
    ['127.0.0.1:5000/a/b/c:v1', '127.0.0.1:5000/a/b/c:v1'],
    ['[::1]:5000/app', '[::1]:5000/app:latest'],
    ['registry.k8s.io/pause:3.10', 'registry.k8s.io/pause:3.10'],
    ['a__b/c-d.e_f:T.a-g_1', 'docker.io/a__b/c-d.e_f:T.a-g_1'],
    [`busybox@${digest}`, `docker.io/library/busybox@${digest}`],
    [`quay.io/app:1@${digest}`, `quay.io/app@${digest}`],
  ])('%s is %s', (text, name) => {
    expect(parseReference(text).name).toBe(name);
  });

  test('returns the parts', () => {
    expect(parseReference(`localhost:5000/app:1@${digest}`)).toEqual({
      repository: 'localhost:5000/app',
      tag: '1',
      digest,
      name: `localhost:5000/app@${digest}`,
    });
    expect(parseReference('app')).toEqual({
      repository: 'docker.io/library/app',
      tag: 'latest',
      digest: undefined,
      name: 'docker.io/library/app:latest',
    });
  });

  test.each([
    '',
    ' ',
    ':',
    '/',
    'a b',
    'UPPER',
    'UPPER/case',
    'app:',
    'app:-x',
    `app:${'t'.repeat(129)}`,
    'a//b',
    '/app',
    'app/',
    '-app',
    'a---/b/',
    'a..b',
    'a___b',
    'app@',
    'app@sha256:short',
    `app@${digest}@${digest}`,
    `app@md5:${'a'.repeat(32)}`,
    'docker://app',
    'https://quay.io/app',
    'app\n',
    '../app',
    '$(reboot)',
    'quay.io:port/app',
    '--policy',
  ])('refuses %j', (text) => {
    expect(thrown(() => parseReference(text))).toBe('InvalidArgument');
  });

  test('names the prefix of other tools', () => {
    expect(() => parseReference('docker://app')).toThrow('leave out "docker://"');
  });

  test('refuses long names before matching patterns', () => {
    const matched = jest.spyOn(RegExp.prototype, 'test');
    try {
      for (const text of [
        'a-'.repeat(50_000),
        'a'.repeat(100_000),
        `${'a/'.repeat(50_000)}!`,
        '_'.repeat(100_000),
      ])
        expect(thrown(() => parseReference(text))).toBe('InvalidArgument');
      expect(matched).not.toHaveBeenCalled();
    } finally {
      matched.mockRestore();
    }
  });
});

test.each([
  [digest, true],
  ['a'.repeat(64), true],
  ['a'.repeat(12), true],
  [`sha256:${'b'.repeat(13)}`, true],
  ['a'.repeat(11), false],
  ['a'.repeat(65), false],
  ['busybox', false],
  ['sha256', false],
])('looksLikeId(%j) is %j', (text, expected) => {
  expect(looksLikeId(text)).toBe(expected);
});

describe('pinPattern', () => {
  test('accepts a reference in all its forms', () => {
    expect(pinPattern('pause:3')('docker.io/library/pause:3')).toBe(true);
    expect(pinPattern('pause:3')('docker.io/library/pause:31')).toBe(false);
  });
  test('accepts the beginning of a name', () => {
    expect(pinPattern('registry.k8s.io/*')('registry.k8s.io/pause:3')).toBe(true);
    expect(pinPattern('registry.k8s.io/*')('docker.io/registry.k8s.io/pause:3')).toBe(false);
  });
  test('refuses anything else, and names the key', () => {
    expect(thrown(() => pinPattern('Not An Image'))).toBe('InvalidConfigFile');
    expect(() => pinPattern('Not An Image')).toThrow(/^images\.pinned: /);
  });
});

test.each([
  [`quay.io/${'a'.repeat(250)}`],
  ['a/'.repeat(2000)],
  [`busybox:${'1'.repeat(5000)}`],
  [`pve/local:vztmpl/${'a'.repeat(5000)}.tar`],
])('a name that is too long is refused: %#', (text) => {
  expect(() => parseReference(text)).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
});

test.each([
  ['localhost', true],
  ['127.0.0.1', true],
  ['127.255.3.4', true],
  ['[::1]', true],
  ['127.0.0.1.example.com', false],
  ['127.0.0.256', false],
  ['localhost.example.com', false],
  ['10.0.0.1', false],
])('%s is on this machine: %s', (host, expected) => {
  expect(isLoopback(host)).toBe(expected);
});

import { expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { deflateRawSync } from 'node:zlib';
import { pack, unpack, type Keepsake } from './recovery-label.js';

function keepsake(annotations: Record<string, string> = {}): Keepsake {
  const labels = { 'io.kubernetes.pod.name': 'web' };
  return {
    sandbox: {
      version: 1,
      id: 'pod',
      config: { metadata: { name: 'web' }, labels, annotations },
      runtimeHandler: 'lxc',
      backend: 'lxc',
      rule: 'handler',
      bootId: 'b',
      complete: true,
      createdAt: '1',
      plan: { id: 'pod', annotations },
    },
    container: {
      version: 1,
      id: 'one',
      sandboxId: 'pod',
      config: { envs: [{ key: 'PASSWORD', value: 'secret' }], annotations: { hash: 'abc' } },
      backend: 'lxc',
      bootId: 'b',
      complete: true,
      imageId: 'i',
      imageRef: 'i@sha256:1',
      imageVolumes: {},
      folder: '/f',
      logPath: '/l',
      stopSignal: 'SIGTERM',
      user: { uid: 0, gid: 0, supplementalGroups: [] },
      notHonoured: [],
      createdAt: '1',
    },
  } as unknown as Keepsake;
}

test('both records come back, without the environment', () => {
  const line = pack(keepsake({ 'kubernetes.io/config.seen': 'today' })) ?? '';
  expect(line).toMatch(/^[\w+/=]+$/);
  const found = unpack(line);
  expect(found?.sandbox).toEqual(keepsake({ 'kubernetes.io/config.seen': 'today' }).sandbox);
  expect(found?.container.config).toEqual({ envs: [], annotations: { hash: 'abc' } });
  expect(found?.container.id).toBe('one');
});

test('a long annotation stays out, and what is still too long is none', () => {
  const found = unpack(
    pack(keepsake({ manifest: randomBytes(20_000).toString('hex'), short: 'kept' })) ?? '',
  );
  expect(found?.sandbox.config.annotations).toEqual({ short: 'kept' });
  const many = Object.fromEntries(
    Array.from({ length: 400 }, (_, index) => [`key-${index}`, randomBytes(16).toString('hex')]),
  );
  expect(pack(keepsake(many))).toBeUndefined();
});

test('what is no keepsake is none', () => {
  expect(unpack('')).toBeUndefined();
  expect(unpack('AAAA')).toBeUndefined();
  expect(unpack(deflateRawSync('{"sandbox":{},"container":{}}').toString('base64'))).toBeUndefined();
  expect(unpack(deflateRawSync(Buffer.alloc(8 << 20, ' ')).toString('base64'))).toBeUndefined(); // a bomb
});

import { expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { deflateRawSync } from 'node:zlib';
import { recoveryLabelOf, pack, unpack } from './recovery-label.js';

const [podId, containerId] = ['1'.repeat(64), '2'.repeat(64)];

type Records = Parameters<typeof pack>[0];

function recoveryLabel(annotations: Record<string, string> = {}): Records {
  const labels = { 'io.kubernetes.pod.name': 'web' };
  return {
    sandbox: {
      version: 1,
      id: podId,
      config: { metadata: { name: 'web' }, labels, annotations },
      runtimeHandler: 'lxc',
      handler: 'lxc',
      rule: 'handler',
      bootId: 'b',
      complete: true,
      createdAt: '1',
      plan: { id: podId, annotations, namespaces: { network: '/elsewhere' }, cgroupParent: '/g' },
    },
    container: {
      version: 1,
      id: containerId,
      sandboxId: podId,
      config: { envs: [{ key: 'PASSWORD', value: Buffer.from('secret') }], annotations: { hash: 'abc' } },
      handler: 'lxc',
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
  } as unknown as Records;
}

test('both records are restored, without the environment', () => {
  const line = pack(recoveryLabel({ 'kubernetes.io/config.seen': 'today' })) ?? '';
  expect(line).toMatch(/^[\w+/=]+$/);
  const found = unpack(line);
  expect(found?.sandbox).toMatchObject({
    id: podId,
    config: {
      metadata: { name: 'web' },
      labels: { 'io.kubernetes.pod.name': 'web' },
      annotations: { 'kubernetes.io/config.seen': 'today' },
    },
    runtimeHandler: 'lxc',
    rule: 'handler',
    createdAt: '1',
  });
  expect(found?.container.config).toMatchObject({ envs: [], annotations: { hash: 'abc' } });
  expect(found?.container.id).toBe(containerId);
  expect(recoveryLabelOf({ id: containerId, recoveryLabel: line })).toEqual(found);
});

test('a long annotation is omitted, and a label that is still too long is left out', () => {
  const found = unpack(
    pack(recoveryLabel({ manifest: randomBytes(20_000).toString('hex'), short: 'kept' })) ?? '',
  );
  expect(found?.sandbox.config.annotations).toEqual({ short: 'kept' });
  const many = Object.fromEntries(
    Array.from({ length: 400 }, (_, index) => [`key-${index}`, randomBytes(16).toString('hex')]),
  );
  expect(pack(recoveryLabel(many))).toBeUndefined();
});

test('an invalid recovery label is ignored', () => {
  expect(unpack('')).toBeUndefined();
  expect(unpack('AAAA')).toBeUndefined();
  expect(unpack(deflateRawSync('{"sandbox":{},"container":{}}').toString('base64'))).toBeUndefined();
  expect(unpack(deflateRawSync(Buffer.alloc(8 << 20, ' ')).toString('base64'))).toBeUndefined(); // a bomb
});

test('a modified label is not accepted', () => {
  const kept = recoveryLabel();
  const line = (change: (records: { sandbox: object; container: object }) => object): string =>
    deflateRawSync(JSON.stringify(change(kept))).toString('base64');
  const of = (text: string | undefined) => recoveryLabelOf({ id: containerId, recoveryLabel: text });
  expect(of(undefined)).toBeUndefined();
  expect(of('forged')).toBe('unreadable');
  expect(recoveryLabelOf({ id: podId, recoveryLabel: line((records) => records) })).toBe('unreadable'); // another's
  for (const bad of [
    { container: { ...kept.container, id: '../../../x' } },
    { container: { ...kept.container, sandboxId: '3'.repeat(64) } },
    { sandbox: { ...kept.sandbox, id: '../x' } },
    { sandbox: { ...kept.sandbox, version: 2 } },
    { sandbox: { ...kept.sandbox, config: 'none' } },
    { sandbox: { ...kept.sandbox, config: { labels: 5 } } },
    { sandbox: { ...kept.sandbox, holder: { pid: 1, startTime: '1' } } },
    {
      sandbox: {
        ...kept.sandbox,
        attachment: {
          ips: [],
          containerId: podId,
          interfaceName: 'eth0',
          network: {
            name: 'n',
            cniVersion: '1.0.0',
            offered: [],
            disableCheck: false,
            disableGC: false,
            plugins: [{ type: '../../../tmp/x' }],
          },
          runtimeConfig: {},
        },
      },
    },
  ])
    expect(of(line((records) => ({ ...records, ...bad })))).toBe('unreadable');
});

import { expect, test } from '@jest/globals';
import { refuseNul } from './request-text.js';

test.each<[string, object]>([
  ['name', { name: 'a\0b' }],
  ['config.mounts[1].host_path', { config: { mounts: [{ host_path: '/a' }, { host_path: '/b\0' }] } }],
  ['config.labels.app', { config: { labels: { app: '\0' } } }],
  ['config.labels', { config: { labels: { 'a\0': 'b' } } }],
])('%s with a NUL byte is named', (field, request) => {
  expect(() => refuseNul(request)).toThrow(
    expect.objectContaining({
      id: 'InvalidArgument',
      message: expect.stringMatching(`^${field.replace(/[[\]]/g, '\\$&')} `),
    }),
  );
});

test('everything else passes', () => {
  refuseNul({ text: 'a\nb', bytes: Buffer.from('a\0'), none: null, list: ['x'], number: 1, yes: true });
  refuseNul(undefined);
});

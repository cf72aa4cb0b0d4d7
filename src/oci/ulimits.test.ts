import { expect, test } from '@jest/globals';
import { configSchema } from '../config/config.js';
import { containerRlimits } from './ulimits.js';

const limits =
  'Limit                     Soft Limit           Hard Limit           Units     \nMax core file size        0                    unlimited            bytes     \nMax open files            1048576              1048576              files     \n';

test('without a setting the limit of open files is that of the service, not the one that Node raised', () => {
  expect(containerRlimits({}, '1024', limits)).toEqual([
    { type: 'RLIMIT_NOFILE', soft: 1024, hard: 1_048_576 },
  ]);
});

test('without bin/crisp the original limit is unknown', () => {
  for (const given of [undefined, '', 'unlimited']) expect(containerRlimits({}, given, limits)).toEqual([]);
});

test('a setting overrides the default', () => {
  expect(containerRlimits({ nofile: '2048:4096', core: '0' }, '1024', limits)).toEqual([
    { type: 'RLIMIT_NOFILE', soft: 2048, hard: 4096 },
    { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
  ]);
});

test.each([
  { nofile: 'many' },
  { nofile: '2:1' },
  { nofile: '1:2:3' },
  { nofile: 1024 },
  { files: '1:2' },
  { nofile: '9007199254740993' },
])('%j is not a valid setting', (default_ulimits) => {
  expect(configSchema.safeParse({ runtime: { default_ulimits } }).success).toBe(false);
});
test('a setting is a pair or a number', () => {
  expect(
    configSchema.parse({ runtime: { default_ulimits: { nofile: '1:2', core: '0' } } }).runtime,
  ).toMatchObject({
    default_ulimits: { nofile: '1:2', core: '0' },
  });
});

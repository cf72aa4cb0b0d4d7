import { expect, test } from '@jest/globals';
import { checkedPath } from './paths.js';

const name = (length: number): string => 'n'.repeat(length);
/** A path of so many bytes, of names that are not too long. */
const path = (length: number): string =>
  `${`/${name(99)}`.repeat(Math.floor(length / 100))}/${name(200)}`.slice(0, length);

test.each(['/', '/a', '/a/../b', `/a/${name(255)}/b`, `/${'é'.repeat(127)}`, path(4095)])(
  'a path is used unchanged: %#',
  (given) => {
    expect(checkedPath(given, 'field')).toBe(given);
  },
);

test.each([
  ['', 'absolute'],
  ['a', 'absolute'],
  ['/a\0b', 'NUL'],
  [path(4096), '4095 bytes'],
  [`/a/${name(256)}`, '255 bytes'],
  [`/${'é'.repeat(128)}`, '255 bytes'],
])('a path that the kernel would refuse is refused, naming the field: %#', (given, why) => {
  expect(() => checkedPath(given, 'mounts[0].host_path')).toThrow(
    expect.objectContaining({
      id: 'InvalidArgument',
      message: expect.stringMatching(new RegExp(`^mounts\\[0\\]\\.host_path: .*${why}`)),
    }),
  );
});

import { expect, test } from '@jest/globals';
import { paginate } from './paginate.js';

test.each([
  [0, [0]],
  [1, [1]],
  [500, [500]],
  [501, [500, 1]],
  [1_200, [500, 500, 200]],
])('a list of %d items has pages of %j', (count, sizes) => {
  const items = Array.from({ length: count }, (_, index) => index);
  const pages = [...paginate(items)];
  expect(pages.map(({ length }) => length)).toEqual(sizes);
  expect(pages.flat()).toEqual(items);
});

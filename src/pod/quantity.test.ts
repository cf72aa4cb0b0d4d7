import { expect, test } from '@jest/globals';
import { quantity } from './quantity.js';

test.each<[string | number, number]>([
  [2, 2],
  ['1.5', 1.5],
  ['3e2', 300],
  ['500m', 0.5],
  ['7u', 7e-6],
  ['7n', 7e-9],
  ['7k', 7_000],
  ['7M', 7_000_000],
  ['7G', 7_000_000_000],
  ['7T', 7_000_000_000_000],
  ['7P', 7_000_000_000_000_000],
  ['7E', 7_000_000_000_000_000_000],
  ['7Ki', 7 * 1_024],
  ['7Mi', 7 * 1_048_576],
  ['7Gi', 7 * 1_073_741_824],
  ['7Ti', 7 * 1_099_511_627_776],
  ['7Pi', 7 * 1_125_899_906_842_624],
  ['7Ei', 7 * 1_152_921_504_606_846_976],
])('%j is %d', (text, number) => {
  expect(quantity(text)).toBeCloseTo(number, 12);
});

test.each(['', 'M', '7x', '7mi', '-1', '1 M', '1..2', 'toString', '1toString'])(
  '%j is no quantity',
  (text) => {
    expect(quantity(text)).toBeNaN();
  },
);

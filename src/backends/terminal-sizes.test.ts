import { expect, test } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TerminalSize } from '../shapes/io.js';
import { followSizes } from './terminal-sizes.js';

test('the latest size is set last', async () => {
  const set: number[] = [];
  let tell = (_size: TerminalSize): void => undefined;
  followSizes(
    {
      onResize: (listener) => {
        tell = listener;
      },
    },
    async ({ width }) => {
      await sleep(width);
      set.push(width);
    },
  );
  for (const width of [30, 1, 10]) tell({ width, height: 1 });
  await sleep(80);
  expect(set).toEqual([30, 10]); // one at a time, and only the latest of several waiting sizes
});

test('sizes that arrive faster than they can be set are not queued', async () => {
  const set: number[] = [];
  let tell = (_size: TerminalSize): void => undefined;
  let go = (): void => undefined;
  followSizes(
    {
      onResize: (listener) => {
        tell = listener;
      },
    },
    ({ width }) =>
      new Promise((resolve) => {
        set.push(width);
        go = resolve;
      }),
  );
  for (let width = 1; width <= 100_000; width++) tell({ width, height: 1 });
  go();
  await sleep(0);
  go();
  await sleep(0);
  expect(set).toEqual([1, 100_000]);
});

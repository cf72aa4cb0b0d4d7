import { expect, test } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TerminalSize } from '../shapes/io.js';
import { followSizes } from './terminal-sizes.js';

test('the size that came last is set last', async () => {
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
  expect(set).toEqual([30, 1, 10]);
});

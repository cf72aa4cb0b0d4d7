import { beforeAll, expect, test } from '@jest/globals';
import { log } from '../log.js';
import { stepsUnderWay } from '../steps.js';
import { withUndo } from './undo.js';

beforeAll(() => {
  log.level = 'silent';
});

test('steps are undone newest first, and a failed step does not stop the others', async () => {
  const undone: string[] = [];
  const story = withUndo('story', async (undo) => {
    undo.push('first', (clean) => undone.push(`first ${clean}`));
    undo.push('second', () => {
      throw new Error('stuck');
    });
    undo.push('third', (clean) => undone.push(`third ${clean}`));
    throw new Error('cause');
  });
  await expect(story).rejects.toThrow('cause');
  expect(undone).toEqual(['third true', 'first false']);
});

test('an undo includes what a part of it could not undo', async () => {
  const undone: boolean[] = [];
  const outer = (stuck: boolean) =>
    withUndo('story', async (undo) => {
      undo.push('record', (clean) => undone.push(clean));
      await withUndo('story', async (inner) => {
        inner.push('made', () => {
          if (stuck) throw new Error('stuck');
        });
        throw new Error('cause');
      });
    });
  for (const stuck of [true, false]) await expect(outer(stuck)).rejects.toThrow('cause');
  expect(undone).toEqual([false, true]);
});

test('each step is known while it lasts, also while it is undone, and none is left', async () => {
  const steps = (): string[] => stepsUnderWay().map(({ step }) => step);
  const seen: string[][] = [];
  const story = withUndo('story', async (undo) => {
    undo.push('first', () => seen.push(steps()));
    seen.push(steps());
    throw new Error('cause');
  });
  await expect(story).rejects.toThrow('cause');
  expect(seen).toEqual([['story: first'], ['story: undo first']]);
  expect(steps()).toEqual([]);
});

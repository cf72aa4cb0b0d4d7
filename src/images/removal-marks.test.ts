import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RemovalMarks } from './removal-marks.js';

const ended = JSON.stringify({ pid: 2 ** 22 + 1, startTime: '7' });

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-removal-marks-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('an image is marked as long as it is being removed, also if that fails', async () => {
  const marks = new RemovalMarks(join(folder, 'made'));
  expect(marks.has('sha256:a')).toBe(false);
  await marks.while('sha256:a', () => {
    expect([marks.has('sha256:a'), marks.has('sha256:b')]).toEqual([true, false]);
    return Promise.resolve();
  });
  expect(marks.has('sha256:a')).toBe(false);
  await expect(marks.while('sha256:a', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  expect(readdirSync(join(folder, 'made'))).toEqual([]);
});

test('the marks of killed processes have no effect, and are removed; those of others are kept', async () => {
  const marks = new RemovalMarks(folder);
  for (const [name, text] of [
    ['sha256_a', ended],
    ['sha256_b', 'not a mark'],
    ['sha256_c', '{}'],
  ] as const) {
    writeFileSync(join(folder, name), text);
    expect(marks.has(name.replace('_', ':'))).toBe(false);
  }
  mkdirSync(join(folder, 'odd'));
  await marks.while('sha256:d', async () => {
    await marks.clean();
    expect(readdirSync(folder)).toEqual(['odd', 'sha256_d']);
  });
  await new RemovalMarks(join(folder, 'none')).clean();
});

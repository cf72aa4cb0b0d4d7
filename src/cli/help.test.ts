import { expect, test } from '@jest/globals';
import { helpOf, overview } from './help.js';
import { commands } from './table.js';

test('the overview is one screen', () => {
  const lines = overview(commands).trimEnd().split('\n');
  expect(lines.length).toBeLessThanOrEqual(40);
  for (const line of lines) expect(line.length).toBeLessThanOrEqual(100);
});

test('other names of a command are shown, and no name is there twice', () => {
  expect(overview(commands)).toContain('  list, ps ');
  const list = commands.find(({ name }) => name === 'list');
  expect(list && helpOf(list)).toContain('Also: crisp ps');
  const names = commands.flatMap(({ name, aliases }) => [name, ...(aliases ?? [])]);
  expect(new Set(names).size).toBe(names.length);
});

import { describe, expect, test } from '@jest/globals';
import { helpOf, overview } from './help.js';
import { commands } from './table.js';

test('the overview is one screen', () => {
  const lines = overview(commands).trimEnd().split('\n');
  expect(lines.length).toBeLessThanOrEqual(40);
  for (const line of lines) expect(line.length).toBeLessThanOrEqual(100);
});

describe('the help of a command is one screen, with every flag', () => {
  test.each(commands.map((command) => [command.name, command] as const))('%s', (_name, command) => {
    const text = helpOf(command);
    const lines = text.trimEnd().split('\n');
    expect(lines.length).toBeLessThanOrEqual(40);
    expect(lines.filter((line) => line.length > 100)).toEqual([]);
    const flags = text.slice(text.indexOf('\nFlags:'), text.indexOf('\nExamples'));
    for (const { flags: named } of command.helpRows ?? [])
      expect(named.filter((name) => !command.flags[name])).toEqual([]);
    for (const [name, { short }] of Object.entries(command.flags)) {
      expect(flags).toMatch(new RegExp(`--${name}\\b`));
      if (short) expect(flags).toMatch(new RegExp(`-${short}, --${name}\\b`));
    }
  });
});

test('other names of a command are shown, and no name is there twice', () => {
  expect(overview(commands)).toContain('  list, ps ');
  const list = commands.find(({ name }) => name === 'list');
  expect(list && helpOf(list)).toContain('Also: crisp ps');
  const names = commands.flatMap(({ name, aliases }) => [name, ...(aliases ?? [])]);
  expect(new Set(names).size).toBe(names.length);
});

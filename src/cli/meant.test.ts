import { expect, test } from '@jest/globals';
import { commands } from './table.js';
import { meant } from './meant.js';

const names = commands.map(({ name }) => name);
test.each([
  ['sotp', 'stop'],
  ['lst', 'list'],
  ['comfig', 'config'],
  ['delte', 'delete'],
  ['complection', 'completion'],
])('%s: %s', (word, name) => {
  expect(meant(word, names)).toBe(` (did you mean ${name}?)`);
});
test.each(['frobnicate', 'x', 'docker'])('%s is close to nothing', (word) => {
  expect(meant(word, names)).toBe('');
});

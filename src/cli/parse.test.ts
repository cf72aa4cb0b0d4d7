import { describe, expect, test } from '@jest/globals';
import { define } from './command.js';
import { parse, UsageError } from './parse.js';

const plain = define({
  name: 'plain',
  group: 'operator',
  summary: '',
  description: [],
  examples: [],
  arguments: [
    { name: 'ONE', summary: '' },
    { name: 'TWO', summary: '', optional: true },
  ],
  flags: {
    file: { value: 'FILE', summary: '' },
    env: { value: 'K=V', short: 'e', multiple: true, summary: '' },
    json: { summary: '' },
  },
  run: async () => 0,
});
const passing = define({
  ...plain,
  name: 'passing',
  arguments: [
    { name: 'IMAGE', summary: '' },
    { name: 'COMMAND', summary: '', optional: true, rest: true },
  ],
  passesOn: true,
  flags: plain.flags,
});

function complaint(command: typeof plain, words: string[]): string {
  try {
    parse(command, words);
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError);
    return (error as Error).message;
  }
  throw new Error('was accepted');
}

describe('parse', () => {
  test('what is not given is undefined, empty or false', () => {
    expect(parse(plain, ['a'])).toEqual({ args: ['a'], flags: { file: undefined, env: [], json: false } });
  });

  test('flags anywhere, in both spellings, repeated where they may be', () => {
    expect(parse(plain, ['--file=x', 'a', '-e', 'A=1', '--env', 'B=2', 'b', '--json'])).toEqual({
      args: ['a', 'b'],
      flags: { file: 'x', env: ['A=1', 'B=2'], json: true },
    });
  });

  test.each(['--help', '-h'])('%s is help, whatever is missing', (word) => {
    expect(parse(plain, [word])).toBe('help');
  });

  test('flags end at the first argument of a command that passes on', () => {
    expect(parse(passing, ['--file', 'x', '-e', 'A=1', 'image', 'ls', '--json', '-e'])).toEqual({
      args: ['image', 'ls', '--json', '-e'],
      flags: { file: 'x', env: ['A=1'], json: false },
    });
    expect(parse(passing, ['--json', '--', '--image'])).toMatchObject({
      args: ['--image'],
      flags: { json: true },
    });
    expect(parse(passing, ['image', '--help'])).toMatchObject({ args: ['image', '--help'] });
  });

  test.each([
    [['a', '--nope'], 'unknown flag --nope'],
    [['a', '-x'], 'unknown flag -x'],
    [['a', '--file'], '--file needs a value'],
    [['a', '-e'], '--env needs a value'],
    [['a', '--json=1'], '--json does not have a value'],
    [[], 'ONE is missing'],
    [['a', 'b', 'c'], 'unexpected argument "c"'],
  ])('%j: %s', (words, message) => {
    expect(complaint(plain, words)).toBe(message);
  });
});

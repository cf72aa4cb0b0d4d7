import { describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { completionScript } from './completion.js';
import { UsageError } from './parse.js';
import { commands } from './table.js';

/** What bash offers after these words. */
function offered(...words: string[]): string[] {
  const script = `${completionScript('bash', commands)}\nCOMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _crisp; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return execFileSync('bash', ['-c', script], { encoding: 'utf8' }).split('\n').filter(Boolean);
}

describe('bash', () => {
  test('commands', () => {
    expect(offered('crisp', '')).toEqual([...commands.map(({ name }) => name), 'help']);
    expect(offered('crisp', 'st').sort()).toEqual(['start', 'state', 'status', 'stop']);
  });
  test('flags of the command', () => {
    expect(offered('crisp', 'stop', '--t')).toEqual(['--time']);
  });
  test('values of a flag', () => {
    expect(offered('crisp', 'run', '--network', '')).toEqual(['none', 'host']);
  });
  test('values of an argument', () => {
    expect(offered('crisp', 'completion', 'f')).toEqual(['fish']);
  });
  test('files', () => {
    expect(offered('crisp', 'explain', 'package.js')).toEqual(['package.json']);
  });
  test('folders, of an argument that is not the first', () => {
    expect(offered('crisp', 'bundle', 'busybox', 'sr')).toEqual(['src']);
  });
});

test.each(['zsh', 'fish'])('%s has every command and flag', (shell) => {
  const script = completionScript(shell, commands);
  for (const command of commands) {
    expect(script).toContain(command.name);
    for (const flag of Object.keys(command.flags))
      expect(script).toContain(shell === 'zsh' ? `--${flag}[` : `-l ${flag} `);
  }
});

test('another shell is refused', () => {
  expect(() => completionScript('tcsh', commands)).toThrow(UsageError);
});

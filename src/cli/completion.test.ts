import { describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { completionScript } from './completion.js';
import { UsageError } from './parse.js';
import { commands } from './table.js';

/** The completions of bash after these words; a word with a leading "/" is a folder of programs. */
function offered(...given: string[]): string[] {
  const folder = given.find((word) => word.startsWith('/'));
  const words = given.filter((word) => word !== folder);
  const script = `${completionScript('bash', commands)}\nCOMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _crisp; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return execFileSync('bash', ['-c', script], {
    encoding: 'utf8',
    env: { PATH: `${folder ?? ''}:${process.env['PATH']}` },
  })
    .split('\n')
    .filter(Boolean);
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
    expect(offered('crisp', 'run', '--network', '')).toEqual(['none', 'host', 'cni']);
  });
  test('values of an argument', () => {
    expect(offered('crisp', 'completion', 'f')).toEqual(['fish']);
  });
  test('flags of a command by its other name', () => {
    expect(offered('crisp', 'rm', '--fo')).toEqual(['--force']);
  });
  test.each(['stop', 'inspect', 'rmi', 'run'])('%s: what this node has', (command) => {
    const folder = mkdtempSync(join(tmpdir(), 'crisp-completion-'));
    const list = `case $1 in list) echo "ID NAME"; echo "1 web";; images) echo "NAME ID"; echo "web 1";; esac`;
    writeFileSync(join(folder, 'crisp'), `#!/bin/sh\n${list}\n`, { mode: 0o755 });
    try {
      expect(offered('crisp', command, 'w', folder)).toEqual(['web']);
    } finally {
      rmSync(folder, { recursive: true });
    }
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

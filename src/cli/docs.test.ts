import { describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { catalogue } from '../errors.js';
import { documents } from './docs.js';
import { commands } from './table.js';

describe('the documents that are made from the code', () => {
  test.each([...documents().keys()])('%s is current (else: npm run docs)', (name) => {
    expect(readFileSync(name, 'utf8')).toBe(documents().get(name));
  });

  test('every command, every flag and every error is in them', () => {
    const reference = documents().get('docs/CLI_REFERENCE.md') ?? '';
    const man = documents().get('docs/man/crisp.1') ?? '';
    for (const command of commands) {
      expect(reference).toContain(`### crisp ${command.name}\n`);
      for (const flag of Object.keys(command.flags))
        expect(man).toContain(`\\-\\-${flag.replaceAll('-', '\\-')}`);
    }
    for (const id of Object.keys(catalogue))
      expect(documents().get('docs/errors.md')).toContain(`| \`${id}\` |`);
  });

  test.each(['crisp.1', 'crisp.yaml.5', 'crisp-serve.8'])(
    'groff finds nothing to complain of in %s',
    (page) => {
      const said = execFileSync('sh', ['-c', `groff -man -ww -Tutf8 docs/man/${page} 2>&1 >/dev/null`], {
        encoding: 'utf8',
      });
      expect(said).toBe('');
    },
  );
});

import { expect, test } from '@jest/globals';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Exits } from './exits.js';

test('a folder that cannot be watched is an error at once', () => {
  const folder = mkdtempSync(join(tmpdir(), 'crisp-exits-'));
  writeFileSync(join(folder, 'file'), '');
  expect(() => new Exits(join(folder, 'file')).watch(() => undefined)).toThrow(/cannot watch .*file: /);
  rmSync(folder, { recursive: true });
});

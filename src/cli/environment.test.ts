import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { environmentOf } from './environment.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-env-'));
  process.env['CRISP_TEST_OWN'] = 'own';
});
afterEach(() => {
  rmSync(folder, { recursive: true });
  delete process.env['CRISP_TEST_OWN'];
});
const file = (text: string): string => {
  const path = join(folder, 'env');
  writeFileSync(path, text);
  return path;
};

test('values, values of the caller, and files under them', async () => {
  const path = file('# a comment\nA=1\r\n\nB=x # y\nCRISP_TEST_OWN\nCRISP_TEST_NONE\n');
  expect(
    await environmentOf({ env: ['A=2=3', 'CRISP_TEST_OWN', 'CRISP_TEST_NONE', 'C='], 'env-file': [path] }),
  ).toEqual(['A=1', 'B=x # y', 'CRISP_TEST_OWN=own', 'A=2=3', 'CRISP_TEST_OWN=own', 'C=']);
});

test('what is wrong is named with its place', async () => {
  await expect(environmentOf({ env: ['=x'], 'env-file': [] })).rejects.toThrow(
    '--env "=x" must be KEY=VALUE',
  );
  await expect(environmentOf({ env: [], 'env-file': [file('A=1\n=x\n')] })).rejects.toThrow(
    `${folder}/env:2: "=x" must be`,
  );
  await expect(environmentOf({ env: [], 'env-file': ['/nonexistent'] })).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: '--env-file: /nonexistent does not exist',
  });
});

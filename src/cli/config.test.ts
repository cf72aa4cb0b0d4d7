import { expect, jest, test } from '@jest/globals';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse } from 'yaml';
import { configSchema, loadConfig } from '../config/config.js';
import { configKeys, jsonSchema } from './config-keys.js';
import { configCommand, documentedDefault } from './config.js';
import { wrap } from './output.js';

test('the documented default is the default', () => {
  const folder = mkdtempSync(join(tmpdir(), 'crisp-default-'));
  try {
    const file = join(folder, 'config.yaml');
    writeFileSync(file, documentedDefault());
    expect(loadConfig(file)).toEqual(configSchema.parse({}));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('every key has a description, and every time a unit', () => {
  for (const key of configKeys()) {
    expect([key.path.join('.'), key.description]).not.toEqual([key.path.join('.'), '']);
    if (key.path.at(-1)?.endsWith('_seconds')) expect(key.unit).toBe('seconds');
  }
});

test('the JSON Schema refuses unknown keys', () => {
  expect(jsonSchema()).toMatchObject({
    type: 'object',
    additionalProperties: false,
    properties: { network: { additionalProperties: false } },
  });
});

test('wrap', () => {
  expect(wrap('a bb ccc dddd', 6)).toEqual(['a bb', 'ccc', 'dddd']);
});

test('--default --json is the same as JSON', () => {
  const written = jest.spyOn(process.stdout, 'write').mockReturnValue(true);
  try {
    expect(configCommand({ config: undefined, default: true, schema: false, json: true })).toBe(0);
    expect(JSON.parse(String(written.mock.calls[0]?.[0]))).toEqual(parse(documentedDefault()));
  } finally {
    written.mockRestore();
  }
});

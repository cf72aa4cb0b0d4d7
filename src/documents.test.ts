// Commands and configurations in the documents are tested, or state why they are not.
import { describe, expect, test } from '@jest/globals';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { blocksOf, documents } from '../test/helpers/documents.js';
import { architecture, rules } from '../test/conformance/architecture.js';
import { checkConfig, configSchema } from './config/config.js';
import type { Source } from './config/source.js';

const blocks = documents().flatMap(blocksOf);

test('there are documents with commands', () => {
  expect(blocks.filter(({ mark }) => mark === 'run').length).toBeGreaterThan(5);
});

describe('a block of commands', () => {
  test.each(blocks.filter(({ language }) => language === 'sh'))(
    '$document:$line is run by a test, or gives the reason why not',
    ({ mark = 'no mark' }) => {
      const [, file] = /^tested by (test\/\S+)$/.exec(mark) ?? [];
      if (file !== undefined) expect(existsSync(file) ? file : `${file} is missing`).toBe(file);
      else expect(mark).toMatch(/^(run|not run: .{10,})$/);
    },
  );

  test.each(documents())('%s has no commands outside a fence', (document) => {
    const lines = readFileSync(document, 'utf8')
      .replace(/^( *)```.*?^\1```$/gms, '')
      .split('\n');
    const indented = lines.filter(
      (line, at) => /^ {4}\S/.test(line) && lines[at - 1] === '' && !/^ *[-*\d]/.test(line),
    );
    expect(indented).toEqual([]);
  });
});

describe('a block of configuration', () => {
  const keys = Object.keys(configSchema.shape);
  const ours = blocks.filter(({ language, text }) => {
    if (language !== 'yaml') return false;
    const found = parse(text) as unknown;
    return (
      typeof found === 'object' && found !== null && Object.keys(found).some((key) => keys.includes(key))
    );
  });

  test('exists', () => expect(ours.length).toBeGreaterThan(1));

  test.each(ours)('$document:$line is valid', ({ text }) => {
    const source = (value: Readonly<Record<string, unknown>>): Source => ({ value, locate: () => undefined });
    // On a Proxmox VE node, which has the folder.
    const node = source({ lxc: { pve_folder: '/' } });
    expect(checkConfig([node, source(parse(text) as Record<string, unknown>)])).toBeDefined();
  });
});

describe('the report on the architecture', () => {
  test('matches the rules', () => {
    expect(readFileSync('docs/architecture/CONFORMANCE_REPORT.md', 'utf8')).toContain(
      architecture.join('\n'),
    );
  });

  test.each(rules)('$rule: its place and its tests exist', ({ place: [file, text], tests }) => {
    expect(readFileSync(file, 'utf8')).toContain(text);
    for (const [path, name] of tests) expect(readFileSync(path, 'utf8')).toContain(`'${name}'`);
  });
});

describe('docs/reliability.md', () => {
  const lines = readFileSync('docs/reliability.md', 'utf8').split('\n');
  const named = lines.flatMap((line) =>
    [...line.matchAll(/`((?:src|test)\/[\w./-]+\.test\.ts)`(?: "([^"]+)")?/g)].map(([, file = '', name]) => ({
      file,
      name,
    })),
  );

  test('names a test for each promise', () => {
    const promises = lines.slice(0, lines.indexOf('<!-- load: begin -->')); // the table after it has measurements
    const rows = promises.filter((line) => /^\|[^-]/.test(line) && !/^\| (Promise|Fault) \|/.test(line));
    expect(rows.length).toBeGreaterThan(25);
    expect(rows.filter((row) => !row.includes('.test.ts`'))).toEqual([]);
  });

  test.each(named)('$file has "$name"', ({ file, name }) => {
    const text = readFileSync(file, 'utf8');
    if (name !== undefined) expect(text).toContain(`'${name}'`);
  });
});

test('the tests that docs/security.md names exist', () => {
  const named = [
    ...readFileSync('docs/security.md', 'utf8').matchAll(/`((?:[\w.-]+\/)*[\w-]+\.test\.ts)`/g),
  ].map(([, name = '']) => name);
  const there = ['src', 'test'].flatMap((root) =>
    readdirSync(root, { recursive: true, encoding: 'utf8' }).map((name) => `${root}/${name}`),
  );
  expect(named.length).toBeGreaterThan(50);
  expect(named.filter((name) => !there.some((path) => `/${path}`.endsWith(`/${name}`)))).toEqual([]);
});

import { beforeAll, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import ts from 'typescript';
import { asserts, testAround, testsThatSay } from '../test/helpers/tests.js';
import { coverage } from './coverage.js';

/** Message -> field -> type, of all that a request can hold. */
function requestMessages(): Map<string, Map<string, string>> {
  const proto = readFileSync('proto/runtime/v1/api.proto', 'utf8').replace(/\/\/.*$/gm, '');
  const all = new Map<string, Map<string, string>>();
  for (const [, name = '', body = ''] of proto.matchAll(/^message (\w+) \{((?:[^{}]|\{[^{}]*\})*)\}/gm)) {
    const fields = body.replace(/enum \w+ \{[^}]*\}/g, '');
    all.set(
      name,
      new Map(
        [...fields.matchAll(/(?:repeated )?(?:map<\w+, *(\w+)>|([\w.]+)) (\w+) = \d+(?: \[[^\]]*\])?;/g)].map(
          ([, value, type, field]) => [field ?? '', value ?? type ?? ''],
        ),
      ),
    );
  }
  const reached = new Map<string, Map<string, string>>();
  const visit = (name: string): void => {
    const fields = all.get(name);
    if (!fields || reached.has(name)) return;
    reached.set(name, fields);
    for (const type of fields.values()) visit(type);
  };
  const requests = [...proto.matchAll(/rpc \w+\((?:stream )?(\w+)\)/g)].map(([, request = '']) => request);
  expect(requests).toHaveLength(43);
  requests.forEach(visit);
  return reached;
}

const messages = requestMessages();

test('every field of every request, and nothing else, has a verdict', () => {
  const inProto = [...messages].flatMap(([name, fields]) =>
    [...fields.keys()].map((field) => `${name}.${field}`),
  );
  const inTable = Object.entries(coverage).flatMap(([name, fields]) =>
    Object.keys(fields).map((field) => `${name}.${field}`),
  );
  expect(inTable.sort()).toEqual(inProto.sort());
});

describe('a field that is applied, rejected or reported is sent by a test in the named file', () => {
  let sent: ReturnType<typeof sentFields>;
  beforeAll(() => {
    sent = sentFields([
      ...new Set(
        Object.values(coverage)
          .flatMap((fields) => Object.values(fields))
          .flatMap(({ test: file }) => file ?? []),
      ),
    ]);
  }, 120_000);
  test.each(Object.entries(coverage))('%s', (message, fields) => {
    const unsent = Object.entries(fields).filter(([name, { oci, test: file }]) =>
      oci === 'none' ? file !== undefined : !file || !sent.get(file)?.has(`${message}.${name}`),
    );
    expect(unsent.map(([name, { test: file }]) => `${name}: not in ${file}`)).toEqual([]);
  });
});

/**
 * File -> "Message.field" of each object that the compiler knows for a message of the CRI: a name alone would also
 * be found in another message. Only of tests that run and expect something, and of what is outside of tests.
 */
function sentFields(files: readonly string[]): Map<string, Set<string>> {
  const { config } = ts.readConfigFile('tsconfig.json', ts.sys.readFile) as { config: unknown };
  const program = ts.createProgram(files, ts.parseJsonConfigFileContent(config, ts.sys, '.').options);
  const checker = program.getTypeChecker();
  const messagesOf = (type: ts.Type): string[] => {
    if (type.isUnionOrIntersection()) return type.types.flatMap(messagesOf);
    return type.symbol?.declarations?.some((declaration) =>
      declaration.getSourceFile().fileName.includes('/generated/'),
    )
      ? [type.symbol.name]
      : [];
  };
  return new Map(
    files.map((file) => {
      const fields = new Set<string>();
      const visit = (node: ts.Node): void => {
        const type = ts.isObjectLiteralExpression(node) ? checker.getContextualType(node) : undefined;
        const test = type && testAround(node);
        for (const message of type && (!test || asserts(test)) ? messagesOf(type) : []) {
          for (const { name } of (node as ts.ObjectLiteralExpression).properties)
            if (name) fields.add(`${message}.${name.getText().replaceAll("'", '')}`);
        }
        ts.forEachChild(node, visit);
      };
      const source = program.getSourceFile(file);
      if (source) visit(source);
      return [file, fields];
    }),
  );
}

test('comments, skipped tests and tests without expectations do not count', () => {
  const told = (text: string) => testsThatSay('any.test.ts', text, 'Word');
  expect(told("// Word\ntest('a', () => { expect(1); });")).toEqual([]);
  expect(told("test.skip('a', () => { expect('Word'); });")).toEqual([]);
  expect(told("describe.skip('x', () => { test('a', () => { expect('Word'); }); });")).toEqual([]);
  expect(told("test('a', () => { call('Word'); });")).toEqual([]);
  expect(told("test('a', () => { expect(/^Word: /); });")).toEqual(["'a'"]);
  expect(told("const it = 'Word'; test.each([1])('a', () => { expect(it); });")).toEqual(["'a'"]);
});

test('a field without effect on both backends has a note', () => {
  const silent = Object.entries(coverage).flatMap(([name, fields]) =>
    Object.entries(fields)
      .filter(([, { oci, note }]) => oci === 'none' && !note)
      .map(([field]) => `${name}.${field}`),
  );
  expect(silent).toEqual([]);
});

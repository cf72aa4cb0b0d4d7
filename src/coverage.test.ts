import { beforeAll, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import ts from 'typescript';
import { assertionsOf, asserts, testAround, testsThatSay } from '../test/helpers/tests.js';
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

describe('a field that is applied, rejected or reported is sent by a test that asserts its effect', () => {
  let proofs: Awaited<ReturnType<typeof proofsIn>>;
  beforeAll(async () => {
    proofs = await proofsIn([
      ...new Set(
        Object.values(coverage)
          .flatMap((fields) => Object.values(fields))
          .flatMap(({ test: file }) => file ?? []),
      ),
    ]);
  }, 120_000);
  test.each(Object.entries(coverage))('%s', (message, fields) => {
    const unproven = Object.entries(fields).filter(([name, { oci, test: file, effect }]) =>
      oci === 'none'
        ? file !== undefined || effect !== undefined
        : !file || !effect || !proofs(file, `${message}.${name}`, effect),
    );
    expect(unproven.map(([name, { test: file, effect }]) => `${name}: no ${effect} in ${file}`)).toEqual([]);
  });
});

interface Test {
  /** "Message.field" of each request in it. */
  readonly sent: Set<string>;
  /** The text of its assertions, without the requests in them. */
  readonly asserted: string;
}

/**
 * Whether a test of a file that runs sends a field, itself or by what is outside of tests, and has a text in its
 * assertions. The compiler knows which object is a message of the CRI: a name alone would also be found in another
 * message, and the value that is sent would pass for the effect.
 */
async function proofsIn(
  files: readonly string[],
): Promise<(file: string, field: string, effect: string) => boolean> {
  const { config } = ts.readConfigFile('tsconfig.json', ts.sys.readFile) as { config: unknown };
  const defaults = 'test/helpers/requests.ts';
  const all = [...files, defaults];
  const program = ts.createProgram(all, ts.parseJsonConfigFileContent(config, ts.sys, '.').options);
  const read = new Map<string, ReturnType<typeof testsOf>>();
  for (const file of all) {
    await nextTurn(); // the compiler takes seconds, and test/environment.mjs ends a process that blocks the event loop
    read.set(file, testsOf(program, program.getSourceFile(file)!));
  }
  return (file, field, effect) =>
    (read.get(file)?.tests ?? []).some(
      ({ sent, asserted }) =>
        asserted.includes(effect) &&
        [sent, read.get(file)?.outside, read.get(defaults)?.outside].some((some) => some?.has(field)),
    );
}

function testsOf(program: ts.Program, source: ts.SourceFile): { tests: Test[]; outside: Set<string> } {
  const checker = program.getTypeChecker();
  const messagesOf = (type: ts.Type): string[] => {
    if (type.isUnionOrIntersection()) return type.types.flatMap(messagesOf);
    return type.symbol?.declarations?.some((declaration) =>
      declaration.getSourceFile().fileName.includes('/generated/'),
    )
      ? [type.symbol.name.replace('__Output', '')]
      : [];
  };
  const requestOf = (node: ts.Node): string[] => {
    const type = ts.isObjectLiteralExpression(node) ? checker.getContextualType(node) : undefined;
    return type ? messagesOf(type) : [];
  };
  const found = new Map<ts.CallExpression | undefined, Set<string>>();
  const visit = (node: ts.Node): void => {
    const test = testAround(node);
    const sent = found.get(test) ?? new Set();
    found.set(test, sent);
    for (const message of requestOf(node))
      for (const { name } of (node as ts.ObjectLiteralExpression).properties)
        if (name) sent.add(`${message}.${name.getText().replaceAll("'", '')}`);
    ts.forEachChild(node, visit);
  };
  visit(source);
  const tests = [...found].flatMap(([test, sent]) =>
    test && asserts(test)
      ? [{ sent, asserted: assertionsOf(test, (node) => requestOf(node).length > 0).join('\n') }]
      : [],
  );
  return { tests, outside: found.get(undefined) ?? new Set() };
}

test('comments, skipped tests and tests without expectations do not count', () => {
  const told = (text: string) => testsThatSay('any.test.ts', text, 'Word');
  expect(told("// Word\ntest('a', () => { expect(1); });")).toEqual([]);
  expect(told("test.skip('a', () => { expect('Word'); });")).toEqual([]);
  expect(told("describe.skip('x', () => { test('a', () => { expect('Word'); }); });")).toEqual([]);
  expect(told("test('a', () => { call('Word'); });")).toEqual([]);
  expect(told("test('a', () => { call('Word'); expect(1); });")).toEqual([]);
  expect(told("test('a', () => { expect(/^Word: /); });")).toEqual(["'a'"]);
  expect(told("const it = 'Word'; test.each([1])('a', () => { expect(it); });")).toEqual(["'a'"]);
});

test('the assertions of a test are its expectations and the rows of its tables, without the requests', () => {
  const asserted = (text: string) => {
    const source = ts.createSourceFile('any.test.ts', text, ts.ScriptTarget.Latest, true);
    const test = (source.statements[0] as ts.ExpressionStatement).expression as ts.CallExpression;
    return assertionsOf(test, ts.isObjectLiteralExpression);
  };
  expect(asserted("test('a', () => { call({ a: 1 }); expect(of({ a: 1 })).toEqual([2]); });")).toEqual([
    'expect(of()).toEqual([2])',
  ]);
  expect(asserted("test.each([[{ a: 1 }, 'x']])('%j', (a, x) => { expect(a).not.toBe(x); });")).toEqual([
    "[, 'x']",
    'expect(a).not.toBe(x)',
  ]);
});

test('a field without effect on both backends has a note', () => {
  const silent = Object.entries(coverage).flatMap(([name, fields]) =>
    Object.entries(fields)
      .filter(([, { oci, note }]) => oci === 'none' && !note)
      .map(([field]) => `${name}.${field}`),
  );
  expect(silent).toEqual([]);
});

import { describe, expect, test } from '@jest/globals';
import { existsSync, readFileSync } from 'node:fs';
import { coverage } from './coverage.js';

/** Message -> field -> type, of all that a request can hold. */
function requestMessages(): Map<string, Map<string, string>> {
  const proto = readFileSync('proto/runtime/v1/api.proto', 'utf8').replace(/\/\/.*$/gm, '');
  const all = new Map<string, Map<string, string>>();
  for (const [, name = '', body = ''] of proto.matchAll(/^message (\w+) \{((?:[^{}]|\{[^{}]*\})*)\}/gm)) {
    const fields = body.replace(/enum \w+ \{[^}]*\}/g, '');
    all.set(name, new Map([...fields.matchAll(/(?:repeated )?(?:map<\w+, *(\w+)>|([\w.]+)) (\w+) = \d+(?: \[[^\]]*\])?;/g)].map(([, value, type, field]) => [field ?? '', value ?? type ?? ''])));
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

test('every field of every request has a verdict, and nothing else has', () => {
  const inProto = [...messages].flatMap(([name, fields]) => [...fields.keys()].map((field) => `${name}.${field}`));
  const inTable = Object.entries(coverage).flatMap(([name, fields]) => Object.keys(fields).map((field) => `${name}.${field}`));
  expect(inTable.sort()).toEqual(inProto.sort());
});

describe('a field that is applied, rejected or reported is sent by the test that is named', () => {
  test.each(Object.entries(coverage))('%s', (_, fields) => {
    const unsent = Object.entries(fields).filter(([name, { oci, test: file }]) => (oci === 'none' ? file !== undefined : !file || !existsSync(file) || !sends(readFileSync(file, 'utf8'), name)));
    expect(unsent.map(([name, { test: file }]) => `${name}: not in ${file}`)).toEqual([]);
  });
});

/** As a key of an object, or as a shorthand of one; behind convert.ts our own names stand for the wire's. */
function sends(source: string, field: string): boolean {
  const ours = field.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
  return new RegExp(`(?<![\\w.'])(${field}|${ours})'?(\\s*:|\\s*[,}])`).test(source);
}

test('what has no effect on either backend says why', () => {
  const silent = Object.entries(coverage).flatMap(([name, fields]) => Object.entries(fields).filter(([, { oci, note }]) => oci === 'none' && !note).map(([field]) => `${name}.${field}`));
  expect(silent).toEqual([]);
});

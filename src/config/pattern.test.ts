import { describe, expect, test } from '@jest/globals';
import { pattern } from './pattern.js';

describe('a glob', () => {
  test.each([
    ['kube-*', 'kube-system', true],
    ['kube-*', 'my-kube-system', false],
    ['*-db', 'a-db-db', true],
    ['a*b*c', 'aXbYbZc', true],
    ['a*b*c', 'aXbYbZ', false],
    ['web-?', 'web-1', true],
    ['web-?', 'web-', false],
    ['*', '', true],
    ['', '', true],
    ['', 'x', false],
    ['a.c', 'abc', false],
    ['[ab]', 'a', false],
    ['docker.io/library/*', 'docker.io/library/busybox:1', true],
  ])('%s on "%s" is %s', (glob, value, expected) => {
    expect(pattern(glob)(value)).toBe(expected);
  });

  test('with many stars terminates on a long value', () => {
    expect(pattern(`${'a*'.repeat(20)}b`)('a'.repeat(5_000))).toBe(false); // with backtracking this runs for years
  });
});

describe('a regular expression', () => {
  test.each([
    ['/v\\d+/', 'v12', true],
    ['/v\\d+/', 'xv12', false],
    ['/v\\d+/', 'v12x', false],
    ['/a|b/', 'ab', false],
    ['/a.b/', 'a\nb', true],
    ['/a|ab/', 'ab', true],
    ['/.{3}/', 'aé😀', true],
    ['/\\p{Lu}.*/', 'Éa', true],
  ])('%s on "%s" is %s: the whole value must match', (text, value, expected) => {
    expect(pattern(text)(value)).toBe(expected);
  });

  test('with a syntax error is refused when it is compiled', () => {
    expect(() => pattern('/(/')).toThrow(SyntaxError);
  });

  test('cannot escape its anchors', () => {
    expect(() => pattern('/a)|(b/')).toThrow(SyntaxError);
  });

  test('has flags: read as a glob it would silently never match', () => {
    expect(() => pattern('/web/i')).toThrow(/has flags/);
    expect(pattern('/srv/*')('/srv/data')).toBe(true);
  });

  test('that makes a backtracking engine slow is matched at once', () => {
    expect(pattern('/(a+)+b/')('a'.repeat(10_000))).toBe(false);
    expect(pattern('/(a+)+b/')(`${'a'.repeat(10_000)}b`)).toBe(true);
  });

  test.each(['/(?=a)b/', '/(a)\\1/'])(
    '%s, which a linear engine does not support, is refused when it is compiled',
    (text) => {
      expect(() => pattern(text)).toThrow(SyntaxError);
    },
  );
});

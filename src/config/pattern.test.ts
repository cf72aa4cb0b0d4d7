import { describe, expect, test } from '@jest/globals';
import { CrispError } from '../errors.js';
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

  test('with many stars ends on a long value', () => {
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
  ])('%s on "%s" is %s: it must match whole', (text, value, expected) => {
    expect(pattern(text)(value)).toBe(expected);
  });

  test('that does not parse is refused when it is made', () => {
    expect(() => pattern('/(/')).toThrow(SyntaxError);
  });

  test('cannot step out of its anchors', () => {
    expect(() => pattern('/a)|(b/')).toThrow(SyntaxError);
  });

  test('has flags: as a glob it would never match, and nobody would notice', () => {
    expect(() => pattern('/web/i')).toThrow(/has flags/);
    expect(pattern('/srv/*')('/srv/data')).toBe(true);
  });

  test('that backtracks without end is stopped, and the caller hears of it', () => {
    let error: unknown;
    try {
      pattern('/(a+)+b/')('a'.repeat(50));
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(CrispError);
    expect((error as CrispError).id).toBe('RuleTimeout');
    expect(pattern('/(a+)+b/')('aab')).toBe(true);
  });
});

import { describe, expect, test } from '@jest/globals';
import { status } from '@grpc/grpc-js';
import { CrispError, cut, lastLines, toStatus } from './errors.js';

describe('toStatus', () => {
  test('the message carries id, stage, tool, stderr and hint', () => {
    const error = new CrispError('CniFailed', 'plugin bridge failed', {
      stage: 'cni add',
      tool: 'bridge',
      stderr: 'no\nroom\n',
      hint: 'make room',
    });
    expect(toStatus(error)).toEqual({
      code: status.UNAVAILABLE,
      details:
        'CniFailed: plugin bridge failed; [stage: cni add, tool: bridge]; stderr: no | room; hint: make room',
    });
  });

  test('a full disk is always RESOURCE_EXHAUSTED', () => {
    expect(toStatus(Object.assign(new Error('write failed'), { code: 'ENOSPC' })).code).toBe(
      status.RESOURCE_EXHAUSTED,
    );
  });

  test.each(['EMFILE', 'ENFILE', 'EAGAIN'])('%s is an exceeded limit, not a defect', (code) => {
    expect(toStatus(Object.assign(new Error('open failed'), { code }))).toEqual({
      code: status.RESOURCE_EXHAUSTED,
      details: expect.stringMatching(/^LimitReached: open failed; hint: /),
    });
  });

  test('a read-only filesystem is not a permission error', () => {
    expect(toStatus(Object.assign(new Error('write failed'), { code: 'EROFS' })).details).toMatch(
      /^StorageFailed: write failed; hint: .*read-only/,
    );
  });

  test('an unknown failure is reported as a defect', () => {
    expect(toStatus(new TypeError('x is not a function'))).toEqual({
      code: status.INTERNAL,
      details: expect.stringMatching(/^Internal: x is not a function; hint: please report/),
    });
  });
});

test('lastLines keeps the end and removes control characters', () => {
  expect(lastLines('a\u001b[31m\nb', 10)).toBe('a [31m | b');
  expect(lastLines('x'.repeat(20), 5)).toBe('…xxxxx');
});

describe('a report', () => {
  test('has a limited length, is cut between characters, and keeps its hint', () => {
    for (const character of ['x', 'é', '日', '\u{1f642}']) {
      const { report } = new CrispError('InvalidArgument', character.repeat(1_000_000), {
        stderr: 'y'.repeat(100_000),
        hint: 'shorten it',
      });
      expect(Buffer.byteLength(report)).toBeLessThanOrEqual(8192);
      expect(Buffer.byteLength(report)).toBeGreaterThan(8000);
      expect(report).toMatch(/….*; hint: shorten it$/);
      expect(report).not.toContain('\ufffd');
    }
  });
  test('has no empty hint, and the message of a tool only once', () => {
    expect(new CrispError('InvalidArgument', 'x is missing').report).toBe('InvalidArgument: x is missing');
    expect(
      new CrispError('RuntimeFailed', 'crun failed: no\n', { tool: 'crun', stderr: 'no\n' }).report,
    ).toBe('RuntimeFailed: crun failed: no\\x0a; [tool: crun]');
  });
  test('escapes terminal control sequences', () => {
    expect(new CrispError('InvalidArgument', 'a\u001b[31m\nb\u202e\u0085', { hint: 'c\rd' }).report).toBe(
      'InvalidArgument: a\\x1b[31m\\x0ab\\u202e\\x85; hint: c\\x0dd',
    );
  });
});

test('cut keeps short text, and leaves no half of a surrogate pair', () => {
  expect(cut('short', 5)).toBe('short');
  expect(cut('\u{1f642}\u{1f642}', 7)).toBe('\u{1f642}…');
  expect(cut('\ud83d', 10)).toBe('\ufffd');
});

test.each(['EEXIST', 'ENAMETOOLONG', 'ENOTDIR', 'ELOOP', 'ERR_INVALID_ARG_VALUE'])(
  '%s concerns the requested object',
  (code) => {
    expect(toStatus(Object.assign(new Error('open failed'), { code })).code).toBe(status.INVALID_ARGUMENT);
  },
);

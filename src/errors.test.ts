import { describe, expect, test } from '@jest/globals';
import { status } from '@grpc/grpc-js';
import { CrispError, lastLines, toStatus } from './errors.js';

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

  test('a full disk is RESOURCE_EXHAUSTED wherever it is met', () => {
    expect(toStatus(Object.assign(new Error('write failed'), { code: 'ENOSPC' })).code).toBe(
      status.RESOURCE_EXHAUSTED,
    );
  });

  test('an unknown failure says that it is a defect', () => {
    expect(toStatus(new TypeError('x is not a function'))).toEqual({
      code: status.INTERNAL,
      details: expect.stringMatching(/^Internal: x is not a function; hint: please report/),
    });
  });
});

test('lastLines keeps the end and drops control characters', () => {
  expect(lastLines('a\u001b[31m\nb', 10)).toBe('a [31m | b');
  expect(lastLines('x'.repeat(20), 5)).toBe('…xxxxx');
});

import { expect, test } from '@jest/globals';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { isJournal, syslogPriority, textLine } from './log.js';

const line = (fields: object): string => `${JSON.stringify(fields)}\n`;

test('a line in text format: time, level, message, fields', () => {
  const time = '2026-11-29T02:53:11.123Z';
  expect(
    textLine(
      line({
        level: 'warn',
        time,
        handler: 'crun',
        reason: 'it "is" old',
        lacks: { a: 1 },
        msg: 'not ready',
      }),
      false,
    ).replace(/^\d\d/, 'HH'),
  ).toBe('HH:53:11.123 WARN  not ready  handler=crun  reason="it \\"is\\" old"  lacks={"a":1}\n');
});

test('colours are used only on request, and the stack of an error follows on its own lines', () => {
  const json = line({
    level: 'error',
    time: '2026-11-29T02:53:11.123Z',
    err: { type: 'Error', message: 'broken', stack: 'Error: broken\n    at here' },
  });
  expect(textLine(json, true)).toContain('\x1b[31mERROR\x1b[0m broken');
  expect(textLine(json, false)).not.toContain('\x1b');
  expect(textLine(json, false)).toMatch(/broken\n {4}Error: broken\n {8}at here\n$/);
});

test('foreign names cannot send terminal control sequences', () => {
  const json = line({
    level: 'info',
    time: '2026-11-29T02:53:11.123Z',
    msg: 'a\u001b[2J\nb',
    pod: '\u009b2J',
  });
  expect(textLine(json, false)).toMatch(/INFO {2}a\\x1b\[2J\\x0ab {2}pod=\\x9b2J\n$/);
});

test.each([
  ['trace', 7],
  ['debug', 7],
  ['info', 6],
  ['warn', 4],
  ['error', 3],
  ['fatal', 2],
])('%s has the priority %d of syslog', (level, priority) => {
  expect(syslogPriority(line({ level, msg: '"level":"info"' }))).toBe(priority);
});

test('the journal is recognized by device and inode', () => {
  const descriptor = openSync('/dev/zero', 'r');
  try {
    const { dev, ino } = fstatSync(descriptor, { bigint: true });
    expect(isJournal(descriptor, `${dev}:${ino}`)).toBe(true);
    expect(isJournal(descriptor, `${dev}:${ino + 1n}`)).toBe(false);
    expect(isJournal(descriptor, undefined)).toBe(false);
  } finally {
    closeSync(descriptor);
  }
});

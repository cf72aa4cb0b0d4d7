import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { logPathOf } from './log-path.js';

let folder: string;
beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'crisp-log-path-')));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('a log is below the log folder of its pod; without both there is no log', async () => {
  expect(await logPathOf('/none/pod', 'a/0.log')).toBe('/none/pod/a/0.log');
  expect(await logPathOf('/none/pod/', '0.log')).toBe('/none/pod/0.log');
  expect([await logPathOf('', '0.log'), await logPathOf('/none/pod', '')]).toEqual(['', '']);
});

test.each(['../0.log', 'a/../../0.log', '/etc/passwd', '/none/pod/0.log', '../pod-2/0.log', '.'])(
  'a log path outside the log folder is refused: %s',
  async (path) => {
    await expect(logPathOf('/none/pod', path)).rejects.toMatchObject({ id: 'PathEscapes' });
  },
);

test('links above the log folder are resolved, those at and below it are not', async () => {
  mkdirSync(join(folder, 'real', 'pods'), { recursive: true });
  symlinkSync('real', join(folder, 'log'));
  symlinkSync('/elsewhere', join(folder, 'real', 'pods', 'pod'));
  expect(await logPathOf(join(folder, 'log', 'pods', 'pod'), '0.log')).toBe(
    join(folder, 'real', 'pods', 'pod', '0.log'),
  );
});

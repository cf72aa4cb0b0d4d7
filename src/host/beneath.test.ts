// Opening without following links.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { linkSync, statSync, symlinkSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openFolder, openToAppend, readTail } from './beneath.js';
import { present } from '../../test/helpers/offenders.js';

let base: string;
beforeEach(() => {
  base = realpathSync(mkdtempSync(join(tmpdir(), 'crisp-beneath-')));
  mkdirSync(join(base, 'outside'));
  writeFileSync(join(base, 'outside/file'), 'theirs\n');
});
afterEach(() => rmSync(base, { recursive: true }));

test('a file and its parent folders are created, and an existing file is appended to', () => {
  for (const text of ['one\n', 'two\n']) {
    const file = openToAppend(join(base, 'a/b/log'), 0o640);
    writeSync(file, text);
    closeSync(file);
  }
  expect(readFileSync(join(base, 'a/b/log'), 'utf8')).toBe('one\ntwo\n');
  expect(statSync(join(base, 'a/b/log')).mode & 0o777).toBe(0o640);
  expect(readTail(join(base, 'a/b/log'), 4)).toBe('two\n');
});

test('a fresh file replaces an existing one, also a link', () => {
  symlinkSync(join(base, 'outside/file'), join(base, 'log'));
  closeSync(openToAppend(join(base, 'log'), 0o640, true));
  expect(readFileSync(join(base, 'log'), 'utf8')).toBe('');
  expect(readFileSync(join(base, 'outside/file'), 'utf8')).toBe('theirs\n');
});

test('links are not followed, and only regular files with one name are opened', () => {
  symlinkSync(join(base, 'outside'), join(base, 'folder'));
  symlinkSync(join(base, 'outside/new'), join(base, 'dangling'));
  symlinkSync(join(base, 'outside/file'), join(base, 'link'));
  linkSync(join(base, 'outside/file'), join(base, 'hard'));
  execFileSync('mkfifo', [join(base, 'fifo')]);
  const refused = {
    folder: 'PathEscapes',
    dangling: 'PathEscapes',
    link: 'PathEscapes',
    'folder/x': 'PathEscapes',
  };
  const wrong = {
    hard: 'InvalidArgument',
    fifo: 'InvalidArgument',
    outside: 'InvalidArgument',
    'hard/x': 'InvalidArgument',
  };
  for (const [name, id] of Object.entries({ ...refused, ...wrong, ['a'.repeat(256)]: 'InvalidArgument' })) {
    const message = expect.stringMatching(`^${base}/`); // the path of the caller
    expect(() => openToAppend(join(base, name), 0o640)).toThrow(expect.objectContaining({ id, message }));
    expect(readTail(join(base, name), 10)).toBeUndefined();
  }
  expect(present(join(base, 'outside/new'))).toEqual([]);
  expect(present(join(base, 'outside/x'))).toEqual([]);
});

test('no descriptor is left, whether a file is opened, absent or refused', () => {
  symlinkSync(join(base, 'outside/file'), join(base, 'link'));
  const all = (): void => {
    closeSync(openToAppend(join(base, 'log'), 0o640));
    closeSync(openToAppend(join(base, 'log'), 0o640, true));
    for (const name of ['log', 'none', 'link', 'none/log']) readTail(join(base, name), 10);
    expect(() => openToAppend(join(base, 'link'), 0o640)).toThrow('symbolic link');
  };
  all();
  const before = readdirSync('/proc/self/fd').length;
  for (let time = 0; time < 10; time++) all();
  expect(readdirSync('/proc/self/fd').length).toBeLessThan(before + 10);
});

test('the created folders are returned', () => {
  const made: string[] = [];
  closeSync(openFolder(join(base, 'outside/a/b'), 0o755, made));
  expect(made).toEqual([join(base, 'outside/a'), join(base, 'outside/a/b')]);
  expect(() => openFolder(join(base, 'none'))).toThrow(/ENOENT/);
});

// Minor 253 of misc devices has no driver: open(2) fails with ENODEV, stat(2) does not.
test('a device is recognized without being opened', () => {
  execFileSync('mknod', [join(base, 'device'), 'c', '10', '253']);
  expect(() => openToAppend(join(base, 'device'), 0o640)).toThrow(/not a regular file/);
  expect(readTail(join(base, 'device'), 10)).toBeUndefined();
});

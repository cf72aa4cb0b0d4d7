import { afterEach, beforeEach, expect, test } from '@jest/globals';
import {
  appendFileSync,
  existsSync,
  linkSync,
  readdirSync,
  mkdtempSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { linkLog, logLink, tryLog } from './log-file.js';

let folder: string;
let bundle: string;
let log: string;
let umask: number;
beforeEach(() => {
  umask = process.umask(0);
  folder = mkdtempSync(join(tmpdir(), 'crisp-log-'));
  bundle = join(folder, 'bundle');
  log = join(folder, 'pod/web/0.log');
  mkdirSync(bundle);
});
afterEach(() => {
  process.umask(umask);
  rmSync(folder, { recursive: true });
});

test('the link leads to the log, which is made for its owner and group alone, until it is closed', () => {
  const close = linkLog(bundle, log);
  appendFileSync(join(bundle, logLink), 'line\n');
  expect(readFileSync(log, 'utf8')).toBe('line\n');
  expect((statSync(log).mode & 0o777).toString(8)).toBe('640');
  expect(readlinkSync(join(bundle, logLink))).toMatch(new RegExp(`^/proc/${process.pid}/fd/\\d+$`));
  close();
  expect(existsSync(join(bundle, logLink))).toBe(false); // dangling
});

test('it replaces an earlier link, also one that a crash left half made, and keeps what the log has', () => {
  writeFileSync(join(bundle, `.${logLink}`), 'left');
  mkdirSync(join(folder, 'pod/web'), { recursive: true });
  writeFileSync(log, 'earlier\n');
  linkLog(bundle, log)();
  const close = linkLog(bundle, log);
  appendFileSync(join(bundle, logLink), 'later\n');
  close();
  expect(readFileSync(log, 'utf8')).toBe('earlier\nlater\n');
});

test('a fresh log is another file, under a link of another name', () => {
  linkLog(bundle, log)();
  writeFileSync(log, 'earlier\n');
  linkSync(log, join(folder, 'held'));
  linkLog(bundle, log, 'next', true)();
  expect([readFileSync(log, 'utf8'), readFileSync(join(folder, 'held'), 'utf8')]).toEqual(['', 'earlier\n']);
  expect(readlinkSync(join(bundle, 'next'))).toContain('/fd/');
});

test('a link that cannot be made leaves no open file', () => {
  const opened = (): number =>
    readdirSync('/proc/self/fd').filter((fd) => isLog(`/proc/self/fd/${fd}`)).length;
  const isLog = (descriptor: string): boolean => {
    try {
      return readlinkSync(descriptor) === log;
    } catch {
      return false; // the folder that is read here
    }
  };
  expect(() => linkLog(join(folder, 'absent'), log)).toThrow(/ENOENT/);
  expect(opened()).toBe(0);
  const close = linkLog(bundle, log);
  expect(opened()).toBe(1);
  close();
});

test('a path with a link of the pod is refused, by the trial as well', () => {
  mkdirSync(join(folder, 'pod'));
  symlinkSync('/etc', join(folder, 'pod/web'));
  for (const attempt of [() => linkLog(bundle, log), () => tryLog(log)])
    expect(attempt).toThrow(expect.objectContaining({ id: 'PathEscapes' }));
  const good = join(folder, 'good.log');
  tryLog(good);
  expect((statSync(good).mode & 0o777).toString(8)).toBe('640');
});
